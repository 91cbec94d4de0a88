// Products of matrices, attention, losses and convolutions whose operands or results are stored as bf16, in every mixture that programs ask for:
// as cuda_bf16_storage_test.cc has the other ops.
#include <array>

#include "cuda_bf16.h"

using namespace trefoil::test;

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
  // Few rows (two kinds of kernel, of two rows and up to four), edges, rows of C that vectors fill and that they do not, k cut into parts.
  const int64_t sizes[][4] = {{1, 2, 40, 72}, {1, 3, 40, 70}, {2, 67, 33, 40}, {1, 40, 64, 72}, {1, 33, 24, 600}};
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

// The copy engine reads bf16 where it is, but rows that are no multiple of 16 bytes.
void check_attention_by_wgmma(Device& device) {
  int seed = 530;
  for (bool mixed : {false, true})
    for (int64_t size : {36, 64, 100, 128})
      check_attention(device, {.batch = 2, .queries = 40, .keys = 150, .heads = 2, .groups = 1, .size = size, .causal = true, .key_lengths = {150, 33}}, mixed, seed++);
}

// 64 rows of a key head are whole queries: none, one or more of the 64 places stay empty. One to five units of them, of two key heads and two batches;
// more heads than that go elsewhere.
void check_attention_by_wgmma_shares_key_heads(Device& device) {
  int seed = 560;
  for (int64_t size : {64, 128})
    for (auto [queries, shared] : {std::array<int64_t, 2>{200, 1}, {70, 3}, {33, 8}, {13, 20}, {3, 33}, {2, 64}, {2, 65}}) {
      const int64_t keys = queries + 70;
      check_attention(device, {.batch = 2, .queries = queries, .keys = keys, .heads = 2 * shared, .groups = 2, .size = size, .causal = true, .key_lengths = {static_cast<int32_t>(keys), static_cast<int32_t>(queries)}}, shared == 8, seed++);
      if (shared != 3 && shared != 8) continue;
      check_attention(device, {.batch = 2, .queries = queries, .keys = queries, .heads = 2 * shared, .groups = 2, .size = size, .causal = shared == 8, .segments = runs_of_segments(2, queries, {3, -1, 65536}, 7)}, shared == 3, seed++);
    }
}

}  // namespace

TEST(cuda_bf16_storage_attention_by_wgmma) { for_each_wgmma_device(device, false, check_attention_by_wgmma); }
TEST(cuda_bf16_storage_attention_in_one_pass) { for_each_wgmma_device(device, true, check_attention_by_wgmma); }
TEST(cuda_bf16_storage_attention_by_wgmma_shares_key_heads) { for_each_wgmma_device(device, false, check_attention_by_wgmma_shares_key_heads); }
TEST(cuda_bf16_storage_attention_in_one_pass_shares_key_heads) { for_each_wgmma_device(device, true, check_attention_by_wgmma_shares_key_heads); }

