// Reductions against double precision at shapes that take every path: short and long rows, few and many columns, chunks.
#include <limits>

#include "row_widths.h"

using namespace trefoil::test;

namespace {

struct Shape {
  int64_t outer, n, inner;
};
const Shape kShapes[] = {{1, 1, 1},   {3, 7, 1},     {5, 100, 1},    {2, 70000, 1},  {1, 1000003, 1}, {4, 3, 5},     {2, 33, 64},
                         {1, 5000, 96}, {1, 9000, 3}, {7, 2, 4500}, {1, 3000, 4100}, {300, 4, 2},    {2, 50, 131}, {1, 2100, 70}};

void check_sum(Device& device, const Shape& shape, const F32& x) {
  F32 copy = x, total({shape.outer, shape.inner}), mean({shape.outer, shape.inner});
  launch(device, "reduce", {view(copy)}, {view(total)}, {0, double(shape.outer), double(shape.n), double(shape.inner)});
  launch(device, "reduce", {view(copy)}, {view(mean)}, {3, double(shape.outer), double(shape.n), double(shape.inner)});
  for (int64_t o = 0; o < shape.outer; ++o)
    for (int64_t i = 0; i < shape.inner; ++i) {
      double expected = 0, magnitude = 0;
      for (int64_t k = 0; k < shape.n; ++k) {
        double value = x[static_cast<size_t>((o * shape.n + k) * shape.inner + i)];
        expected += value;
        magnitude += std::fabs(value);
      }
      size_t at = static_cast<size_t>(o * shape.inner + i);
      // 2^-24 per addition on the longest path, which chunking keeps near sqrt(n).
      double bound = magnitude * 6e-8 * std::sqrt(static_cast<double>(shape.n)) + 1e-7;
      CHECK(std::fabs(total[at] - expected) <= bound);
      CHECK(std::fabs(mean[at] * static_cast<double>(shape.n) - expected) <= 2 * bound + 1e-6 * std::fabs(expected));
    }
}

}  // namespace

TEST(reduce_sum_and_mean) {
  std::mt19937 generator(1);
  for (const Shape& shape : kShapes) check_sum(device, shape, normal(generator, {shape.outer, shape.n, shape.inner}));
}

TEST(reduce_max_and_min) {
  std::mt19937 generator(2);
  for (const Shape& shape : kShapes) {
    F32 x = normal(generator, {shape.outer, shape.n, shape.inner}), high({shape.outer, shape.inner}), low({shape.outer, shape.inner});
    for (bool with_nan : {false, true}) {
      if (with_nan) x[x.size() / 2] = std::numeric_limits<float>::quiet_NaN();
      launch(device, "reduce", {view(x)}, {view(high)}, {1, double(shape.outer), double(shape.n), double(shape.inner)});
      launch(device, "reduce", {view(x)}, {view(low)}, {2, double(shape.outer), double(shape.n), double(shape.inner)});
      for (int64_t o = 0; o < shape.outer; ++o)
        for (int64_t i = 0; i < shape.inner; ++i) {
          float most = -INFINITY, least = INFINITY;
          bool nan = false;
          for (int64_t k = 0; k < shape.n; ++k) {
            float value = x[static_cast<size_t>((o * shape.n + k) * shape.inner + i)];
            nan |= std::isnan(value);
            most = std::max(most, value);
            least = std::min(least, value);
          }
          size_t at = static_cast<size_t>(o * shape.inner + i);
          CHECK(nan ? std::isnan(high[at]) && std::isnan(low[at]) : high[at] == most && low[at] == least);
        }
    }
  }
}

