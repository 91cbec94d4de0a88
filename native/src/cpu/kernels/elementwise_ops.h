// The instructions of `elementwise` on one tile: d[0, n) from a, b, c. d may be any of the operands.
#pragma once
#include "kernel.h"
#include "vector_math.h"

namespace trefoil::cpu::TREFOIL_ISA {
namespace {  // one family includes this: its names stay out of the others' way

// Numbers are those of docs/ops.md.
enum Opcode : int32_t {
  kCopy, kConstant, kAdd, kSubtract, kMultiply, kDivide, kMaximum, kMinimum, kPower, kNegate, kAbsolute, kExp, kLog, kSqrt,
  kRsqrt, kSin, kCos, kTanh, kSigmoid, kSilu, kGelu, kErf, kRelu, kSquare, kReciprocal, kFloor, kRound, kSign, kLess, kLessEqual,
  kEqual, kNotEqual, kWhere, kAddImmediate, kMultiplyImmediate, kSoftplus, kMultiplyAdd, kSiluGrad, kGeluGrad, kLogicalNot,
  kOpcodeCount
};

inline int operand_count(int32_t op) {
  switch (op) {
    case kConstant: return 0;
    case kAdd: case kSubtract: case kMultiply: case kDivide: case kMaximum: case kMinimum: case kPower: case kLess:
    case kLessEqual: case kEqual: case kNotEqual: case kSiluGrad: case kGeluGrad: return 2;
    case kWhere: case kMultiplyAdd: return 3;
    default: return 1;
  }
}

// Work of one instruction in units of an addition: decides how many elements make a task.
inline int64_t instruction_cost(int32_t op) {
  switch (op) {
    case kPower: return 64;
    case kExp: case kLog: case kSin: case kCos: case kTanh: case kSigmoid: case kSilu: case kGelu: case kErf: case kSoftplus:
    case kSiluGrad: case kGeluGrad: return 8;
    default: return 1;
  }
}

template <class F>
inline void map1(const float* a, float* d, int n, const F& f) {
  int i = 0;
  for (; i + Vec::width <= n; i += Vec::width) store(d + i, f(load(a + i)));
  if (i < n) store_n(d + i, f(load_n(a + i, n - i)), n - i);
}
template <class F>
inline void map2(const float* a, const float* b, float* d, int n, const F& f) {
  int i = 0;
  for (; i + Vec::width <= n; i += Vec::width) store(d + i, f(load(a + i), load(b + i)));
  if (i < n) store_n(d + i, f(load_n(a + i, n - i), load_n(b + i, n - i)), n - i);
}
template <class F>
inline void map3(const float* a, const float* b, const float* c, float* d, int n, const F& f) {
  int i = 0;
  for (; i + Vec::width <= n; i += Vec::width) store(d + i, f(load(a + i), load(b + i), load(c + i)));
  if (i < n) store_n(d + i, f(load_n(a + i, n - i), load_n(b + i, n - i), load_n(c + i, n - i)), n - i);
}

// A NaN in either operand is the result.
inline Vec maximum(Vec a, Vec b) { return select(equal(a, a), max(a, b), a); }
inline Vec minimum(Vec a, Vec b) { return select(equal(a, a), min(a, b), a); }

// The tanh form of gelu is x sigmoid(2u) with u = sqrt(2/pi) (x + 0.044715 x^3). x is clamped where the sigmoid has long
// saturated, so that the cube stays finite; max/min in this order keep NaN.
inline Vec gelu_argument(Vec x) { return x * fma(x * x, splat(2 * 0.7978845608f * 0.044715f), splat(2 * 0.7978845608f)); }
inline Vec clamp_to_gelu_range(Vec x) { return min(splat(20.0f), max(splat(-20.0f), x)); }
inline Vec gelu(Vec x) { return x * sigmoid(gelu_argument(clamp_to_gelu_range(x))); }
inline Vec gelu_derivative(Vec x) {
  Vec near = clamp_to_gelu_range(x);
  Vec s = sigmoid(gelu_argument(near));
  Vec slope = fma(near * near, splat(6 * 0.7978845608f * 0.044715f), splat(2 * 0.7978845608f));
  return fma(near * slope, s * (splat(1.0f) - s), s);
}
inline Vec silu_derivative(Vec x) {
  Vec s = sigmoid(x);
  return s * fma(x, splat(1.0f) - s, splat(1.0f));
}
// log(1 + e^x) = max(x, 0) + log1p(e^-|x|); log1p(e) = log(u) e / (u - 1) with u = 1 + e keeps its digits for small e.
inline Vec softplus(Vec x) {
  Vec e = exp(negate(absolute(x)));
  Vec u = splat(1.0f) + e;
  Vec difference = u - splat(1.0f);
  Vec log1p = select(equal(difference, splat(0.0f)), e, log(u) * (e / difference));
  return max(splat(0.0f), x) + log1p;
}

inline void run_instruction(int32_t op, const float* a, const float* b, const float* c, float immediate, float* d, int n) {
  const Vec zero = splat(0.0f), one = splat(1.0f), value = splat(immediate);
  switch (op) {
    case kCopy: map1(a, d, n, [](Vec x) { return x; }); break;
    case kAdd: map2(a, b, d, n, [](Vec x, Vec y) { return x + y; }); break;
    case kSubtract: map2(a, b, d, n, [](Vec x, Vec y) { return x - y; }); break;
    case kMultiply: map2(a, b, d, n, [](Vec x, Vec y) { return x * y; }); break;
    case kDivide: map2(a, b, d, n, [](Vec x, Vec y) { return x / y; }); break;
    case kMaximum: map2(a, b, d, n, [](Vec x, Vec y) { return maximum(x, y); }); break;
    case kMinimum: map2(a, b, d, n, [](Vec x, Vec y) { return minimum(x, y); }); break;
    case kPower:
      for (int i = 0; i < n; ++i) d[i] = ::powf(a[i], b[i]);
      break;
    case kNegate: map1(a, d, n, [](Vec x) { return negate(x); }); break;
    case kAbsolute: map1(a, d, n, [=](Vec x) { return max(x, zero - x); }); break;  // +0 for either zero
    case kExp: map1(a, d, n, [](Vec x) { return exp(x); }); break;
    case kLog: map1(a, d, n, [](Vec x) { return log(x); }); break;
    case kSqrt: map1(a, d, n, [](Vec x) { return sqrt(x); }); break;
    case kRsqrt: map1(a, d, n, [=](Vec x) { return one / sqrt(x); }); break;
    case kSin: map1(a, d, n, [](Vec x) { return sin(x); }); break;
    case kCos: map1(a, d, n, [](Vec x) { return cos(x); }); break;
    case kTanh: map1(a, d, n, [](Vec x) { return tanh(x); }); break;
    case kSigmoid: map1(a, d, n, [](Vec x) { return sigmoid(x); }); break;
    case kSilu: map1(a, d, n, [](Vec x) { return x * sigmoid(x); }); break;
    case kGelu: map1(a, d, n, [](Vec x) { return gelu(x); }); break;
    case kErf: map1(a, d, n, [](Vec x) { return erf(x); }); break;
    case kRelu: map1(a, d, n, [=](Vec x) { return max(zero, x); }); break;
    case kSquare: map1(a, d, n, [](Vec x) { return x * x; }); break;
    case kReciprocal: map1(a, d, n, [=](Vec x) { return one / x; }); break;
    case kFloor: map1(a, d, n, [](Vec x) { return floor(x); }); break;
    case kRound: map1(a, d, n, [](Vec x) { return round(x); }); break;
    // Zero and NaN are their own sign.
    case kSign: map1(a, d, n, [=](Vec x) { return select(less(zero, x), one, select(less(x, zero), splat(-1.0f), x)); }); break;
    case kLess: map2(a, b, d, n, [=](Vec x, Vec y) { return select(less(x, y), one, zero); }); break;
    case kLessEqual: map2(a, b, d, n, [=](Vec x, Vec y) { return select(less_equal(x, y), one, zero); }); break;
    case kEqual: map2(a, b, d, n, [=](Vec x, Vec y) { return select(equal(x, y), one, zero); }); break;
    case kNotEqual: map2(a, b, d, n, [=](Vec x, Vec y) { return select(equal(x, y), zero, one); }); break;
    case kWhere: map3(a, b, c, d, n, [=](Vec x, Vec y, Vec z) { return select(equal(x, zero), z, y); }); break;
    case kAddImmediate: map1(a, d, n, [=](Vec x) { return x + value; }); break;
    case kMultiplyImmediate: map1(a, d, n, [=](Vec x) { return x * value; }); break;
    case kSoftplus: map1(a, d, n, [](Vec x) { return softplus(x); }); break;
    case kMultiplyAdd: map3(a, b, c, d, n, [](Vec x, Vec y, Vec z) { return fma(x, y, z); }); break;
    case kSiluGrad: map2(a, b, d, n, [](Vec x, Vec y) { return silu_derivative(x) * y; }); break;
    case kGeluGrad: map2(a, b, d, n, [](Vec x, Vec y) { return gelu_derivative(x) * y; }); break;
    case kLogicalNot: map1(a, d, n, [=](Vec x) { return select(equal(x, zero), one, zero); }); break;
    default: fail(TREFOIL_INVALID_ARGUMENT, "elementwise: unknown opcode %d", op);
  }
}

}  // namespace
}  // namespace trefoil::cpu::TREFOIL_ISA
