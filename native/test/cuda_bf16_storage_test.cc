// Ops whose operands or results are stored as bf16, in every mixture that programs ask for. Operands are numbers that bf16 holds, so that the
// double-precision reference is the same for each mixture; what is left is f32 arithmetic and the rounding of a result that is stored as bf16.
#include <array>

#include "cuda_bf16.h"

using namespace trefoil::test;

namespace {

// f32 arithmetic of a few steps on every term: relative to the sum of their sizes.
constexpr double kFew = 0x1p-20;
// Sums of k terms, in any order, through tensor cores that may truncate where they align.
double sum_slack(int64_t k) { return static_cast<double>(k + 8) * 0x1p-23; }

I32 positions_of(int64_t batch, int64_t length) {
  I32 positions({batch, length});
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i * 7 % 11);
  return positions;
}

}  // namespace

TEST(cuda_bf16_storage_rms_norm) {
  for_each_bf16_device(device, [](Device& other) {
    std::mt19937 generator(1);
    // A warp or a block to a row; rows in registers, and (6, 2051) read again.
    for (int64_t n : {6, 64, 600, 2051}) {
      const int64_t rows = 3;
      Stored x(generator, {rows, n}), dy(generator, {rows, n}), y({rows, n}), dx({rows, n});
      F32 weight = normal(generator, {n}), rstd({rows}), dweight({n});
      Doubles expected_y(x.size()), expected_dx(x.size()), terms_y(x.size()), terms_dx(x.size()), expected_dw(n), terms_dw(n), roots(rows);
      for (int64_t r = 0; r < rows; ++r) {
        double squares = 0, inner = 0, inner_terms = 0;
        for (int64_t i = 0; i < n; ++i) squares += x[r * n + i] * x[r * n + i];
        const double root = roots[r] = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
        for (int64_t i = 0; i < n; ++i) {
          const double z = x[r * n + i] * root, share = dy[r * n + i] * weight[i] * z / static_cast<double>(n);
          expected_y[r * n + i] = z * weight[i], terms_y[r * n + i] = std::fabs(z * weight[i]);
          inner += share, inner_terms += std::fabs(share);
          expected_dw[i] += dy[r * n + i] * z, terms_dw[i] += std::fabs(dy[r * n + i] * z);
        }
        for (int64_t i = 0; i < n; ++i) {
          const double z = x[r * n + i] * root, g = dy[r * n + i] * weight[i];
          expected_dx[r * n + i] = root * (g - z * inner), terms_dx[r * n + i] = root * (std::fabs(g) + std::fabs(z) * inner_terms);
        }
      }
      for (int form = 0; form < 8; ++form) {
        const bool half_x = form & 1, half_dy = form & 2, half_to = form & 4;
        launch(other, "rms_norm", {x.as(half_x), view(weight)}, {y.as(half_to), view(rstd)}, {1e-5});
        y.check(expected_y, terms_y, kFew + sum_slack(n) / 8, "y");  // a root of a sum of squares: no cancellation
        check_close(rstd, roots, 1e-6, 0, "rstd");
        launch(other, "rms_norm_grad", {dy.as(half_dy), x.as(half_x), view(weight), view(rstd)}, {dx.as(half_to), view(dweight)});
        dx.check(expected_dx, terms_dx, kFew + sum_slack(n), "dx");
        for (int64_t i = 0; i < n; ++i) CHECK(std::fabs(dweight[i] - expected_dw[i]) <= kFew * terms_dw[i]);
      }
    }
  });
}

TEST(cuda_bf16_storage_swiglu) {
  for_each_bf16_device(device, [](Device& other) {
    std::mt19937 generator(2);
    for (int64_t f : {8, 7}) {
      const int64_t rows = 5;
      Stored x(generator, {rows, 2 * f}, 3), dy(generator, {rows, f}), y({rows, f}), dx({rows, 2 * f});
      Doubles expected_y(y.size()), expected_dx(dx.size()), terms_dx(dx.size());
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < f; ++i) {
          const double gate = x[r * 2 * f + i], up = x[r * 2 * f + f + i], d = dy[r * f + i], s = 1 / (1 + std::exp(-gate));
          expected_y[r * f + i] = gate * s * up;
          expected_dx[r * 2 * f + i] = d * up * (s + gate * s * (1 - s)), terms_dx[r * 2 * f + i] = std::fabs(d * up) * (s + std::fabs(gate) * s * (1 - s));
          expected_dx[r * 2 * f + f + i] = d * gate * s, terms_dx[r * 2 * f + f + i] = std::fabs(d * gate * s);
        }
      Doubles terms_y(y.size());
      for (size_t i = 0; i < y.size(); ++i) terms_y[i] = std::fabs(expected_y[i]);
      for (int form = 0; form < 8; ++form) {
        launch(other, "swiglu", {x.as(form & 1)}, {y.as(form & 4)});
        y.check(expected_y, terms_y, kFew, "y");
        launch(other, "swiglu_grad", {x.as(form & 1), dy.as(form & 2)}, {dx.as(form & 4)});
        dx.check(expected_dx, terms_dx, kFew, "dx");
      }
    }
  });
}

