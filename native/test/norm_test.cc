#include <cstring>

#include "numeric.h"
#include "row_widths.h"

using namespace trefoil::test;

namespace {

constexpr double kEpsilon = 1e-5;

Doubles reference_rms(const Doubles& x, const Doubles& weight) {
  size_t n = weight.size();
  Doubles y(x.size());
  for (size_t row = 0; row < x.size(); row += n) {
    double squares = 0;
    for (size_t i = 0; i < n; ++i) squares += x[row + i] * x[row + i];
    double rstd = 1 / std::sqrt(squares / static_cast<double>(n) + kEpsilon);
    for (size_t i = 0; i < n; ++i) y[row + i] = x[row + i] * rstd * weight[i];
  }
  return y;
}

Doubles reference_layer(const Doubles& x, const Doubles& weight, const Doubles& bias) {
  size_t n = weight.size();
  Doubles y(x.size());
  for (size_t row = 0; row < x.size(); row += n) {
    double mean = 0, squares = 0;
    for (size_t i = 0; i < n; ++i) mean += x[row + i] / static_cast<double>(n);
    for (size_t i = 0; i < n; ++i) squares += (x[row + i] - mean) * (x[row + i] - mean);
    double rstd = 1 / std::sqrt(squares / static_cast<double>(n) + kEpsilon);
    for (size_t i = 0; i < n; ++i) y[row + i] = (x[row + i] - mean) * rstd * weight[i] + bias[i];
  }
  return y;
}

struct Shape {
  int64_t rows, n;
};
// 40 and 70 rows: more than one partial sum of the weight gradients.
constexpr Shape kShapes[] = {{1, 1}, {3, 5}, {4, 16}, {7, 33}, {40, 19}, {70, 64}};

}  // namespace

TEST(rms_norm_matches_double) {
  std::mt19937 generator(1);
  for (auto [rows, n] : kShapes) {
    F32 x = normal(generator, {rows, n}, 2.0f), weight = normal(generator, {n}), dy = normal(generator, {rows, n});
    F32 y(x.shape), rstd({rows}), dx(x.shape), dweight({n});
    launch(device, "rms_norm", {view(x), view(weight)}, {view(y), view(rstd)}, {kEpsilon});
    check_close(y, reference_rms(doubles(x), doubles(weight)), 5e-7, 0, "rms_norm");
    F32 rstd_alone({rows});
    launch(device, "rms_norm", {view(x), view(weight)}, {absent(), view(rstd_alone)}, {kEpsilon});
    CHECK(rstd_alone.values == rstd.values);
    launch(device, "rms_norm_grad", {view(dy), view(x), view(weight), view(rstd)}, {view(dx), view(dweight)});
    auto of_x = [&](const Doubles& at) { return reference_rms(at, doubles(weight)); };
    auto of_weight = [&](const Doubles& at) { return reference_rms(doubles(x), at); };
    check_close(dx, numeric_gradient(of_x, doubles(x), dy), 1e-6, 1e-6, "rms_norm dx");
    check_close(dweight, numeric_gradient(of_weight, doubles(weight), dy), 1e-6, 1e-6, "rms_norm dweight");
    F32 dx_alone(x.shape);
    launch(device, "rms_norm_grad", {view(dy), view(x), view(weight), view(rstd)}, {view(dx_alone), absent()});
    CHECK(dx_alone.values == dx.values);
  }
}

// Large results whose rows are whole lines are written past the caches: the same numbers as row by row.
TEST(rms_norm_past_the_caches) {
  if (!(device.backend->flags & TREFOIL_BACKEND_HOST_MEMORY)) return;
  constexpr int64_t rows = 4100, width = 1024;
  F32 x({rows, width}), weight({width}), storage({rows * width + 16}), y({1, width});
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 1009) * 0.01f - 5.0f;
  for (size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>(i % 7) * 0.5f;
  TrefoilView all = aligned_view(storage, {rows, width});
  launch(device, "rms_norm", {view(x), view(weight)}, {all}, {1e-5});
  for (int64_t row : {int64_t{0}, int64_t{1777}, rows - 1}) {
    F32 one({1, width}, std::vector<float>(&x[row * width], &x[row * width] + width));
    launch(device, "rms_norm", {view(one), view(weight)}, {view(y)}, {1e-5});
    CHECK(std::memcmp(y.values.data(), static_cast<float*>(all.data) + row * width, width * sizeof(float)) == 0);
  }
}

