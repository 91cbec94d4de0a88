// exp, log and friends on Vec: no libm in loops, the errors stated here are checked by native/test/vector_math_test.cc.
// Polynomial coefficients are minimax fits (Remez exchange on the weighted relative error), rounded to f32.
#pragma once
#include "simd.h"

namespace trefoil::cpu::TREFOIL_ISA {

inline Vec negate(Vec x) { return splat(-0.0f) - x; }
inline Vec absolute(Vec x) { return max(negate(x), x); }

// exp2 for x < 128 or NaN: what softmax needs. Below 2^-126 the result is 0 or the denormal.
inline Vec exp2_bounded(Vec x) {
  Vec clamped = max(splat(kScaleUnderflows ? -160.0f : -127.0f), x);
  Vec n = round(clamped);
  Vec r = clamped - n;
  Vec p = splat(1.53455912e-4f);
  p = fma(p, r, splat(1.34001952e-3f));
  p = fma(p, r, splat(9.61849187e-3f));
  p = fma(p, r, splat(5.55032827e-2f));
  p = fma(p, r, splat(2.40226462e-1f));
  p = fma(p, r, splat(6.93147182e-1f));
  p = fma(p, r, splat(1.0f));
  if constexpr (kScaleUnderflows) return scale_exponent(p, n);
  return select(less(x, splat(-126.0f)), splat(0.0f), scale_exponent(p, n));
}

// 2^x, at most 2 ulp on [-126, 128); 0 below, +inf above, NaN stays NaN.
inline Vec exp2(Vec x) {
  Vec result = select(less_equal(splat(128.0f), x), splat(HUGE_VALF), exp2_bounded(min(splat(127.99999f), x)));
  result = select(less(x, splat(-126.0f)), splat(0.0f), result);
  return select(equal(x, x), result, x);
}

// e^x, at most 2 ulp on [-87.3365, 88.7228]; 0 below, +inf above, NaN stays NaN.
inline Vec exp(Vec x) {
  Vec clamped = min(splat(89.0f), max(splat(-88.0f), x));
  Vec n = round(clamped * splat(1.44269504f));
  Vec r = fnma(n, splat(0.693359375f), clamped);  // ln 2 in two parts, so that n * high is exact
  r = fnma(n, splat(-2.12194440e-4f), r);
  Vec p = splat(1.38143206e-3f);
  p = fma(p, r, splat(8.36885069e-3f));
  p = fma(p, r, splat(4.16684002e-2f));
  p = fma(p, r, splat(1.66665196e-1f));
  p = fma(p, r, splat(4.9999994e-1f));
  p = fma(p, r * r, r) + splat(1.0f);
  Vec result = select(less(x, splat(-87.33655f)), splat(0.0f), scale_exponent(p, n));
  result = select(less(splat(88.72283f), x), splat(HUGE_VALF), result);
  return select(equal(x, x), result, x);
}

// ln x, at most 2 ulp; denormals included. -inf at 0, NaN below.
inline Vec log(Vec x) {
  Mask small = less(x, splat(1.17549435e-38f));
  Vec normal = select(small, x * splat(8388608.0f), x);
  Vec m = mantissa(normal), e = exponent(normal);
  e = select(small, e - splat(23.0f), e);
  Mask upper = less(splat(1.41421354f), m);  // m to [sqrt 1/2, sqrt 2]
  m = select(upper, m * splat(0.5f), m);
  e = select(upper, e + splat(1.0f), e);
  Vec f = m - splat(1.0f);
  Vec p = splat(6.74664155e-2f);
  p = fma(p, f, splat(-1.16756514e-1f));
  p = fma(p, f, splat(1.18881613e-1f));
  p = fma(p, f, splat(-1.24055885e-1f));
  p = fma(p, f, splat(1.42195523e-1f));
  p = fma(p, f, splat(-1.66679963e-1f));
  p = fma(p, f, splat(2.00021192e-1f));
  p = fma(p, f, splat(-2.50000089e-1f));
  p = fma(p, f, splat(3.33333135e-1f));
  Vec square = f * f;
  Vec tail = fma(p * f, square, e * splat(-2.12194440e-4f));
  tail = fnma(square, splat(0.5f), tail);
  Vec result = fma(e, splat(0.693359375f), f + tail);
  result = select(equal(x, splat(HUGE_VALF)), x, result);
  result = select(equal(x, splat(0.0f)), splat(-HUGE_VALF), result);
  return select(less_equal(splat(0.0f), x), result, splat(NAN));
}

// 1 / (1 + e^-x), at most 4 ulp where it exceeds 2^-126; 0 where e^-x overflows.
inline Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exp(negate(x))); }