TEST(cuda_bf16_storage_rope) {
  for_each_bf16_device(device, [](Device& other) {
    std::mt19937 generator(3);
    for (int64_t size : {16, 6})
      for (bool interleaved : {false, true})
        for (bool inverse : {false, true}) {
          const int64_t batch = 2, length = 3, heads = 2, half = size / 2;
          Stored x(generator, {batch, length, heads, size}), y({batch, length, heads, size});
          F32 cosine = normal(generator, {11, half}), sine = normal(generator, {11, half});
          I32 positions = positions_of(batch, length);
          Doubles expected(x.size()), terms(x.size());
          for (int64_t head = 0; head < batch * length * heads; ++head)
            for (int64_t i = 0; i < half; ++i) {
              const int64_t at = positions[head / heads] * half + i, u = head * size + (interleaved ? 2 * i : i), v = interleaved ? u + 1 : u + half;
              const double c = cosine[at], s = inverse ? -sine[at] : sine[at];
              expected[u] = x[u] * c - x[v] * s, expected[v] = x[v] * c + x[u] * s;
              terms[u] = std::fabs(x[u] * c) + std::fabs(x[v] * s), terms[v] = std::fabs(x[v] * c) + std::fabs(x[u] * s);
            }
          for (int form = 0; form < 4; ++form) {
            launch(other, "rope", {x.as(form & 1), view(cosine), view(sine), view(positions)}, {y.as(form & 2)}, {double(inverse), double(interleaved)});
            y.check(expected, terms, kFew, "y");
          }
        }
  });
}

TEST(cuda_bf16_storage_rope_to_cache) {
  for_each_bf16_device(device, [](Device& other) {
    std::mt19937 generator(4);
    for (int64_t size : {16, 6}) {
      const int64_t batch = 2, length = 2, heads = 3, groups = 2, capacity = 4, half = size / 2, all = heads + 2 * groups;
      Stored x(generator, {batch, length, all * size}), query({batch, length, heads, size}), keys({batch, capacity, groups, size}), values({batch, capacity, groups, size});
      F32 cosine = normal(generator, {11, half}), sine = normal(generator, {11, half});
      I32 positions = positions_of(batch, length), start({batch}, {1, 2});
      Doubles expected[3] = {Doubles(query.size()), Doubles(keys.size()), Doubles(keys.size())}, terms[3] = {expected[0], expected[1], expected[1]};
      for (int64_t row = 0; row < batch * length * all; ++row)
        for (int64_t i = 0; i < half; ++i) {
          const int64_t token = row / all, head = row % all, b = token / length, to = head < heads ? 0 : head < heads + groups ? 1 : 2, u = row * size + i, v = u + half;
          const double c = to == 2 ? 1 : cosine[positions[token] * half + i], s = to == 2 ? 0 : sine[positions[token] * half + i];
          const int64_t cached = (b * capacity + start[b] + token % length) * groups + (head - heads) % groups, at = (to == 0 ? token * heads + head : cached) * size + i;
          expected[to][at] = x[u] * c - x[v] * s, expected[to][at + half] = x[v] * c + x[u] * s;
          terms[to][at] = std::fabs(x[u] * c) + std::fabs(x[v] * s), terms[to][at + half] = std::fabs(x[v] * c) + std::fabs(x[u] * s);
        }
      for (int form = 0; form < 8; ++form) {
        // Zeros are rows that nobody writes.
        const TrefoilView key = keys.cleared(form & 4), value = values.cleared(form & 4);
        launch(other, "rope_to_cache_", {x.as(form & 1), view(cosine), view(sine), view(positions), key, value, view(start)}, {query.as(form & 2), key, value});
        query.check(expected[0], terms[0], kFew, "query");
        keys.check(expected[1], terms[1], kFew, "keys");
        values.check(expected[2], terms[2], kFew, "values");
      }
    }
  });
}

namespace {

// silu(a b + bias) + residual in the mixture `form`: bits for a, b, residual, c.
void check_matmul(Device& device, int64_t batch, int64_t m, int64_t n, int64_t k, bool transpose_a, bool transpose_b, bool epilogue, int form, uint32_t seed) {
  std::mt19937 generator(seed);
  Stored a(generator, transpose_a ? std::vector<int64_t>{batch, k, m} : std::vector<int64_t>{batch, m, k});
  Stored b(generator, transpose_b ? std::vector<int64_t>{batch, n, k} : std::vector<int64_t>{batch, k, n});
  Stored residual(generator, {batch, m, n}), c({batch, m, n});
  F32 bias = normal(generator, {n});
  launch(device, "matmul", {a.as(form & 1), b.as(form & 2), epilogue ? view(bias) : absent(), epilogue ? residual.as(form & 4) : absent()}, {c.as(form & 8), absent()},
         {double(transpose_a), double(transpose_b), 1, epilogue ? 3.0 : 0.0});
  Doubles expected(c.size()), terms(c.size());
  for (int64_t s = 0; s < batch; ++s)
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        const int64_t at = (s * m + i) * n + j;
        double z = epilogue ? bias[j] : 0, size = std::fabs(z);
        for (int64_t p = 0; p < k; ++p) {
          const double term = a[s * m * k + (transpose_a ? p * m + i : i * k + p)] * b[s * n * k + (transpose_b ? j * k + p : p * n + j)];
          z += term, size += std::fabs(term);
        }
        expected[at] = epilogue ? z / (1 + std::exp(-z)) + residual[at] : z;
        // silu is no steeper than 1.1, and of its few steps none is off by more than kFew of the sum.
        terms[at] = epilogue ? 1.1 * size + std::fabs(residual[at]) : size;
      }
  c.check(expected, terms, sum_slack(k) + (epilogue ? kFew : 0), "c");
}

