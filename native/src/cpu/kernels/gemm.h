// Matrix products for the kernel families: one product, a batch, or a ragged group of them, run as one list of tasks.
#pragma once
#include "kernel.h"
#include "matrix.h"

namespace trefoil::cpu::TREFOIL_ISA {

enum class Activation { none = 0, relu = 1, gelu = 2, silu = 3 };

// What happens to a tile of C right after it is finished: z = alpha * sum + bias; c = activation(z) + residual.
struct Epilogue {
  float alpha = 1.0f;
  const float* bias = nullptr;      // [n]
  Activation activation = Activation::none;
  const float* residual = nullptr;  // laid out like C
  float* preactivation = nullptr;   // laid out like C; receives z
};

// C[m, n] = epilogue(a[m, k] b[k, n]); with accumulate C += a b, and the epilogue must be the default one.
struct Gemm {
  int64_t m = 0, n = 0, k = 0;
  Matrix a, b;
  float* c = nullptr;
  int64_t c_stride = 0;
  bool accumulate = false;
  bool rounded = false;  // operands are rounded to bf16 where they are packed; gemm() says so
  Epilogue epilogue;
};

// Bytes of scratch for one product; only sizes, strides and the transposed and row-list marks need to be set.
size_t gemm_workspace(const Gemm& product);
// Bytes of scratch for `count` products with this one's n whose k add up to at most k_total.
size_t gemm_workspace(const Gemm& largest, int64_t count, int64_t k_total);

// Runs the products. The order of every sum depends on the problem alone, never on the number of threads.
// Uses scratch slots 6 and 7 of every thread.
void gemm(Context& context, const Gemm* products, int64_t count, void* workspace);

}  // namespace trefoil::cpu::TREFOIL_ISA
