#include <cstring>

#include "harness.h"

using namespace trefoil::test;

namespace {

const std::vector<std::vector<int64_t>> kGroupings = {
    {3, 0, 5, 1}, {0, 0, 40, 0}, {20, 20, 20, 20}, {1}, {0, 0}, {13, 0, 260, 2, 0, 31, 7, 12}, {250}, {220, 3}};

I32 offsets_of(const std::vector<int64_t>& sizes) {
  I32 offsets({static_cast<int64_t>(sizes.size()) + 1});
  for (size_t e = 0; e < sizes.size(); ++e) offsets[e + 1] = offsets[e] + static_cast<int32_t>(sizes[e]);
  return offsets;
}

I32 random_index(std::mt19937& generator, int64_t count, int64_t bound) {
  I32 index({count});
  for (int32_t& row : index.values) row = static_cast<int32_t>(generator() % bound);
  return index;
}

// Error in units of sum |a||b|, beside that of a plain float loop.
struct Error {
  double worst = 0, plain = 0;
  void add(float actual, double exact, double magnitude, float simple) {
    double error = std::fabs(actual - exact) / (magnitude + 1e-30);
    if (!(error <= worst)) worst = error;
    plain = std::max(plain, std::fabs(simple - exact) / (magnitude + 1e-30));
  }
  void check(const char* what) const {
    if (worst <= 2 * plain + 1e-7) return;
    char text[160];
    std::snprintf(text, sizeof text, "%s: error %.3g, plain loop %.3g", what, worst, plain);
    wrong_result(text);
  }
};

void check_forward(Device& device, const std::vector<int64_t>& sizes, int64_t k, int64_t n, bool transpose_w, bool gather, uint32_t seed) {
  std::mt19937 generator(seed);
  I32 offsets = offsets_of(sizes);
  const int64_t groups = static_cast<int64_t>(sizes.size()), rows = offsets[sizes.size()], stored = gather ? rows / 2 + 1 : rows;
  F32 x = normal(generator, {stored, k}), w = normal(generator, transpose_w ? std::vector<int64_t>{groups, n, k} : std::vector<int64_t>{groups, k, n});
  I32 index = random_index(generator, rows, stored);
  F32 y({rows, n});
  std::fill(y.values.begin(), y.values.end(), NAN);
  launch(device, "grouped_matmul", {view(x), view(w), view(offsets), gather ? view(index) : absent()}, {view(y)}, {double(transpose_w)});
  Error error;
  for (int64_t e = 0; e < groups; ++e)
    for (int64_t r = offsets[e]; r < offsets[e + 1]; ++r)
      for (int64_t j = 0; j < n; ++j) {
        double exact = 0, magnitude = 0;
        float simple = 0;
        for (int64_t p = 0; p < k; ++p) {
          float a = x[(gather ? index[r] : r) * k + p], b = w[e * n * k + (transpose_w ? j * k + p : p * n + j)];
          exact += double(a) * b, magnitude += std::fabs(double(a) * b), simple += a * b;
        }
        error.add(y[r * n + j], exact, magnitude, simple);
      }
  error.check("grouped_matmul");
}

void check_weight_grad(Device& device, const std::vector<int64_t>& sizes, int64_t m, int64_t n, bool gather_a, bool gather_b, uint32_t seed) {
  std::mt19937 generator(seed);
  I32 offsets = offsets_of(sizes);
  const int64_t groups = static_cast<int64_t>(sizes.size()), rows = offsets[sizes.size()], stored = rows / 3 + 1;
  F32 a = normal(generator, {gather_a ? stored : rows, m}), b = normal(generator, {gather_b ? stored : rows, n}), w({groups, m, n});
  I32 a_index = random_index(generator, rows, stored), b_index = random_index(generator, rows, stored);
  std::fill(w.values.begin(), w.values.end(), NAN);
  launch(device, "grouped_matmul_weight_grad",
         {view(a), view(b), view(offsets), gather_a ? view(a_index) : absent(), gather_b ? view(b_index) : absent()}, {view(w)});
  Error error;
  for (int64_t e = 0; e < groups; ++e)
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double exact = 0, magnitude = 0;
        float simple = 0;
        for (int64_t r = offsets[e]; r < offsets[e + 1]; ++r) {
          float x = a[(gather_a ? a_index[r] : r) * m + i], y = b[(gather_b ? b_index[r] : r) * n + j];
          exact += double(x) * y, magnitude += std::fabs(double(x) * y), simple += x * y;
        }
        error.add(w[(e * m + i) * n + j], exact, magnitude, simple);
      }
  error.check("grouped_matmul_weight_grad");
}

}  // namespace

TEST(grouped_matmul_ragged) {
  uint32_t seed = 1;
  const int64_t widths[][2] = {{1, 1}, {7, 5}, {33, 70}, {70, 33}, {401, 97}};
  for (auto& sizes : kGroupings)
    for (auto& width : widths)
      for (int form = 0; form < 4; ++form) check_forward(device, sizes, width[0], width[1], form & 1, form & 2, seed++);
}