void check_matmuls(Device& device, uint32_t seed) {
  // Few rows (two kinds of kernel), edges, rows of C that vectors fill and that they do not, k cut into parts.
  const int64_t sizes[][4] = {{1, 3, 40, 70}, {2, 67, 33, 40}, {1, 40, 64, 72}, {1, 33, 24, 600}};
  for (auto& size : sizes)
    for (int form = 0; form < 16; ++form)
      check_matmul(device, size[0], size[1], size[2], size[3], form % 3 == 1, form % 5 < 2, form & 4 || form == 9 || form == 11, form, seed++);
}

}  // namespace

TEST(cuda_bf16_storage_matmul) {
  for_each_bf16_device(device, [](Device& other) { check_matmuls(other, 10); });
}

TEST(cuda_bf16_storage_matmul_without_clusters) {
  const Variable clusters("TREFOIL_CUDA_CLUSTERS", "0");
  for_each_bf16_device(device, [](Device& other) { check_matmuls(other, 500); });
}

// 66 products of two by one tiles of 128 x 128: enough for the large tile.
TEST(cuda_bf16_storage_matmul_large_tiles) {
  for_each_bf16_device(device, [](Device& other) { check_matmul(other, 33, 130, 72, 40, false, true, true, 15, 100); });
}

TEST(cuda_bf16_storage_matmul_by_cublaslt) {
  if (!emulated(device)) return;  // on a device, the other tests use the library if it is there
  const Variable path("TREFOIL_CUBLASLT", TREFOIL_TEST_FAKE_CUBLASLT), choice("TREFOIL_MATMUL", "cublaslt");
  for_each_bf16_device(device, [](Device& other) { check_matmuls(other, 200); });
}

// In f32 precision nothing is rounded but what is stored as bf16.
TEST(cuda_bf16_storage_in_f32_precision) {
  if (device.backend->flags & TREFOIL_BACKEND_HOST_MEMORY) return;
  check_matmuls(device, 300);
}

TEST(cuda_bf16_storage_grouped_matmul) {
  for_each_bf16_device(device, [](Device& other) {
    uint32_t seed = 400;
    for (int64_t k : {37, 40})
      for (int form = 0; form < 8; ++form) {
        const bool transpose = form & 1, gather = form & 2;
        std::mt19937 generator(seed++);
        I32 offsets({5}, {0, 3, 3, 70, 71}), index({71});
        const int64_t groups = 4, rows = 71, stored = gather ? 36 : rows, n = 44;
        for (int32_t& row : index.values) row = static_cast<int32_t>(generator() % static_cast<uint64_t>(stored));
        Stored x(generator, {stored, k}), w(generator, transpose ? std::vector<int64_t>{groups, n, k} : std::vector<int64_t>{groups, k, n});
        Stored y({rows, n}), upstream(generator, {rows, n}), dw({groups, n, k});
        launch(other, "grouped_matmul", {x.as(form & 4), w.as(form & 2), view(offsets), gather ? view(index) : absent()}, {y.as(form != 1)}, {double(transpose)});
        launch(other, "grouped_matmul_weight_grad", {upstream.as(form & 4), x.as(form != 2), view(offsets), absent(), gather ? view(index) : absent()}, {dw.as(form == 5)});
        Doubles expected_y(y.size()), terms_y(y.size()), expected_dw(dw.size()), terms_dw(dw.size());
        for (int64_t e = 0; e < groups; ++e)
          for (int64_t r = offsets[e]; r < offsets[e + 1]; ++r)
            for (int64_t j = 0; j < n; ++j)
              for (int64_t p = 0; p < k; ++p) {
                const double from = x[(gather ? index[r] : r) * k + p], term = from * w[e * n * k + (transpose ? j * k + p : p * n + j)], share = from * upstream[r * n + j];
                expected_y[r * n + j] += term, terms_y[r * n + j] += std::fabs(term);
                expected_dw[(e * n + j) * k + p] += share, terms_dw[(e * n + j) * k + p] += std::fabs(share);
              }
        y.check(expected_y, terms_y, sum_slack(k), "y");
        dw.check(expected_dw, terms_dw, sum_slack(rows), "dw");
      }
  });
}

