// What matmul does to a finished tile of C while it is in cache: scale, bias, activation, residual.
#pragma once
#include "gemm.h"
#include "vector_math.h"

namespace trefoil::cpu::TREFOIL_ISA {

inline bool is_trivial(const Epilogue& e) {
  return e.alpha == 1.0f && !e.bias && e.activation == Activation::none && !e.residual && !e.preactivation;
}

template <Activation activation>
inline Vec activate(Vec z) {
  if constexpr (activation == Activation::relu) {
    return max(splat(0.0f), z);  // this order keeps a NaN
  } else if constexpr (activation == Activation::silu) {
    return z * sigmoid(z);
  } else if constexpr (activation == Activation::gelu) {
    // 0.5 z (1 + tanh u) = z sigmoid(2 u), u = sqrt(2 / pi) (z + 0.044715 z^3)
    Vec u2 = splat(1.5957691216057308f) * fma(splat(0.044715f) * z * z, z, z);
    return z * sigmoid(u2);
  } else {
    return z;
  }
}

template <Activation activation>
void finish_rows(const Epilogue& e, float* c, int64_t stride, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  const Vec alpha = splat(e.alpha);
  for (int64_t i = row; i < row + rows; ++i) {
    for (int64_t j = column; j < column + columns; j += Vec::width) {
      int64_t left = column + columns - j, at = i * stride + j;
      int lanes = left < Vec::width ? static_cast<int>(left) : Vec::width;
      bool whole = lanes == Vec::width;
      auto read = [&](const float* p) { return whole ? load(p) : load_n(p, lanes); };
      auto write = [&](float* p, Vec v) { whole ? store(p, v) : store_n(p, v, lanes); };
      Vec z = read(c + at) * alpha;
      if (e.bias) z = z + read(e.bias + j);
      if (e.preactivation) write(e.preactivation + at, z);
      z = activate<activation>(z);
      if (e.residual) z = z + read(e.residual + at);
      write(c + at, z);
    }
  }
}

// Applies e to C[row .. row + rows, column .. column + columns]; c is the whole matrix.
inline void finish(const Epilogue& e, float* c, int64_t stride, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  switch (e.activation) {
    case Activation::none: return finish_rows<Activation::none>(e, c, stride, row, rows, column, columns);
    case Activation::relu: return finish_rows<Activation::relu>(e, c, stride, row, rows, column, columns);
    case Activation::gelu: return finish_rows<Activation::gelu>(e, c, stride, row, rows, column, columns);
    case Activation::silu: return finish_rows<Activation::silu>(e, c, stride, row, rows, column, columns);
  }
}

}  // namespace trefoil::cpu::TREFOIL_ISA
