// Ops whose operands or results are stored as bf16, in every mixture that programs ask for. Operands are numbers that bf16 holds, so that the
// double-precision reference is the same for each mixture; what is left is f32 arithmetic and the rounding of a result that is stored as bf16.
#include <array>

#include "cuda_bf16.h"

using namespace trefoil::test;

namespace {

// Where kernels share rows out differently (row_widths.h), and mixtures of wide ones: x in f32 and all else in bf16, or all in bf16.
constexpr int64_t kRowWidths[] = {6, 12, 64, 72, 128, 132, 200, 256, 260, 264, 500, 504, 512, 516, 520, 600, 1024, 1028, 2051, 2056, 8192, 8196, 8200, 12288, 16384, 16388, 16392};
int first_form(int64_t n) { return n > 520 ? 2 : 0; }
int next_form(int64_t n) { return n > 520 ? 5 : 1; }

I32 positions_of(int64_t batch, int64_t length) {
  I32 positions({batch, length});
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i * 7 % 11);
  return positions;
}

}  // namespace

TEST(cuda_bf16_storage_rms_norm) {
  const Variable multiprocessors("TREFOIL_EMULATED_MULTIPROCESSORS", "1");  // several rows for the same threads
  for_each_bf16_device(device, [](Device& other) {
    std::mt19937 generator(1);
    for (int64_t n : kRowWidths) {
      const int64_t rows = n == 600 ? 70 : n > 16384 ? 1 : 3;  // 70: two rows to a block
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
      for (int form = first_form(n); form < 8; form += next_form(n)) {
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
    for (int64_t f : {1, 4, 7, 8, 12, 16, 20, 100, 132, 264, 1032}) {
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
    for (int64_t size : {2, 6, 8, 16, 24, 32, 40, 64, 80, 128})
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

TEST(cuda_bf16_storage_rows) {
  for_each_bf16_device(device, [](Device& other) {
    std::mt19937 generator(600);
    for (int64_t width : {1, 2, 4, 6, 8, 12, 16, 20, 24, 100, 132, 264, 1032}) {
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
    for (int64_t width : {1, 2, 4, 6, 8, 12, 16, 20, 24, 100, 132, 264, 1032}) {
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

TEST(cuda_bf16_storage_group_norm) {
  for_each_bf16_device(device, [](Device& other) {
    std::mt19937 generator(13);
    for (auto [positions, channels, groups] : {std::array<int64_t, 3>{20, 8, 2}, {150, 33, 3}, {2100, 4, 1}}) {
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
  const Variable multiprocessors("TREFOIL_EMULATED_MULTIPROCESSORS", "1");  // several rows for the same threads
  for_each_bf16_device(device, [](Device& other) {
    std::mt19937 generator(14);
    for (int64_t n : kRowWidths) {
      const int64_t rows = n == 600 ? 70 : n > 16384 ? 1 : 3;  // 70: two rows to a block
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
      for (int form = first_form(n); form < 8; form += next_form(n)) {
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