namespace {

// attention and its gradient with all operands and results as bf16 or (`mixed`) every other one.
void check_attention(Device& device, const Case& c, bool mixed, int seed) {
  Problem p(c, seed);
  std::mt19937 generator(seed);
  Stored q(generator, p.q.shape), k(generator, p.k.shape), v(generator, p.k.shape), dout(generator, p.q.shape);
  Stored out(p.q.shape), dq(p.q.shape), dk(p.k.shape), dv(p.k.shape);
  F32 lse({c.batch, c.heads, c.queries});
  launch(device, "attention", {q.as(true), k.as(!mixed), v.as(true), p.lengths_view(), p.segments_view()}, {out.as(!mixed), view(lse)}, p.attributes());
  launch(device, "attention_grad", {dout.as(!mixed), q.as(true), k.as(!mixed), v.as(true), out.as(!mixed), view(lse), p.lengths_view(), p.segments_view()},
         {dq.as(true), dk.as(!mixed), dv.as(true)}, p.attributes());
  auto exact = [](const Stored& from) {
    Doubles values(from.size());
    for (size_t i = 0; i < values.size(); ++i) values[i] = from[i];
    return values;
  };
  const Reference expected = reference(p, exact(q), exact(k), exact(v), exact(dout));
  // As where results are f32 (cuda_attention_bf16_test.cc): probabilities are rounded before they are multiplied, 2^-8 of each term, and so are
  // the slopes. The gradient reads `out` rounded to bf16: delta, a sum of its products with dout, is off by 2^-8 of their sizes, which `most` of
  // dq and dk has in it. Heads above 128 and few rows round less.
  constexpr double one = 0x1p-8 + 1e-5;
  out.check(expected.out, expected.most_out, one, "out");
  for (size_t i = 0; i < lse.size(); ++i)
    CHECK(expected.lse[i] == -INFINITY ? lse[i] == -kInfinity : std::fabs(lse[i] - expected.lse[i]) <= 2e-6 * (1 + std::fabs(expected.lse[i])));
  dv.check(expected.dv, expected.most_dv, one, "dv");
  dq.check(expected.dq, expected.most_dq, 3 * one, "dq");
  dk.check(expected.dk, expected.most_dk, 3 * one, "dk");
}

}  // namespace

TEST(cuda_bf16_storage_attention) {
  for_each_bf16_device(device, [](Device& other) {
    int seed = 500;
    for (bool mixed : {false, true}) {
      for (int64_t size : {4, 17, 64, 128, 160})
        check_attention(other, {.batch = 2, .queries = 40, .keys = 40, .heads = 2, .groups = 1, .size = size, .causal = true}, mixed, seed++);
      check_attention(other, {.batch = 2, .queries = 70, .keys = 70, .heads = 2, .groups = 2, .size = 16, .key_lengths = {70, 41}, .segments = runs_of_segments(2, 70, {3, 4}, 35)}, mixed, seed++);
      check_attention(other, {.batch = 1, .queries = 2, .keys = 600, .heads = 2, .groups = 1, .size = 64, .key_lengths = {530}}, mixed, seed++);
      check_attention(other, {.batch = 1, .queries = 1, .keys = 40, .heads = 2, .groups = 1, .size = 20}, mixed, seed++);
    }
  });
}

namespace {

void check_attention_by_wgmma(Device& device) {
  int seed = 530;
  for (bool mixed : {false, true})
    for (int64_t size : {36, 64, 100, 128})
      check_attention(device, {.batch = 2, .queries = 40, .keys = 150, .heads = 2, .groups = 1, .size = size, .causal = true, .key_lengths = {150, 33}}, mixed, seed++);
}

}  // namespace

TEST(cuda_bf16_storage_attention_by_wgmma) { for_each_wgmma_device(device, false, check_attention_by_wgmma); }
TEST(cuda_bf16_storage_attention_in_one_pass) { for_each_wgmma_device(device, true, check_attention_by_wgmma); }

// Blocks of 128 rows.
TEST(cuda_bf16_storage_attention_large_blocks) {
  for_each_bf16_device(device, [](Device& other) {
    check_attention(other, {.batch = 66, .queries = 129, .keys = 33, .heads = 1, .groups = 1, .size = 32, .causal = true}, false, 520);
  });
}