TEST(layer_norm_matches_double) {
  std::mt19937 generator(2);
  for (auto [rows, n] : kShapes) {
    if (n == 1) continue;  // x - mean is 0: nothing to compare
    F32 x = normal(generator, {rows, n}, 2.0f), weight = normal(generator, {n}), bias = normal(generator, {n});
    for (float& value : x.values) value += 10.0f;  // a mean that a one-pass variance would lose digits to
    F32 dy = normal(generator, {rows, n});
    F32 y(x.shape), mean({rows}), rstd({rows}), dx(x.shape), dweight({n}), dbias({n});
    for (bool affine : {true, false}) {
      F32 ones({n}, std::vector<float>(n, 1.0f)), zeros({n});
      const F32 &w = affine ? weight : ones, &b = affine ? bias : zeros;
      launch(device, "layer_norm", {view(x), affine ? view(weight) : absent(), affine ? view(bias) : absent()},
             {view(y), view(mean), view(rstd)}, {kEpsilon});
      check_close(y, reference_layer(doubles(x), doubles(w), doubles(b)), 2e-6, 0, "layer_norm");
      F32 mean_alone({rows}), rstd_alone({rows});
      launch(device, "layer_norm", {view(x), absent(), absent()}, {absent(), view(mean_alone), view(rstd_alone)}, {kEpsilon});
      CHECK(mean_alone.values == mean.values && rstd_alone.values == rstd.values);
      launch(device, "layer_norm_grad", {view(dy), view(x), affine ? view(weight) : absent(), view(mean), view(rstd)},
             {view(dx), affine ? view(dweight) : absent(), affine ? view(dbias) : absent()});
      auto of_x = [&](const Doubles& at) { return reference_layer(at, doubles(w), doubles(b)); };
      check_close(dx, numeric_gradient(of_x, doubles(x), dy), 3e-6, 1e-6, "layer_norm dx");
      if (!affine) continue;
      auto of_weight = [&](const Doubles& at) { return reference_layer(doubles(x), at, doubles(b)); };
      auto of_bias = [&](const Doubles& at) { return reference_layer(doubles(x), doubles(w), at); };
      check_close(dweight, numeric_gradient(of_weight, doubles(weight), dy), 3e-6, 1e-6, "layer_norm dweight");
      check_close(dbias, numeric_gradient(of_bias, doubles(bias), dy), 1e-6, 1e-6, "layer_norm dbias");
    }
  }
}

namespace {

// The gradients of RMSNorm (all means 0) and LayerNorm.
struct Gradients {
  Doubles dx, dweight, dbias;
};
Gradients reference_gradients(const F32& dy, const F32& x, const F32& weight, bool centred) {
  const size_t n = weight.size();
  Gradients result{Doubles(x.size()), Doubles(n), Doubles(n)};
  for (size_t row = 0; row < x.size(); row += n) {
    double mean = 0, squares = 0, plain = 0, inner = 0;
    for (size_t i = 0; i < n && centred; ++i) mean += x[row + i] / static_cast<double>(n);
    for (size_t i = 0; i < n; ++i) squares += (x[row + i] - mean) * (x[row + i] - mean);
    const double rstd = 1 / std::sqrt(squares / static_cast<double>(n) + kEpsilon);
    for (size_t i = 0; i < n; ++i) {
      const double z = (x[row + i] - mean) * rstd, g = double(dy[row + i]) * weight[i];
      plain += centred ? g / static_cast<double>(n) : 0, inner += g * z / static_cast<double>(n);
      result.dweight[i] += dy[row + i] * z, result.dbias[i] += dy[row + i];
    }
    for (size_t i = 0; i < n; ++i) result.dx[row + i] = rstd * (double(dy[row + i]) * weight[i] - plain - (x[row + i] - mean) * rstd * inner);
  }
  return result;
}

}  // namespace

