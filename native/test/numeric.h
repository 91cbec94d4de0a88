// Double-precision references for the tests: plain formulas, and gradients of them by central differences.
#pragma once
#include <functional>
#include <limits>
#include <vector>

#include "harness.h"

namespace trefoil::test {

using Doubles = std::vector<double>;

inline Doubles doubles(const F32& array) { return Doubles(array.values.begin(), array.values.end()); }

// d <weights, function(x)> / dx; in double the error of a central difference with this step is about 1e-9 of the result.
inline Doubles numeric_gradient(const std::function<Doubles(const Doubles&)>& function, Doubles x, const F32& weights) {
  constexpr double step = 1e-5;
  auto inner = [&](const Doubles& at) {
    Doubles y = function(at);
    double total = 0;
    for (size_t i = 0; i < y.size(); ++i) total += y[i] * weights[i];
    return total;
  };
  Doubles gradient(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    double centre = x[i];
    x[i] = centre + step;
    double above = inner(x);
    x[i] = centre - step;
    double below = inner(x);
    x[i] = centre;
    gradient[i] = (above - below) / (2 * step);
  }
  return gradient;
}

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace trefoil::test