TEST(reduce_nothing) {
  F32 none({2, 0}), some({0, 5}), y({2}), empty({0});
  launch(device, "reduce", {view(none)}, {view(y)}, {0, 2, 0, 1});
  CHECK(y[0] == 0 && y[1] == 0);
  launch(device, "reduce", {view(none)}, {view(y)}, {1, 2, 0, 1});
  CHECK(y[0] == -INFINITY);
  launch(device, "reduce", {view(none)}, {view(y)}, {3, 2, 0, 1});
  CHECK(std::isnan(y[1]));
  launch(device, "reduce", {view(some)}, {view(empty)}, {0, 0, 5, 1});
  F32 total({1}, {5});
  launch(device, "sum_squares", {}, {view(total)});
  CHECK(total[0] == 0);
  I32 index({0});
  launch(device, "argmax", {view(some)}, {view(index)});
  CHECK(launch_error(device, "reduce", {view(some)}, {view(y)}, {0, 2, 9, 1}).code == TREFOIL_INVALID_ARGUMENT);
}

TEST(argmax_takes_the_first) {
  std::mt19937 generator(3);
  for (int64_t n : {1, 5, 16, 100, 5003}) {
    F32 x = normal(generator, {9, n});
    I32 y({9});
    for (size_t r = 0; r < 9; ++r) x[r * static_cast<size_t>(n) + generator() % static_cast<size_t>(n)] = 50.0f;  // ties with the next line
    for (size_t r = 0; r < 9; r += 2) x[r * static_cast<size_t>(n) + generator() % static_cast<size_t>(n)] = 50.0f;
    x.values.back() = std::numeric_limits<float>::quiet_NaN();  // the largest, as NaN propagates
    launch(device, "argmax", {view(x)}, {view(y)});
    for (size_t r = 0; r < 8; ++r) {
      auto begin = x.values.begin() + static_cast<int64_t>(r) * n;
      CHECK(y[r] == std::max_element(begin, begin + n) - begin);
    }
    CHECK(y[8] == n - 1);
  }
}

TEST(argmax_at_every_width) {
  with_few_teams(device, [](Device& other) {
    std::mt19937 generator(6);
    for (auto [rows, n] : row_shapes()) {
      F32 x = normal(generator, {rows, n});
      I32 y({rows}), expected({rows});
      for (int64_t row = 0; row < rows; ++row) {
        float* values = &x[row * n];
        // The last of a row; twice the same, of which the first counts; what was drawn; NaN.
        if (row % 4 == 0) values[n - 1] = 50.0f;
        if (row % 4 == 1) values[generator() % static_cast<size_t>(n)] = values[generator() % static_cast<size_t>(n)] = 50.0f;
        expected[row] = static_cast<int32_t>(std::max_element(values, values + n) - values);
        if (row % 4 == 3) values[expected[row] = static_cast<int32_t>(generator() % static_cast<size_t>(n))] = std::numeric_limits<float>::quiet_NaN();
      }
      launch(other, "argmax", {view(x)}, {view(y)});
      CHECK(y.values == expected.values);
    }
  });
}

TEST(sum_squares_accumulates_in_f64) {
  std::mt19937 generator(4);
  F32 a = normal(generator, {100003}), b = normal(generator, {7, 11}), none({0}), y(std::vector<int64_t>{});
  a[0] = 1e4f;
  double expected = 0;
  for (const F32* x : {&a, &b})
    for (float value : x->values) expected += double(value) * value;
  launch(device, "sum_squares", {view(a), view(none), view(b)}, {view(y)});
  CHECK(std::fabs(y[0] / expected - 1) < 6e-8);
  a[5] = INFINITY;
  launch(device, "sum_squares", {view(a)}, {view(y)});
  CHECK(std::isinf(y[0]));
}

TEST(reduce_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    std::mt19937 generator(5);
    F32 x = normal(generator, {400, 700}), all(std::vector<int64_t>{}), rows({400}), columns({700}), squares(std::vector<int64_t>{});
    launch(other, "reduce", {view(x)}, {view(all)}, {0, 1, 280000, 1});
    launch(other, "reduce", {view(x)}, {view(rows)}, {0, 400, 700, 1});
    launch(other, "reduce", {view(x)}, {view(columns)}, {0, 1, 400, 700});
    launch(other, "sum_squares", {view(x), view(rows)}, {view(squares)});
    return std::vector<F32>{all, rows, columns, squares};
  });
}