TEST(norms_at_every_width) {
  with_few_teams(device, [](Device& other) {
    std::mt19937 generator(4);
    for (auto [rows, n] : row_shapes()) {
      F32 x = normal(generator, {rows, n}), dy = normal(generator, {rows, n}), weight = normal(generator, {n}), bias = normal(generator, {n});
      // Neighbours apart: no row is of one number alone, whose differences from the mean would be noise.
      for (size_t i = 0; i < x.size(); ++i) x[i] += static_cast<int64_t>(i) % n % 2 ? 3.0f : -2.0f;
      F32 y(x.shape), mean({rows}), rstd({rows}), dx(x.shape), dweight({n}), dbias({n});
      launch(other, "rms_norm", {view(x), view(weight)}, {view(y), view(rstd)}, {kEpsilon});
      check_close(y, reference_rms(doubles(x), doubles(weight)), 5e-7, 0, "rms_norm");
      launch(other, "rms_norm_grad", {view(dy), view(x), view(weight), view(rstd)}, {view(dx), view(dweight)});
      const Gradients rms = reference_gradients(dy, x, weight, false);
      check_close(dx, rms.dx, 1e-6, 1e-6, "rms_norm dx");
      check_close(dweight, rms.dweight, 1e-6, 0, "rms_norm dweight");
      if (n == 1) continue;  // x - mean is 0: nothing to compare
      launch(other, "layer_norm", {view(x), view(weight), view(bias)}, {view(y), view(mean), view(rstd)}, {kEpsilon});
      check_close(y, reference_layer(doubles(x), doubles(weight), doubles(bias)), 2e-6, 0, "layer_norm");
      launch(other, "layer_norm_grad", {view(dy), view(x), view(weight), view(mean), view(rstd)}, {view(dx), view(dweight), view(dbias)});
      const Gradients layer = reference_gradients(dy, x, weight, true);
      check_close(dx, layer.dx, 3e-6, 1e-6, "layer_norm dx");
      check_close(dweight, layer.dweight, 3e-6, 0, "layer_norm dweight");
      check_close(dbias, layer.dbias, 1e-6, 0, "layer_norm dbias");
    }
  });
}

TEST(norms_of_extremes) {
  F32 zeros({1, 20}), weight({20}, std::vector<float>(20, 1.0f)), y({1, 20});
  launch(device, "rms_norm", {view(zeros), view(weight)}, {view(y), absent()}, {kEpsilon});
  for (float value : y.values) CHECK(value == 0);
  launch(device, "layer_norm", {view(zeros), view(weight), absent()}, {view(y), absent(), absent()}, {kEpsilon});
  for (float value : y.values) CHECK(value == 0);
  F32 x({1, 20});
  x[18] = kNaN;
  launch(device, "rms_norm", {view(x), view(weight)}, {view(y), absent()}, {kEpsilon});
  for (float value : y.values) CHECK(std::isnan(value));
  launch(device, "layer_norm", {view(x), absent(), absent()}, {view(y), absent(), absent()}, {kEpsilon});
  for (float value : y.values) CHECK(std::isnan(value));
}

TEST(norms_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    std::mt19937 generator(3);
    F32 x = normal(generator, {999, 130}), dy = normal(generator, {999, 130}), weight = normal(generator, {130});
    F32 y(x.shape), mean({999}), rstd({999}), dx(x.shape), dweight({130}), dx_layer(x.shape), dweight_layer({130}), dbias({130});
    launch(other, "rms_norm", {view(x), view(weight)}, {view(y), view(rstd)}, {kEpsilon});
    launch(other, "rms_norm_grad", {view(dy), view(x), view(weight), view(rstd)}, {view(dx), view(dweight)});
    launch(other, "layer_norm", {view(x), view(weight), absent()}, {view(y), view(mean), view(rstd)}, {kEpsilon});
    launch(other, "layer_norm_grad", {view(dy), view(x), view(weight), view(mean), view(rstd)},
           {view(dx_layer), view(dweight_layer), view(dbias)});
    return std::vector<F32>{y, dx, dweight, dx_layer, dweight_layer, dbias};
  });
}
