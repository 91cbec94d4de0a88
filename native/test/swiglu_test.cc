#include <cstring>

#include "numeric.h"

using namespace trefoil::test;

namespace {

Doubles reference(const Doubles& x, int64_t f) {
  Doubles y(x.size() / 2);
  for (size_t i = 0; i < y.size(); ++i) {
    size_t row = i / static_cast<size_t>(f), column = i % static_cast<size_t>(f);
    double gate = x[row * 2 * f + column], up = x[row * 2 * f + f + column];
    y[i] = gate / (1 + std::exp(-gate)) * up;
  }
  return y;
}

}  // namespace

TEST(swiglu_matches_double) {
  std::mt19937 generator(1);
  for (int64_t f : {1, 4, 15, 16, 33, 100}) {
    F32 x = normal(generator, {2, 3, 2 * f}, 3.0f), dy = normal(generator, {2, 3, f}), y({2, 3, f}), dx(x.shape);
    launch(device, "swiglu", {view(x)}, {view(y)});
    check_close(y, reference(doubles(x), f), 5e-7, 0, "swiglu");
    launch(device, "swiglu_grad", {view(x), view(dy)}, {view(dx)});
    check_close(dx, numeric_gradient([&](const Doubles& at) { return reference(at, f); }, doubles(x), dy), 1e-6, 1e-7, "swiglu dx");
  }
}

TEST(swiglu_saturates_without_overflow) {
  F32 x({1, 4}, {-200.0f, 200.0f, 3.0f, 3.0f}), y({1, 2}), dy({1, 2}, {1.0f, 1.0f}), dx({1, 4});
  launch(device, "swiglu", {view(x)}, {view(y)});
  CHECK(y[0] == 0 && y[1] == 600.0f);
  launch(device, "swiglu_grad", {view(x), view(dy)}, {view(dx)});
  CHECK(dx[0] == 0 && dx[1] == 3.0f && dx[2] == 0 && dx[3] == 200.0f);
}

// Large results whose rows are whole lines are written past the caches: the same numbers as row by row.
TEST(swiglu_past_the_caches) {
  if (!(device.backend->flags & TREFOIL_BACKEND_HOST_MEMORY)) return;
  constexpr int64_t rows = 4100, f = 1024;
  F32 x({rows, 2 * f}), dy({rows, f}), y_storage({rows * f + 16}), dx_storage({rows * 2 * f + 16}), y({1, f}), dx({1, 2 * f});
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 1009) * 0.01f - 5.0f;
  for (size_t i = 0; i < dy.size(); ++i) dy[i] = static_cast<float>(i % 997) * 0.002f - 1.0f;
  TrefoilView all = aligned_view(y_storage, {rows, f}), all_dx = aligned_view(dx_storage, {rows, 2 * f});
  launch(device, "swiglu", {view(x)}, {all});
  launch(device, "swiglu_grad", {view(x), view(dy)}, {all_dx});
  for (int64_t row : {int64_t{0}, int64_t{1777}, rows - 1}) {
    F32 one({1, 2 * f}, std::vector<float>(&x[row * 2 * f], &x[row * 2 * f] + 2 * f));
    F32 upstream({1, f}, std::vector<float>(&dy[row * f], &dy[row * f] + f));
    launch(device, "swiglu", {view(one)}, {view(y)});
    launch(device, "swiglu_grad", {view(one), view(upstream)}, {view(dx)});
    CHECK(std::memcmp(y.values.data(), static_cast<float*>(all.data) + row * f, f * sizeof(float)) == 0);
    CHECK(std::memcmp(dx.values.data(), static_cast<float*>(all_dx.data) + row * 2 * f, 2 * f * sizeof(float)) == 0);
  }
}

TEST(swiglu_propagates_nan) {
  F32 x({1, 2}, {kNaN, 1.0f}), y({1, 1});
  launch(device, "swiglu", {view(x)}, {view(y)});
  CHECK(std::isnan(y[0]));
}

TEST(swiglu_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    std::mt19937 generator(2);
    F32 x = normal(generator, {500, 2 * 77}), dy = normal(generator, {500, 77}), y({500, 77}), dx(x.shape);
    launch(other, "swiglu", {view(x)}, {view(y)});
    launch(other, "swiglu_grad", {view(x), view(dy)}, {view(dx)});
    return std::vector<F32>{y, dx};
  });
}