// Blocks of 128 rows.
TEST(cuda_bf16_storage_attention_large_blocks) {
  for_each_bf16_device(device, [](Device& other) {
    check_attention(other, {.batch = 66, .queries = 129, .keys = 33, .heads = 1, .groups = 1, .size = 32, .causal = true}, false, 520);
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

namespace {

struct Convolution {
  int64_t images, height, width, channels, out_channels, kernel, stride, before, after;
};
enum class Part { forward, input, weight };

// In each of the mixtures `forms`: bits for the first and the second operand and the result.
void check_conv2d(Device& device, const Convolution& s, const std::vector<Part>& parts, const std::vector<int>& forms, uint32_t seed) {
  std::mt19937 generator(seed);
  const int64_t out_rows = (s.height + s.before + s.after - s.kernel) / s.stride + 1, out_columns = (s.width + s.before + s.after - s.kernel) / s.stride + 1;
  const std::vector<double> attributes{double(s.stride), double(s.before)};
  Stored x(generator, {s.images, s.height, s.width, s.channels}), w(generator, {s.out_channels, s.kernel, s.kernel, s.channels});
  Stored dy(generator, {s.images, out_rows, out_columns, s.out_channels}), y({s.images, out_rows, out_columns, s.out_channels});
  Stored dx({s.images, s.height, s.width, s.channels}), dw({s.out_channels, s.kernel, s.kernel, s.channels});
  Doubles sums[3] = {Doubles(y.size()), Doubles(x.size()), Doubles(w.size())};
  Doubles terms[3] = {sums[0], sums[1], sums[2]};
  const auto add = [&](int which, size_t at, double term) { sums[which][at] += term, terms[which][at] += std::fabs(term); };
  for (int64_t image = 0; image < s.images; ++image)
    for (int64_t u = 0; u < out_rows; ++u)
      for (int64_t v = 0; v < out_columns; ++v)
        for (int64_t o = 0; o < s.out_channels; ++o)
          for (int64_t i = 0; i < s.kernel; ++i)
            for (int64_t j = 0; j < s.kernel; ++j) {
              const int64_t row = u * s.stride - s.before + i, column = v * s.stride - s.before + j;
              if (row < 0 || row >= s.height || column < 0 || column >= s.width) continue;
              for (int64_t c = 0; c < s.channels; ++c) {
                const size_t at_x = static_cast<size_t>(((image * s.height + row) * s.width + column) * s.channels + c);
                const size_t at_w = static_cast<size_t>(((o * s.kernel + i) * s.kernel + j) * s.channels + c);
                const size_t at_y = static_cast<size_t>(((image * out_rows + u) * out_columns + v) * s.out_channels + o);
                add(0, at_y, x[at_x] * w[at_w]), add(1, at_x, dy[at_y] * w[at_w]), add(2, at_w, dy[at_y] * x[at_x]);
              }
            }
  const int64_t taps = s.kernel * s.kernel;
  for (int form : forms)
    for (Part part : parts) {
      const bool first = form & 1, second = form & 2, to = form & 4;
      if (part == Part::forward) {
        launch(device, "conv2d", {x.as(first), w.as(second), absent()}, {y.as(to)}, attributes);
        y.check(sums[0], terms[0], sum_slack(taps * s.channels), "conv2d");
      } else if (part == Part::input) {
        launch(device, "conv2d_input_grad", {dy.as(first), w.as(second)}, {dx.as(to)}, attributes);
        dx.check(sums[1], terms[1], sum_slack(taps * s.out_channels), "conv2d_input_grad");
      } else {
        launch(device, "conv2d_weight_grad", {dy.as(first), x.as(second)}, {dw.as(false)}, attributes);
        dw.check(sums[2], terms[2], sum_slack(s.images * out_rows * out_columns), "conv2d_weight_grad");
      }
    }
}

}  // namespace

// Whole chunks of channels, and channels that fill none, of which the weight gradient is made in f32; a stride of 1 and 2.
TEST(cuda_bf16_storage_conv2d) {
  for_each_bf16_device(device, [](Device& other) {
    for (auto [channels, out_channels, stride] : {std::array<int64_t, 3>{16, 8, 1}, {3, 5, 2}})
      check_conv2d(other, {2, 4, 4, channels, out_channels, 3, stride, 1, 1}, {Part::forward, Part::input, Part::weight}, {0, 1, 2, 3, 4, 5, 6, 7}, 12);
  });
}

// 66 tiles of 128 x 128 at least: enough for the large tile.
TEST(cuda_bf16_storage_conv2d_large_tiles) {
  for_each_bf16_device(device, [](Device& other) {
    check_conv2d(other, {1, 60, 69, 3, 129, 2, 1, 0, 1}, {Part::forward}, {7}, 17);
    check_conv2d(other, {1, 60, 69, 129, 3, 2, 1, 0, 1}, {Part::input}, {7}, 18);
    check_conv2d(other, {1, 3, 4, 472, 129, 3, 1, 1, 1}, {Part::weight}, {7}, 19);
  });
}
