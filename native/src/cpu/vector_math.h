// exp, log and friends on Vec: polynomials with a stated error, no libm in loops. Errors are checked in native/test.
#pragma once
#include "simd.h"

namespace trefoil::cpu::TREFOIL_ISA {

// e^x, at most 2 ulp on [-87.3, 88.7]; 0 below, +inf above, NaN stays NaN. Degree-6 polynomial after x = n ln 2 + r.
inline Vec exp(Vec x) {
  Vec clamped = min(splat(88.8f), max(splat(-88.0f), x));
  Vec n = round(clamped * splat(1.44269504088896341f));
  Vec r = fnma(n, splat(0.693359375f), clamped);
  r = fnma(n, splat(-2.12194440e-4f), r);
  Vec p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + splat(1.0f);
  // Two factors keep 2^n in range at both ends.
  Vec half = floor(n * splat(0.5f));
  Vec result = p * exp2_integer(half) * exp2_integer(n - half);
  result = select(less(x, splat(-87.33655f)), splat(0.0f), result);
  result = select(less(splat(88.72283f), x), splat(HUGE_VALF), result);
  return select(equal(x, x), result, x);
}

// 1 / (1 + e^-x)
inline Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exp(splat(0.0f) - x)); }

}  // namespace trefoil::cpu::TREFOIL_ISA
