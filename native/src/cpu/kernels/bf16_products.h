// Products of operands rounded to bf16, sums in f32: how gemm.cc packs them and multiplies tiles. Two neighbours in k are a pair of 32 bits,
// the first in the low half, moved about as an f32; AVX512-BF16 and Arm's BF16 multiply as many pairs at once as f32 instructions take numbers.
#pragma once
#include "matrix.h"

namespace trefoil::cpu {

struct KernelEntry;

// C[rows, columns] (+)= A B over so many pairs; B is one packed panel.
using PairKernel = void (*)(int64_t pairs, const float* a, int64_t lda, const float* b, float* c, int64_t ldc, bool accumulate, int columns);

// C[rows, columns] (+)= dot products of rows of pairs with rows of B, f32 or bf16 as they are stored, over k. Of what comes next in memory `lines`
// cache lines are fetched on the way for every 32 of k.
using DotPairsKernel = void (*)(int64_t k, const float* a, int64_t lda, const void* b, int64_t ldb, float* c, int64_t ldc, bool accumulate, const char* next, int lines);

// One table for each way to multiply pairs. Panels are those of gemm_pack.h, of pairs(depth) steps.
struct Bf16Products {
  void (*pack_a)(const Matrix& a, int64_t row, int64_t count, int64_t k0, int64_t depth, float* to);
  void (*pack_b)(const Matrix& b, int64_t k0, int64_t depth, int64_t first, int64_t last, float* to);
  PairKernel (*kernel)(bool by_columns, int rows);
  // Few rows against a transposed B: rows of a as pairs, [count][pairs(k)], and the kernel for up to 6 rows and 1 or 4 columns. Null where the CPU
  // has no instructions for pairs: to round would cost more than it saves, and operands are multiplied as they are.
  void (*pack_rows)(const Matrix& a, int64_t row, int64_t count, int64_t k, float* to);
  DotPairsKernel (*dot)(bool bf16, int rows, int columns);
  // What takes the place of this ISA's kernels of the same names, ended by null; null: nothing.
  const KernelEntry* kernels;
};

// Steps of k that are taken two at a time; an odd one out meets a zero.
inline constexpr int64_t pairs(int64_t depth) { return depth / 2 + depth % 2; }

}  // namespace trefoil::cpu