// tanh x, at most 2 ulp: an odd polynomial near 0, 1 - 2 / (e^2|x| + 1) beyond.
inline Vec tanh(Vec x) {
  Vec z = x * x;
  Vec p = splat(2.1135041e-3f);
  p = fma(p, z, splat(-8.15085042e-3f));
  p = fma(p, z, splat(2.1693211e-2f));
  p = fma(p, z, splat(-5.39462566e-2f));
  p = fma(p, z, splat(1.33332118e-1f));
  p = fma(p, z, splat(-3.33333313e-1f));
  Vec near = fma(p * z, x, x);
  Vec size = absolute(x);
  Vec far = splat(1.0f) - splat(2.0f) / (exp(size + size) + splat(1.0f));
  far = select(less(x, splat(0.0f)), negate(far), far);
  return select(less(size, splat(0.625f)), near, far);
}

// erf x, at most 2 ulp: x P(x^2) on |x| < 1, 1 - exp Q(|x|) up to 4, then 1.
inline Vec erf(Vec x) {
  Vec z = x * x;
  Vec p = splat(-9.64151786e-6f);
  p = fma(p, z, splat(1.12569483e-4f));
  p = fma(p, z, splat(-8.48282885e-4f));
  p = fma(p, z, splat(5.22094546e-3f));
  p = fma(p, z, splat(-2.68654004e-2f));
  p = fma(p, z, splat(1.12837821e-1f));
  p = fma(p, z, splat(-3.76126379e-1f));
  p = fma(p, z, splat(1.28379166e-1f));
  Vec near = fma(p, x, x);
  Vec size = min(splat(4.0f), absolute(x));
  Vec q = splat(-1.56624501e-5f);  // ln erfc
  q = fma(q, size, splat(3.57215293e-4f));
  q = fma(q, size, splat(-3.7143291e-3f));
  q = fma(q, size, splat(2.36651935e-2f));
  q = fma(q, size, splat(-1.05589278e-1f));
  q = fma(q, size, splat(-6.36239231e-1f));
  q = fma(q, size, splat(-1.12784231f));
  q = fma(q, size, splat(-2.27064811e-4f));
  Vec far = splat(1.0f) - exp(q);
  far = select(less(x, splat(0.0f)), negate(far), far);
  return select(less(size, splat(1.0f)), near, far);
}

// sin(x - n pi/2 + n pi/2): the quadrant n picks sine or cosine of the reduced argument, and the sign.
inline Vec sine_of_quadrant(Vec x, Vec n, float shift) {
  // pi/2 in four parts; n has at most 13 bits and the first three 11, so the products are exact without a fused multiply.
  Vec r = fnma(n, splat(1.5703125f), x);
  r = fnma(n, splat(4.837512969970703e-4f), r);
  r = fnma(n, splat(7.549533620476723e-8f), r);
  r = fnma(n, splat(2.5633441e-12f), r);
  Vec z = r * r;
  Vec s = fma(fma(splat(-1.95026238e-4f), z, splat(8.33209138e-3f)), z, splat(-1.66666552e-1f));
  s = fma(s * z, r, r);
  Vec c = fma(fma(splat(2.44624935e-5f), z, splat(-1.38876447e-3f)), z, splat(4.1666653e-2f));
  c = fma(c * z, z, fnma(splat(0.5f), z, splat(1.0f)));
  Vec quadrant = n + splat(shift);
  Vec half = quadrant * splat(0.5f);
  Vec whole = floor(half);
  Vec value = select(less(whole, half), c, s);
  Vec turns = whole * splat(0.5f);
  return select(less(floor(turns), turns), negate(value), value);
}

// Arguments beyond this are left to libm: the reduction above would lose its exactness.
constexpr float kTrigonometricLimit = 8192.0f;

inline Vec replace_large(Vec x, Vec result, float (*function)(float)) {
  if (!any(less(splat(kTrigonometricLimit), absolute(x)))) return result;
  float from[Vec::width], to[Vec::width];
  store(from, x);
  store(to, result);
  for (int i = 0; i < Vec::width; ++i)
    if (!(::fabsf(from[i]) <= kTrigonometricLimit)) to[i] = function(from[i]);
  return load(to);
}

// sin x: at most 3 ulp where |sin x| > 2^-10, and an absolute error of at most 2^-33 below.
inline Vec sin(Vec x) {
  Vec n = round(x * splat(0.636619772f));
  return replace_large(x, sine_of_quadrant(x, n, 0.0f), ::sinf);
}

// cos x: errors as for sin.
inline Vec cos(Vec x) {
  Vec n = round(x * splat(0.636619772f));
  return replace_large(x, sine_of_quadrant(x, n, 1.0f), ::cosf);
}

}  // namespace trefoil::cpu::TREFOIL_ISA