TEST(cuda_bf16_storage_rows) {
  for_each_bf16_device(device, [](Device& other) {
    std::mt19937 generator(600);
    for (int64_t width : {8, 6}) {
      const int64_t rows = 9, count = 50;
      Stored table(generator, {rows, width}), gathered({count, width}), values(generator, {count, width}), sums({rows, width});
      I32 index({count});
      for (int32_t& row : index.values) row = static_cast<int32_t>(generator() % 4) - 1;  // one row more often than a warp has lanes
      index[0] = 8;
      for (int64_t i = 10; i < 45; ++i) index[i] = 2;
      Doubles expected(count * width), added(rows * width), terms(rows * width);
      for (int64_t i = 0; i < count; ++i)
        for (int64_t d = 0; d < width && index[i] >= 0; ++d) {
          expected[i * width + d] = table[index[i] * width + d];
          added[index[i] * width + d] += values[i * width + d], terms[index[i] * width + d] += std::fabs(values[i * width + d]);
        }
      for (int form = 0; form < 4; ++form) {
        launch(other, "gather_rows", {table.as(form & 1), view(index)}, {gathered.as(form & 2)});
        for (size_t i = 0; i < expected.size(); ++i) CHECK(gathered[i] == expected[i]);
        launch(other, "scatter_add_rows", {values.as(form & 1), view(index)}, {sums.as(form & 2)});
        sums.check(added, terms, sum_slack(count), "sums");
      }
    }
  });
}

TEST(cuda_bf16_storage_moe_combine) {
  for_each_bf16_device(device, [](Device& other) {
    std::mt19937 generator(700);
    for (int64_t width : {8, 6}) {
      const int64_t tokens = 5, kept = 2, rows = tokens * kept;
      Stored y(generator, {rows, width}), dout(generator, {tokens, width}), out({tokens, width}), dy({rows, width});
      F32 weights = normal(generator, {tokens, kept}), dweights({tokens, kept});
      I32 permutation({rows}), inverse({rows});
      for (int64_t r = 0; r < rows; ++r) inverse[permutation[r] = static_cast<int32_t>(r * 3 % rows)] = static_cast<int32_t>(r);
      Doubles expected(out.size()), terms(out.size()), expected_dy(dy.size()), terms_dy(dy.size()), expected_dw(rows);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t d = 0; d < width; ++d) {
          const int64_t s = permutation[r], t = s / kept;
          expected[t * width + d] += weights[s] * y[r * width + d], terms[t * width + d] += std::fabs(weights[s] * y[r * width + d]);
          expected_dy[r * width + d] = weights[s] * dout[t * width + d], terms_dy[r * width + d] = std::fabs(expected_dy[r * width + d]);
          expected_dw[s] += y[r * width + d] * dout[t * width + d];
        }
      for (int form = 0; form < 8; ++form) {
        launch(other, "moe_combine", {y.as(form & 1), view(inverse), view(weights)}, {out.as(form & 2)}, {double(kept)});
        out.check(expected, terms, kFew, "out");
        launch(other, "moe_combine_grad", {dout.as(form & 4), y.as(form & 1), view(permutation), view(weights)}, {dy.as(form & 2), view(dweights)});
        dy.check(expected_dy, terms_dy, kFew, "dy");
        check_close(dweights, expected_dw, 1e-5, 1e-5, "dweights");
      }
    }
  });
}

namespace {

void check_linear_cross_entropy(Device& other) {
  std::mt19937 generator(800);
  for (int64_t width : {33, 40})
    for (int form = 0; form < 4; ++form) {
      const int64_t rows = 70, classes = 97;
      Stored x(generator, {rows, width}), w(generator, {classes, width}, 0.2f), dx({rows, width}), dw({classes, width});
      F32 weights = normal(generator, {rows}), loss(std::vector<int64_t>{}), nll({rows});
      I32 targets({rows});
      for (int32_t& target : targets.values) target = static_cast<int32_t>(generator() % static_cast<uint64_t>(classes + 1)) - 1;
      launch(other, "linear_cross_entropy", {x.as(form & 1), w.as(form == 3), view(targets), view(weights)}, {view(loss), view(nll), dx.as(form & 2), dw.as(false)});
      Doubles expected_nll(rows), expected_dx(dx.size()), expected_dw(dw.size()), terms_dx(dx.size()), terms_dw(dw.size());
      for (int64_t t = 0; t < rows; ++t) {
        if (targets[t] < 0) continue;
        Doubles logits(classes);
        double total = 0;
        for (int64_t v = 0; v < classes; ++v) {
          for (int64_t d = 0; d < width; ++d) logits[v] += x[t * width + d] * w[v * width + d];
          total += std::exp(logits[v]);
        }
        expected_nll[t] = std::log(total) - logits[targets[t]];
        for (int64_t v = 0; v < classes; ++v) {
          const double slope = weights[t] * (std::exp(logits[v]) / total - (v == targets[t] ? 1 : 0));
          for (int64_t d = 0; d < width; ++d) {
            const double to_x = slope * w[v * width + d], to_w = slope * x[t * width + d];
            expected_dx[t * width + d] += to_x, terms_dx[t * width + d] += std::fabs(to_x);
            expected_dw[v * width + d] += to_w, terms_dw[v * width + d] += std::fabs(to_w);
          }
        }
      }
      check_close(nll, expected_nll, 2e-6, 2e-6, "nll");
      // The logits' gradient is rounded to bf16 before it is multiplied: 2^-8 of every term.
      dx.check(expected_dx, terms_dx, 0x1p-8 + 1e-5, "dx");
      dw.check(expected_dw, terms_dw, 0x1p-8 + 1e-5, "dw");
    }
}

}  // namespace

