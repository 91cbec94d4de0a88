#include "numeric.h"

using namespace trefoil::test;

namespace {

constexpr double kEpsilon = 1e-5;

struct Shape {
  int64_t images, positions, channels, groups;
};

Doubles reference(const Shape& s, const Doubles& x, const Doubles& weight, const Doubles& bias) {
  Doubles y(x.size());
  const int64_t per_group = s.channels / s.groups;
  for (int64_t n = 0; n < s.images; ++n)
    for (int64_t g = 0; g < s.groups; ++g) {
      auto each = [&](auto use) {
        for (int64_t p = 0; p < s.positions; ++p)
          for (int64_t c = g * per_group; c < (g + 1) * per_group; ++c) use(static_cast<size_t>((n * s.positions + p) * s.channels + c), static_cast<size_t>(c));
      };
      const double count = static_cast<double>(s.positions * per_group);
      double mean = 0, squares = 0;
      each([&](size_t at, size_t) { mean += x[at] / count; });
      each([&](size_t at, size_t) { squares += (x[at] - mean) * (x[at] - mean); });
      const double rstd = 1 / std::sqrt(squares / count + kEpsilon);
      each([&](size_t at, size_t c) { y[at] = (x[at] - mean) * rstd * weight[c] + bias[c]; });
    }
  return y;
}

constexpr Shape kShapes[] = {{1, 4, 2, 1}, {2, 9, 6, 3}, {3, 5, 32, 8}, {1, 6, 35, 5}, {2, 12, 10, 10}};

}  // namespace

TEST(group_norm_matches_double) {
  std::mt19937 generator(1);
  for (const Shape& s : kShapes) {
    F32 x = normal(generator, {s.images, s.positions, s.channels}, 2.0f), weight = normal(generator, {s.channels}), bias = normal(generator, {s.channels});
    for (float& value : x.values) value += 10.0f;  // a mean that a one-pass variance would lose digits to
    F32 dy = normal(generator, x.shape), y(x.shape), mean({s.images, s.groups}), rstd(mean.shape), dx(x.shape), dweight({s.channels}), dbias({s.channels});
    const double groups = static_cast<double>(s.groups);
    launch(device, "group_norm", {view(x), view(weight), view(bias)}, {view(y), view(mean), view(rstd)}, {groups, kEpsilon});
    check_close(y, reference(s, doubles(x), doubles(weight), doubles(bias)), 2e-6, 1e-6, "group_norm");
    F32 alone(x.shape);
    launch(device, "group_norm", {view(x), view(weight), view(bias)}, {view(alone), absent(), absent()}, {groups, kEpsilon});
    CHECK(alone.values == y.values);
    F32 mean_alone(mean.shape), rstd_alone(rstd.shape);
    launch(device, "group_norm", {view(x), view(weight), view(bias)}, {absent(), view(mean_alone), view(rstd_alone)}, {groups, kEpsilon});
    CHECK(mean_alone.values == mean.values && rstd_alone.values == rstd.values);
    launch(device, "group_norm_grad", {view(dy), view(x), view(weight), view(mean), view(rstd)}, {view(dx), view(dweight), view(dbias)}, {groups});
    auto of_x = [&](const Doubles& at) { return reference(s, at, doubles(weight), doubles(bias)); };
    auto of_weight = [&](const Doubles& at) { return reference(s, doubles(x), at, doubles(bias)); };
    auto of_bias = [&](const Doubles& at) { return reference(s, doubles(x), doubles(weight), at); };
    // x is 10 ± 2 in f32: z is off by 10 * 2^-24 / 2.
    check_close(dx, numeric_gradient(of_x, doubles(x), dy), 3e-6, 2e-6, "group_norm dx");
    check_close(dweight, numeric_gradient(of_weight, doubles(weight), dy), 3e-6, 1e-6, "group_norm dweight");
    check_close(dbias, numeric_gradient(of_bias, doubles(bias), dy), 1e-6, 1e-6, "group_norm dbias");
  }
}

// Many chunks of positions, an odd number of channels: against the definition, and independent of the threads.
TEST(group_norm_at_size) {
  const Shape s{2, 700, 66, 3};
  std::mt19937 generator(2);
  F32 x = normal(generator, {s.images, s.positions, s.channels}), weight = normal(generator, {s.channels}), bias = normal(generator, {s.channels}), y(x.shape);
  for (float& value : x.values) value += 100.0f;
  launch(device, "group_norm", {view(x), view(weight), view(bias)}, {view(y), absent(), absent()}, {3, kEpsilon});
  // The mean is rounded to f32 near 100: 4e-6 of a standard deviation.
  check_close(y, reference(s, doubles(x), doubles(weight), doubles(bias)), 3e-6, 1e-5, "group_norm at size");
}

TEST(group_norm_of_nothing) {
  F32 x({0, 3, 4}), weight({4}), bias({4}), y({0, 3, 4}), mean({0, 2}), rstd({0, 2}), dweight({4}, {1, 1, 1, 1}), dbias({4}, {1, 1, 1, 1});
  launch(device, "group_norm", {view(x), view(weight), view(bias)}, {view(y), view(mean), view(rstd)}, {2, kEpsilon});
  launch(device, "group_norm_grad", {view(y), view(x), view(weight), view(mean), view(rstd)}, {view(x), view(dweight), view(dbias)}, {2});
  for (size_t c = 0; c < 4; ++c) CHECK(dweight[c] == 0 && dbias[c] == 0);
}

TEST(group_norm_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    std::mt19937 generator(3);
    F32 x = normal(generator, {3, 20, 25, 64}), dy = normal(generator, x.shape), weight = normal(generator, {64}), bias = normal(generator, {64});
    F32 y(x.shape), mean({3, 32}), rstd({3, 32}), dx(x.shape), dweight({64}), dbias({64});
    launch(other, "group_norm", {view(x), view(weight), view(bias)}, {view(y), view(mean), view(rstd)}, {32, kEpsilon});
    launch(other, "group_norm_grad", {view(dy), view(x), view(weight), view(mean), view(rstd)}, {view(dx), view(dweight), view(dbias)}, {32});
    return std::vector<F32>{y, mean, rstd, dx, dweight, dbias};
  });
}
