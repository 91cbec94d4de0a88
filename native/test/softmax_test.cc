#include "numeric.h"
#include "row_widths.h"

using namespace trefoil::test;

namespace {

constexpr int64_t kLengths[] = {1, 3, 4, 16, 17, 31, 64, 65, 129, 1000, 20000, 33000};

Doubles reference_log_softmax(const Doubles& x, int64_t n) {
  Doubles y(x.size());
  for (size_t row = 0; row < x.size(); row += static_cast<size_t>(n)) {
    double top = *std::max_element(x.begin() + row, x.begin() + row + n), total = 0;
    for (int64_t i = 0; i < n; ++i) total += std::exp(x[row + i] - top);
    for (int64_t i = 0; i < n; ++i) y[row + i] = x[row + i] - top - std::log(total);
  }
  return y;
}

Doubles reference_softmax(const Doubles& x, int64_t n) {
  Doubles y = reference_log_softmax(x, n);
  for (double& value : y) value = std::exp(value);
  return y;
}

Doubles reference_logsumexp(const Doubles& x, int64_t n) {
  Doubles log_p = reference_log_softmax(x, n), y;
  for (size_t row = 0; row < x.size(); row += static_cast<size_t>(n)) y.push_back(x[row] - log_p[row]);
  return y;
}

}  // namespace

TEST(softmax_matches_double) {
  std::mt19937 generator(1);
  for (int64_t n : kLengths) {
    for (float scale : {1.0f, 1000.0f}) {  // 1000: e^x alone would overflow
      F32 x = normal(generator, {3, 2, n}, scale), y(x.shape);
      launch(device, "softmax", {view(x)}, {view(y)});
      check_close(y, reference_softmax(doubles(x), n), 1e-6, 0, "softmax");
      launch(device, "log_softmax", {view(x)}, {view(y)});
      check_close(y, reference_log_softmax(doubles(x), n), 3e-7, 0, "log_softmax");
      F32 total({3, 2});
      launch(device, "logsumexp", {view(x)}, {view(total)});
      check_close(total, reference_logsumexp(doubles(x), n), 3e-7, 0, "logsumexp");
    }
  }
}

TEST(softmax_gradients_match_differences) {
  std::mt19937 generator(2);
  for (int64_t n : {1, 5, 16, 37, 66}) {
    F32 x = normal(generator, {3, n}), dy = normal(generator, {3, n}), y(x.shape), dx(x.shape);
    launch(device, "softmax", {view(x)}, {view(y)});
    launch(device, "softmax_grad", {view(y), view(dy)}, {view(dx)});
    check_close(dx, numeric_gradient([&](const Doubles& at) { return reference_softmax(at, n); }, doubles(x), dy), 1e-6, 1e-7, "softmax dx");
    launch(device, "log_softmax", {view(x)}, {view(y)});
    launch(device, "log_softmax_grad", {view(y), view(dy)}, {view(dx)});
    check_close(dx, numeric_gradient([&](const Doubles& at) { return reference_log_softmax(at, n); }, doubles(x), dy), 1e-6, 1e-6,
                "log_softmax dx");
  }
}

TEST(softmax_at_every_width) {
  with_few_teams(device, [](Device& other) {
    std::mt19937 generator(4);
    for (auto [rows, n] : row_shapes()) {
      F32 x = normal(generator, {rows, n}, 3.0f), dy = normal(generator, {rows, n}), y(x.shape), dx(x.shape), total({rows});
      launch(other, "logsumexp", {view(x)}, {view(total)});
      check_close(total, reference_logsumexp(doubles(x), n), 3e-7, 0, "logsumexp");
      for (bool logarithm : {false, true}) {
        launch(other, logarithm ? "log_softmax" : "softmax", {view(x)}, {view(y)});
        check_close(y, (logarithm ? reference_log_softmax : reference_softmax)(doubles(x), n), logarithm ? 3e-7 : 1e-6, 0, logarithm ? "log_softmax" : "softmax");
        launch(other, logarithm ? "log_softmax_grad" : "softmax_grad", {view(y), view(dy)}, {view(dx)});
        // From y as it is in f32, what the gradient is given.
        Doubles expected(x.size()), terms(x.size());
        for (int64_t row = 0; row < rows; ++row) {
          double inner = 0, size = 0;
          for (int64_t i = row * n; i < (row + 1) * n; ++i) {
            const double term = logarithm ? dy[i] : double(y[i]) * dy[i];
            inner += term, size += std::fabs(term);
          }
          for (int64_t i = row * n; i < (row + 1) * n; ++i) {
            const double p = logarithm ? std::exp(double(y[i])) : y[i], of_dy = logarithm ? dy[i] : p * dy[i];
            expected[i] = of_dy - p * inner, terms[i] = std::fabs(of_dy) + p * size;
          }
        }
        // A few roundings of every term.
        for (size_t i = 0; i < expected.size(); ++i) CHECK(std::fabs(dx[i] - expected[i]) <= 0x1p-21 * terms[i] + 1e-30);
      }
    }
  });
}

TEST(softmax_of_extremes) {
  F32 x({4, 3}, {kNaN, 0, 1, -kInfinity, 2, 2, -kInfinity, -kInfinity, -kInfinity, 0, kInfinity, 0}), y({4, 3}), total({4});
  launch(device, "softmax", {view(x)}, {view(y)});
  for (int i = 0; i < 3; ++i) CHECK(std::isnan(y[i]));
  CHECK(y[3] == 0 && y[4] == 0.5f && y[5] == 0.5f);
  launch(device, "logsumexp", {view(x)}, {view(total)});
  CHECK(std::isnan(total[0]));
  CHECK(total[2] == -kInfinity);
  CHECK(total[3] == kInfinity);
}

TEST(softmax_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    std::mt19937 generator(3);
    F32 x = normal(generator, {700, 129}), dy = normal(generator, {700, 129}), y(x.shape), dx(x.shape), total({700});
    launch(other, "softmax", {view(x)}, {view(y)});
    launch(other, "softmax_grad", {view(y), view(dy)}, {view(dx)});
    launch(other, "logsumexp", {view(x)}, {view(total)});
    return std::vector<F32>{y, dx, total};
  });
}