TEST(cuda_bf16_storage_linear_cross_entropy) { for_each_bf16_device(device, check_linear_cross_entropy); }

TEST(cuda_bf16_storage_linear_cross_entropy_in_f32_precision) {
  if (device.backend->flags & TREFOIL_BACKEND_HOST_MEMORY) return;
  check_linear_cross_entropy(device);
}

// The copies are the new parameters rounded; the parameters are those of a step without copies, bit for bit.
TEST(cuda_bf16_storage_adamw_copies) {
  for_each_bf16_device(device, [](Device& other) {
    for (float scale : {0.5f, kNaN}) {
      const std::vector<int64_t> sizes{64, 7, 9001};
      std::mt19937 generator(900);
      F32 hyper({3}, {0.1f, scale, 3});
      std::vector<F32> plain, copied;
      std::vector<BF16> copies;
      for (int64_t n : sizes) {
        for (int k = 0; k < 4; ++k) plain.push_back(normal(generator, {n}));
        for (float& v : plain.back().values) v = std::fabs(v);
        copies.push_back(BF16({n}, std::vector<uint16_t>(static_cast<size_t>(n), 0x1234)));
      }
      copied = plain;
      const std::vector<double> attributes{0.9, 0.95, 1e-8, 0.1, 0, 0.1};
      auto views = [&](std::vector<F32>& tensors) {
        std::vector<TrefoilView> inputs{view(hyper)};
        for (F32& tensor : tensors) inputs.push_back(view(tensor));
        return inputs;
      };
      std::vector<TrefoilView> with = views(copied);
      with.push_back(view(copies[0]));
      with.push_back(absent());
      with.push_back(view(copies[2]));
      launch(other, "adamw_", views(plain), {}, attributes);
      launch(other, "adamw_", with, {}, attributes);
      for (size_t i = 0; i < plain.size(); ++i) CHECK(plain[i].values == copied[i].values);
      for (size_t t : {size_t{0}, size_t{2}})
        for (size_t i = 0; i < copies[t].size(); ++i) CHECK(copies[t][i] == (scale == scale ? to_bf16(copied[4 * t][i]) : 0x1234));
      CHECK(copies[1][0] == 0x1234);
    }
  });
}

// Whole chunks of channels, and channels that fill none, of which the weight gradient is made in f32; a stride of 1 and 2.
TEST(cuda_bf16_storage_conv2d) {
  for_each_bf16_device(device, [](Device& other) {
    std::mt19937 generator(12);
    for (auto [channels, out_channels, stride] : {std::array<int64_t, 3>{16, 8, 1}, {3, 5, 2}}) {
      const int64_t size = 4, kernel = 3, out = (size + 2 - kernel) / stride + 1;
      const std::vector<double> attributes{double(stride), 1};
      Stored x(generator, {2, size, size, channels}), w(generator, {out_channels, kernel, kernel, channels}), dy(generator, {2, out, out, out_channels});
      Stored y({2, out, out, out_channels}), dx({2, size, size, channels}), dw({out_channels, kernel, kernel, channels});
      Doubles sums[3] = {Doubles(y.size()), Doubles(x.size()), Doubles(w.size())};
      Doubles terms[3] = {sums[0], sums[1], sums[2]};
      const auto add = [&](int which, size_t at, double term) { sums[which][at] += term, terms[which][at] += std::fabs(term); };
      for (int64_t image = 0; image < 2; ++image)
        for (int64_t u = 0; u < out; ++u)
          for (int64_t v = 0; v < out; ++v)
            for (int64_t o = 0; o < out_channels; ++o)
              for (int64_t i = 0; i < kernel; ++i)
                for (int64_t j = 0; j < kernel; ++j) {
                  const int64_t row = u * stride - 1 + i, column = v * stride - 1 + j;
                  if (row < 0 || row >= size || column < 0 || column >= size) continue;
                  for (int64_t c = 0; c < channels; ++c) {
                    const size_t at_x = static_cast<size_t>(((image * size + row) * size + column) * channels + c);
                    const size_t at_w = static_cast<size_t>(((o * kernel + i) * kernel + j) * channels + c);
                    const size_t at_y = static_cast<size_t>(((image * out + u) * out + v) * out_channels + o);
                    add(0, at_y, x[at_x] * w[at_w]), add(1, at_x, dy[at_y] * w[at_w]), add(2, at_w, dy[at_y] * x[at_x]);
                  }
                }
      for (int form = 0; form < 8; ++form) {
        const bool first = form & 1, second = form & 2, to = form & 4;
        launch(other, "conv2d", {x.as(first), w.as(second), absent()}, {y.as(to)}, attributes);
        y.check(sums[0], terms[0], sum_slack(9 * channels), "conv2d");
        launch(other, "conv2d_input_grad", {dy.as(first), w.as(second)}, {dx.as(to)}, attributes);
        dx.check(sums[1], terms[1], sum_slack(9 * out_channels), "conv2d_input_grad");
        launch(other, "conv2d_weight_grad", {dy.as(first), x.as(second)}, {dw.as(false)}, attributes);
        dw.check(sums[2], terms[2], sum_slack(2 * out * out), "conv2d_weight_grad");
      }
    }
  });
}

