// The matmul micro-kernels: a tile of C stays in registers while k runs. Each element of C is one fused multiply-add chain in
// order of k, whatever the tile's size, so results do not depend on how the work was cut.
#pragma once
#include "simd.h"

namespace trefoil::cpu::TREFOIL_ISA {

// kRows x kColumns accumulators fill the register file, less what B and one broadcast of A need.
#if defined(TREFOIL_ISA_AVX512)
constexpr int kTileRows = 12, kTileVectors = 2, kAccumulators = 24;
#elif defined(TREFOIL_ISA_AVX2)
constexpr int kTileRows = 6, kTileVectors = 2, kAccumulators = 12;
#elif defined(TREFOIL_ISA_NEON)
constexpr int kTileRows = 8, kTileVectors = 3, kAccumulators = 24;
#else
constexpr int kTileRows = 4, kTileVectors = 2, kAccumulators = 8;
#endif
constexpr int kTileColumns = kTileVectors * Vec::width;
constexpr int kLine = 16;   // floats to a cache line
constexpr int kPackedAhead = 12 * kTileColumns;  // packed B comes from L2 or L3: fetched 12 steps of k before its use
constexpr int64_t kStoredAhead = 32;             // rows of B as stored come from further away

inline Vec load_wide(const float* p) { return load(p); }
inline Vec load_wide(const uint16_t* p) { return load_bf16(p); }
inline Vec load_wide_n(const float* p, int n) { return load_n(p, n); }
inline Vec load_wide_n(const uint16_t* p, int n) {
  uint16_t lanes[Vec::width] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load_bf16(lanes);
}

// How the micro-kernel walks A: by rows (element (i, k) at a[i * lda + k]) or by columns (a[k * lda + i]).
enum class Walk { rows, columns };

// Where the micro-kernel finds B: packed and in cache, fetched into the nearest one; or in rows as stored, fetched into L2 (the nearest
// would have to wait for memory), perhaps leaving a packed copy behind for the rows of A that follow. Source::fetching is packed, and brings
// something that is wanted later into L2 besides.
enum class Source { packed, fetching, stored, packing };
struct Beside {
  const char* from = nullptr;  // fetched in the first step of k
  int64_t step = 0;            // bytes to what is fetched in the next
};

// C[R, V * width] = (accumulate ? C : 0) + A[R, kc] B[kc, V * width]. With Masked the last vector has `tail` lanes.
// B is fetched `ahead` elements before it is read. Source::packing writes it to packed [kc, V * width].
template <int R, int V, Walk walk, bool Masked, Source source, class B>
void micro_kernel(int64_t kc, const float* a, int64_t lda, const B* b, int64_t ldb, float* c, int64_t ldc, bool accumulate,
                  int tail, int64_t ahead, float* packed, Beside beside) {
  constexpr bool near = source == Source::packed || source == Source::fetching;
  constexpr int kGroups = (R + 2) / 3;  // three rows to a pointer: base, base + lda, base + 2 lda
  Vec sum[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j) sum[i][j] = splat(0.0f);

  const float* row[kGroups];
#pragma GCC unroll 8
  for (int g = 0; g < kGroups; ++g) row[g] = walk == Walk::rows ? a + 3 * g * lda : a + 3 * g;
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {  // C is wanted when the loop is done; the nearest cache would hold up A and B while it waits
    __builtin_prefetch(c + i * ldc, 1, 2);
    if (V * Vec::width > kLine) __builtin_prefetch(c + i * ldc + V * Vec::width - 1, 1, 2);
  }
  for (int64_t k = 0; k < kc; ++k) {
#pragma GCC unroll 8
    for (int j = 0; j < V * Vec::width; j += kLine) __builtin_prefetch(b + ahead + j, 0, near ? 3 : 2);
    if constexpr (source == Source::fetching) {
      __builtin_prefetch(beside.from, 0, 2);
      beside.from += beside.step;
    }
    Vec right[V];
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j)
      right[j] = Masked && j == V - 1 ? load_wide_n(b + j * Vec::width, tail) : load_wide(b + j * Vec::width);
    b += ldb;
    if constexpr (source == Source::packing) {
#pragma GCC unroll 8
      for (int j = 0; j < V; ++j) store(packed + k * V * Vec::width + j * Vec::width, right[j]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      Vec left = splat(walk == Walk::rows ? row[i / 3][i % 3 * lda] : row[0][i]);
#pragma GCC unroll 8
      for (int j = 0; j < V; ++j) sum[i][j] = fma(left, right[j], sum[i][j]);
    }
    if constexpr (walk == Walk::rows) {
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) ++row[g];
    } else {
      row[0] += lda;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j) {
      float* to = c + i * ldc + j * Vec::width;
      if (Masked && j == V - 1) {
        store_n(to, accumulate ? load_n(to, tail) + sum[i][j] : sum[i][j], tail);
      } else {
        store(to, accumulate ? load(to) + sum[i][j] : sum[i][j]);
      }
    }
}

using MicroKernel = void (*)(int64_t kc, const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
                             bool accumulate, int tail, int64_t ahead, float* packed, Beside beside);

// The kernel on packed B for `rows` in [1, R].
template <int R, int V, Walk walk, bool Masked>
MicroKernel packed_kernel_for_rows(int rows) {
  if constexpr (R == 1) {
    return &micro_kernel<1, V, walk, Masked, Source::packed, float>;
  } else {
    return rows == R ? &micro_kernel<R, V, walk, Masked, Source::packed, float> : packed_kernel_for_rows<R - 1, V, walk, Masked>(rows);
  }
}

// The kernel for whole panels of B that does something besides, for `rows` in [kTileRows / 2, R]: as many as the panels of A have where
// there are several.
template <Walk walk, Source source, int R = kTileRows>
MicroKernel whole_kernel(int rows) {
  if constexpr (R == kTileRows / 2) {
    return &micro_kernel<R, kTileVectors, walk, false, source, float>;
  } else {
    return rows == R ? &micro_kernel<R, kTileVectors, walk, false, source, float> : whole_kernel<walk, source, R - 1>(rows);
  }
}

// The kernel for a tile of `rows` x `columns` of packed B.
template <Walk walk>
MicroKernel packed_kernel(int rows, int columns) {
  if (columns == kTileColumns) return packed_kernel_for_rows<kTileRows, kTileVectors, walk, false>(rows);
  if constexpr (kTileVectors > 2)
    if (columns > 2 * Vec::width) return packed_kernel_for_rows<kTileRows, kTileVectors, walk, true>(rows);
  if (columns > Vec::width) return packed_kernel_for_rows<kTileRows, 2, walk, true>(rows);
  return packed_kernel_for_rows<kTileRows, 1, walk, true>(rows);
}

// What is to be in L2 soon: a whole number of cache lines for every vector of k. The nearest cache would have to wait for memory.
struct Fetch {
  const char* from;
  int lines;
};
// Lines to a vector of k of C rows.
template <class B>
constexpr int lines_per_step(int rows) {
  return (rows * Vec::width * static_cast<int>(sizeof(B)) + 4 * kLine - 1) / (4 * kLine);
}

// C[R, C] from dot products of the rows of A with the rows of B, both contiguous in k.
template <int R, int C, class B>
void dot_kernel(int64_t kc, const float* a, int64_t lda, const B* b, int64_t ldb, float* c, int64_t ldc,
                bool accumulate, Fetch next) {
  static_assert(C == 1 || C == 4);
  Vec total[R][C];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j) total[i][j] = splat(0.0f);
  int64_t k = 0;
  for (; k + Vec::width <= kc; k += Vec::width) {
    for (int line = 0; line < next.lines; ++line, next.from += 4 * kLine) __builtin_prefetch(next.from, 0, 2);
    Vec right[C];
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j) right[j] = load_wide(b + j * ldb + k);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      Vec left = load(a + i * lda + k);
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) total[i][j] = fma(left, right[j], total[i][j]);
    }
  }
  if (k < kc) {
    int tail = static_cast<int>(kc - k);
    Vec right[C];
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j) right[j] = load_wide_n(b + j * ldb + k, tail);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      Vec left = load_n(a + i * lda + k, tail);
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) total[i][j] = fma(left, right[j], total[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    float sums[C];
    if constexpr (C == 4) sums_of_four(total[i][0], total[i][1], total[i][2], total[i][3], sums);
    else sums[0] = TREFOIL_ISA::sum(total[i][0]);
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) c[i * ldc + j] = accumulate ? c[i * ldc + j] + sums[j] : sums[j];
  }
}

template <class B>
using DotKernel = void (*)(int64_t kc, const float* a, int64_t lda, const B* b, int64_t ldb, float* c, int64_t ldc,
                           bool accumulate, Fetch next);

// One dot product, four vectors of k at a time: a stream of rows that the hardware looks ahead of by itself.
inline float dot_row(int64_t kc, const float* a, const float* b) {
  Vec total[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  int64_t k = 0;
  for (; k + 4 * Vec::width <= kc; k += 4 * Vec::width)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) total[i] = fma(load(a + k + i * Vec::width), load(b + k + i * Vec::width), total[i]);
  for (; k + Vec::width <= kc; k += Vec::width) total[0] = fma(load(a + k), load(b + k), total[0]);
  if (k < kc) {
    int tail = static_cast<int>(kc - k);
    total[1] = fma(load_n(a + k, tail), load_n(b + k, tail), total[1]);
  }
  return sum((total[0] + total[1]) + (total[2] + total[3]));
}

}  // namespace trefoil::cpu::TREFOIL_ISA