TEST(grouped_matmul_weight_grad_ragged) {
  uint32_t seed = 1;
  const int64_t widths[][2] = {{1, 1}, {7, 5}, {33, 70}, {70, 33}, {5, 300}, {210, 64}};
  for (auto& sizes : kGroupings)
    for (auto& width : widths)
      for (int form = 0; form < 4; ++form) check_weight_grad(device, sizes, width[0], width[1], form & 1, form & 2, seed++);
  check_weight_grad(device, {3000}, 5, 40, true, true, seed++);  // one group, long enough to be cut along its rows
  check_weight_grad(device, {3000}, 40, 40, false, true, seed++);
  check_weight_grad(device, {9000}, 5, 40, true, false, seed++);
}

TEST(grouped_matmul_weight_grad_empty_is_zero) {
  F32 a({2, 3}, {1, 2, 3, 4, 5, 6}), b({2, 2}, {1, 0, 0, 1}), w({3, 3, 2});
  I32 offsets({4}, {0, 0, 2, 2});
  std::fill(w.values.begin(), w.values.end(), NAN);
  launch(device, "grouped_matmul_weight_grad", {view(a), view(b), view(offsets), absent(), absent()}, {view(w)});
  const float expected[6] = {1, 4, 2, 5, 3, 6};
  for (size_t i = 0; i < 18; ++i) CHECK(w[i] == (i / 6 == 1 ? expected[i - 6] : 0.0f));
}

TEST(grouped_matmul_bf16_weights) {
  std::mt19937 generator(3);
  for (int transpose_w = 0; transpose_w < 2; ++transpose_w) {
    const int64_t k = 65, n = 37;
    I32 offsets({4}, {0, 4, 4, 60});
    F32 x = normal(generator, {60, k}), y({60, n}), rounded({60, n});
    BF16 w({3, transpose_w ? n : k, transpose_w ? k : n});
    F32 wide(w.shape);
    for (size_t i = 0; i < w.size(); ++i) {
      uint32_t bits = (generator() & 0x80ff0000u) | 0x3f000000u;
      w[i] = static_cast<uint16_t>(bits >> 16);
      std::memcpy(&wide[i], &bits, 4);
    }
    launch(device, "grouped_matmul", {view(x), view(w), view(offsets), absent()}, {view(y)}, {double(transpose_w)});
    launch(device, "grouped_matmul", {view(x), view(wide), view(offsets), absent()}, {view(rounded)}, {double(transpose_w)});
    CHECK(y.values == rounded.values);  // the same arithmetic on the same numbers
  }
}

TEST(grouped_matmul_thread_independent) {
  check_thread_independent(device, [](Device& d) {
    std::mt19937 generator(11);
    const int64_t k = 150, n = 170;
    std::vector<F32> results;
    for (auto& sizes : kGroupings) {
      I32 offsets = offsets_of(sizes);
      const int64_t groups = static_cast<int64_t>(sizes.size()), rows = offsets[sizes.size()];
      if (rows == 0) continue;
      F32 x = normal(generator, {rows, k}), w = normal(generator, {groups, n, k}), y({rows, n}), dw({groups, n, k});
      launch(d, "grouped_matmul", {view(x), view(w), view(offsets), absent()}, {view(y)}, {1});
      launch(d, "grouped_matmul_weight_grad", {view(y), view(x), view(offsets), absent(), absent()}, {view(dw)});
      results.push_back(y);
      results.push_back(dw);
    }
    return results;
  });
}

TEST(grouped_matmul_rejects_bad_indices) {
  F32 x({4, 3}), w({2, 5, 3}), y({4, 5}), dw({2, 3, 5});
  I32 good({3}, {0, 2, 4}), falling({3}, {0, 3, 2}), past({3}, {0, 2, 5}), shifted({3}, {1, 2, 4});
  for (I32* offsets : {&falling, &past, &shifted}) {
    CHECK(launch_error(device, "grouped_matmul", {view(x), view(w), view(*offsets), absent()}, {view(y)}, {1}).code == TREFOIL_INDEX_OUT_OF_RANGE);
    CHECK(launch_error(device, "grouped_matmul_weight_grad", {view(x), view(y), view(*offsets), absent(), absent()}, {view(dw)}).code ==
          TREFOIL_INDEX_OUT_OF_RANGE);
  }
  for (int32_t wrong : {-1, 4}) {
    I32 index({4}, {0, 1, wrong, 3});
    TrefoilStatus status = launch_error(device, "grouped_matmul", {view(x), view(w), view(good), view(index)}, {view(y)}, {1});
    CHECK(status.code == TREFOIL_INDEX_OUT_OF_RANGE && std::strstr(status.message, "row_index[2]"));
    status = launch_error(device, "grouped_matmul_weight_grad", {view(x), view(y), view(good), absent(), view(index)}, {view(dw)});
    CHECK(status.code == TREFOIL_INDEX_OUT_OF_RANGE && std::strstr(status.message, "b_index[2]"));
  }
}