TEST(cuda_bf16_storage_group_norm) {
  for_each_bf16_device(device, [](Device& other) {
    std::mt19937 generator(13);
    for (auto [positions, channels, groups] : {std::array<int64_t, 3>{20, 8, 2}, {150, 33, 3}}) {
      const int64_t images = 2, per_group = channels / groups, n = positions * per_group;
      Stored x(generator, {images, positions, channels}), dy(generator, {images, positions, channels}), y({images, positions, channels}), dx({images, positions, channels});
      F32 weight = normal(generator, {channels}), bias = normal(generator, {channels}), mean({images, groups}), rstd({images, groups}), dweight({channels}), dbias({channels});
      Doubles exact_y(x.size()), terms_y(x.size()), exact_dx(x.size()), terms_dx(x.size()), exact_dw(channels), terms_dw(channels), exact_db(channels), terms_db(channels);
      for (int64_t image = 0; image < images; ++image)
        for (int64_t g = 0; g < groups; ++g) {
          // Named: Clang 14 does not capture structured bindings by [&].
          const auto each = [&, positions = positions, channels = channels](const auto& body) {
            for (int64_t p = 0; p < positions; ++p)
              for (int64_t c = g * per_group; c < (g + 1) * per_group; ++c) body(static_cast<size_t>((image * positions + p) * channels + c), static_cast<size_t>(c));
          };
          double centre = 0, squares = 0, plain = 0, inner = 0, most = 0, inner_most = 0;
          each([&](size_t at, size_t) { centre += x[at] / double(n); });
          each([&](size_t at, size_t) { squares += (x[at] - centre) * (x[at] - centre) / double(n); });
          const double root = 1 / std::sqrt(squares + 1e-5);
          each([&](size_t at, size_t c) {
            const double z = (x[at] - centre) * root, slope = dy[at] * weight[c];
            exact_y[at] = z * weight[c] + bias[c], terms_y[at] = std::fabs(weight[c]) * (std::fabs(x[at]) + std::fabs(centre)) * root + std::fabs(bias[c]);
            plain += slope / double(n), inner += slope * z / double(n), most += std::fabs(slope) / double(n), inner_most += std::fabs(slope * z) / double(n);
            exact_dw[c] += dy[at] * z, terms_dw[c] += std::fabs(dy[at]) * (std::fabs(x[at]) + std::fabs(centre)) * root;
            exact_db[c] += dy[at], terms_db[c] += std::fabs(dy[at]);
          });
          each([&](size_t at, size_t c) {
            const double z = (x[at] - centre) * root;
            exact_dx[at] = root * (dy[at] * weight[c] - plain - z * inner);
            terms_dx[at] = root * (std::fabs(dy[at] * weight[c]) + most + std::fabs(z) * inner_most);
          });
        }
      for (int form = 0; form < 4; ++form) {
        launch(other, "group_norm", {x.as(false), view(weight), view(bias)}, {y.as(form & 1), view(mean), view(rstd)}, {double(groups), 1e-5});
        y.check(exact_y, terms_y, kFew, "group_norm");
        launch(other, "group_norm_grad", {dy.as(form & 2), x.as(false), view(weight), view(mean), view(rstd)}, {dx.as(false), view(dweight), view(dbias)}, {double(groups)});
        dx.check(exact_dx, terms_dx, kFew, "group_norm_grad");
        for (size_t c = 0; c < exact_dw.size(); ++c) {
          CHECK(std::fabs(dweight[c] - exact_dw[c]) <= kFew * terms_dw[c]);
          CHECK(std::fabs(dbias[c] - exact_db[c]) <= kFew * terms_db[c]);
        }
      }
    }
  });
}

TEST(cuda_bf16_storage_layer_norm) {
  for_each_bf16_device(device, [](Device& other) {
    std::mt19937 generator(14);
    // As for rms_norm: a warp or a block to a row; rows in registers, and read again.
    for (int64_t n : {6, 64, 600, 2051}) {
      const int64_t rows = 3;
      Stored x(generator, {rows, n}), dy(generator, {rows, n}), y({rows, n}), dx({rows, n});
      F32 weight = normal(generator, {n}), bias = normal(generator, {n}), mean({rows}), rstd({rows}), dweight({n}), dbias({n});
      Doubles exact_y(x.size()), terms_y(x.size()), exact_dx(x.size()), terms_dx(x.size()), exact_dw(n), terms_dw(n), exact_db(n), terms_db(n);
      for (int64_t r = 0; r < rows; ++r) {
        const auto each = [&](const auto& body) {
          for (int64_t i = 0; i < n; ++i) body(static_cast<size_t>(r * n + i), static_cast<size_t>(i));
        };
        double centre = 0, squares = 0, plain = 0, inner = 0, most = 0, inner_most = 0;
        each([&](size_t at, size_t) { centre += x[at] / double(n); });
        each([&](size_t at, size_t) { squares += (x[at] - centre) * (x[at] - centre) / double(n); });
        const double root = 1 / std::sqrt(squares + 1e-5);
        each([&](size_t at, size_t i) {
          const double z = (x[at] - centre) * root, size = (std::fabs(x[at]) + std::fabs(centre)) * root, slope = dy[at] * weight[i];
          exact_y[at] = z * weight[i] + bias[i], terms_y[at] = std::fabs(weight[i]) * size + std::fabs(bias[i]);
          plain += slope / double(n), inner += slope * z / double(n), most += std::fabs(slope) / double(n), inner_most += std::fabs(slope * z) / double(n);
          exact_dw[i] += dy[at] * z, terms_dw[i] += std::fabs(dy[at]) * size;
          exact_db[i] += dy[at], terms_db[i] += std::fabs(dy[at]);
        });
        each([&](size_t at, size_t i) {
          const double z = (x[at] - centre) * root;
          exact_dx[at] = root * (dy[at] * weight[i] - plain - z * inner);
          terms_dx[at] = root * (std::fabs(dy[at] * weight[i]) + most + std::fabs(z) * inner_most);
        });
      }
      for (int form = 0; form < 8; ++form) {
        const bool half_x = form & 1, half_dy = form & 2, half_to = form & 4;
        launch(other, "layer_norm", {x.as(half_x), view(weight), view(bias)}, {y.as(half_to), view(mean), view(rstd)}, {1e-5});
        y.check(exact_y, terms_y, kFew + sum_slack(n), "y");
        launch(other, "layer_norm_grad", {dy.as(half_dy), x.as(half_x), view(weight), view(mean), view(rstd)}, {dx.as(half_to), view(dweight), view(dbias)});
        dx.check(exact_dx, terms_dx, kFew + sum_slack(n), "dx");
        for (size_t i = 0; i < exact_dw.size(); ++i) {
          CHECK(std::fabs(dweight[i] - exact_dw[i]) <= kFew * terms_dw[i]);
          CHECK(std::fabs(dbias[i] - exact_db[i]) <= kFew * terms_db[i]);
        }
      }
    }
  });
}

TEST(cuda_bf16_storage_resample2) {
  for_each_bf16_device(device, [](Device& other) {
    std::mt19937 generator(15);
    for (int64_t channels : {8, 3}) {
      const int64_t images = 2, height = 3, width = 5;
      Stored small(generator, {images, height, width, channels}), large(generator, {images, 2 * height, 2 * width, channels});
      Stored up({images, 2 * height, 2 * width, channels}), down({images, height, width, channels});
      Doubles exact_up(up.size()), terms_up(up.size()), exact_down(down.size()), terms_down(down.size());
      for (size_t at = 0; at < up.size(); ++at) {
        const int64_t pixel = static_cast<int64_t>(at) / channels, column = pixel % (2 * width), row = pixel / (2 * width);
        const size_t from = static_cast<size_t>(((row / 2) * width + column / 2) * channels + static_cast<int64_t>(at) % channels);
        exact_up[at] = 0.3f * small[from], terms_up[at] = std::fabs(exact_up[at]);
        exact_down[from] += 0.3f * large[at], terms_down[from] += 0.3f * std::fabs(large[at]);
      }
      for (int form = 0; form < 4; ++form) {
        launch(other, "upsample_nearest2", {small.as(form & 1)}, {up.as(form & 2)}, {0.3f});
        up.check(exact_up, terms_up, kFew, "up");
        launch(other, "sum_pool2", {large.as(form & 1)}, {down.as(form & 2)}, {0.3f});
        down.check(exact_down, terms_down, kFew, "down");
      }
    }
  });
}

// Bytes move as they are, whatever a row has of them: the units of a copy are 16, 4 or 2 bytes.
TEST(cuda_bf16_storage_concat) {
  for_each_bf16_device(device, [](Device& other) {
    std::mt19937 generator(16);
    for (int64_t width : {8, 6, 3}) {
      Stored first(generator, {2, 3, width}), second(generator, {2, 5, width}), joined({2, 8, width});
      launch(other, "concat", {first.as(true), second.as(true)}, {joined.as(true)}, {1});
      for (int64_t i = 0; i < 2 * 8 * width; ++i) {
        const int64_t outer = i / (8 * width), row = i / width % 8, column = i % width;
        const double expected = row < 3 ? first[(outer * 3 + row) * width + column] : second[(outer * 5 + row - 3) * width + column];
        CHECK(joined[i] == expected);
      }
      F32 wide({2, 8, width});
      CHECK(launch_error(other, "concat", {first.as(true), second.as(true)}, {view(wide)}, {1}).code == TREFOIL_INVALID_ARGUMENT);
    }
  });
}
