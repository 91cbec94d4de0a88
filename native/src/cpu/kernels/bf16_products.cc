#include "bf16_products.h"

#include "bf16_pairs.h"
#include "gemm_pack.h"
#include "microkernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

// Rows k and k + 1 of a block of k as they are stored; no second one past its end.
template <class T>
const T* second_row(const Matrix& matrix, int64_t k0, int64_t k, int64_t depth) {
  return k + 1 < depth ? stored_row<T>(matrix, k0 + k + 1) : nullptr;
}

template <class T>
void pack_pairs_of_a(const Matrix& a, int64_t row, int64_t count, int64_t k0, int64_t depth, float* to) {
  const int64_t stride = panel_stride(pairs(depth));
  if (!a.transposed) {
    for (int64_t i = 0; i < count; to += stride) {
      const int rows = panel_rows(count - i);
      for (int r = 0; r < rows; ++r, ++i) {
        if (i + kRowsAhead < count) prefetch_row<3>(stored_row<T>(a, row + i + kRowsAhead) + k0, depth);
        pack_row(stored_row<T>(a, row + i) + k0, depth, to + r * pairs(depth));
      }
    }
    return;
  }
  for (int64_t k = 0; k < depth; k += 2) {
    const T *first = stored_row<T>(a, k0 + k) + row, *second = second_row<T>(a, k0, k, depth);
    for (int64_t ahead = k + 4 * kRowsAhead; ahead < depth && ahead < k + 4 * kRowsAhead + 2; ++ahead) prefetch_row<3>(stored_row<T>(a, k0 + ahead) + row, count);
    float* panel = to;
    for (int64_t i = 0; i < count; panel += stride) {
      const int rows = panel_rows(count - i);
      pack_two_rows(first + i, second ? second + row + i : nullptr, rows, panel + k / 2 * rows);
      i += rows;
    }
  }
}

void round_a(const Matrix& a, int64_t row, int64_t count, int64_t k0, int64_t depth, float* to) {
  if (a.bf16) pack_pairs_of_a<uint16_t>(a, row, count, k0, depth, to);
  else pack_pairs_of_a<float>(a, row, count, k0, depth, to);
}

template <class T>
void pack_pairs_of_b(const Matrix& b, int64_t k0, int64_t depth, int64_t first, int64_t last, float* to) {
  constexpr int64_t kWide = kTileColumns;
  const int64_t steps = pairs(depth);
  if (!b.transposed) {
    constexpr int64_t kTogether = 4 * kWide;
    for (int64_t j0 = first; j0 < last; j0 += kTogether) {
      const int64_t count = last - j0 < kTogether ? last - j0 : kTogether;
      float* block = to + (j0 - first) * steps;
      for (int64_t k = 0; k < depth; k += 2) {
        const T *low = stored_row<T>(b, k0 + k) + j0, *high = second_row<T>(b, k0, k, depth);
        for (int64_t ahead = k + 2 * kRowsAhead; ahead < depth && ahead < k + 2 * kRowsAhead + 2; ++ahead)
          prefetch_row<3>(stored_row<T>(b, k0 + ahead) + j0, count);
        for (int64_t j = 0; j < count; j += kWide) {
          const int64_t columns = count - j < kWide ? count - j : kWide;
          float* panel = block + j * steps + k / 2 * kWide;
          pack_two_rows(low + j, high ? high + j0 + j : nullptr, columns, panel);
          if (columns < kWide) memset(panel + columns, 0, static_cast<size_t>(kWide - columns) * sizeof(float));
        }
      }
    }
    return;
  }
  constexpr int64_t kChunk = 32;  // pairs of a column, before they are transposed
  alignas(64) float wide[kWide * kChunk];
  for (int64_t j = first; j < last; j += kWide) {
    float* panel = to + (j - first) * steps;
    const int64_t columns = last - j < kWide ? last - j : kWide;
    if (columns < kWide) memset(panel, 0, static_cast<size_t>(steps * kWide) * sizeof(float));
    for (int64_t k = 0; k < depth; k += 2 * kChunk) {
      const int64_t count = depth - k < 2 * kChunk ? depth - k : 2 * kChunk;
      for (int64_t i = 0; i < columns; ++i) pack_row(stored_row<T>(b, j + i) + k0 + k, count, wide + i * kChunk);
      transpose(wide, kChunk, panel + k / 2 * kWide, kWide, columns, pairs(count));
    }
  }
}

void round_b(const Matrix& b, int64_t k0, int64_t depth, int64_t first, int64_t last, float* to) {
  if (b.bf16) pack_pairs_of_b<uint16_t>(b, k0, depth, first, last, to);
  else pack_pairs_of_b<float>(b, k0, depth, first, last, to);
}

// As micro_kernel on packed panels; each element of C is one chain of sums in order of k.
template <int R, Walk walk>
void pair_kernel(int64_t steps, const float* a, int64_t lda, const float* b, float* c, int64_t ldc, bool accumulate, int columns) {
  constexpr int V = kTileVectors, kGroups = (R + 2) / 3;
  Vec sum[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j) sum[i][j] = splat(0.0f);
  const float* row[kGroups];
#pragma GCC unroll 8
  for (int g = 0; g < kGroups; ++g) row[g] = walk == Walk::rows ? a + 3 * g * lda : a + 3 * g;
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    __builtin_prefetch(c + i * ldc, 1, 2);
    if (V * Vec::width > kLine) __builtin_prefetch(c + i * ldc + columns - 1, 1, 2);
  }
  for (int64_t k = 0; k < steps; ++k, b += V * Vec::width) {
#pragma GCC unroll 8
    for (int j = 0; j < V * Vec::width; j += kLine) __builtin_prefetch(b + kPackedAhead + j, 0, 3);
    Vec right[V];
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j) right[j] = load(b + j * Vec::width);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const Vec left = splat(walk == Walk::rows ? row[i / 3][i % 3 * lda] : row[0][i]);
#pragma GCC unroll 8
      for (int j = 0; j < V; ++j) sum[i][j] = add_products(sum[i][j], left, right[j]);
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
      const int lanes = columns - j * Vec::width;
      if (lanes >= Vec::width) store(to, accumulate ? load(to) + sum[i][j] : sum[i][j]);
      else if (lanes > 0) store_n(to, accumulate ? load_n(to, lanes) + sum[i][j] : sum[i][j], lanes);
    }
}

template <Walk walk, int R = kTileRows>
PairKernel kernel_of(int rows) {
  if constexpr (R == 1) {
    return &pair_kernel<1, walk>;
  } else {
    return rows == R ? &pair_kernel<R, walk> : kernel_of<walk, R - 1>(rows);
  }
}

PairKernel kernel(bool by_columns, int rows) { return by_columns ? kernel_of<Walk::columns>(rows) : kernel_of<Walk::rows>(rows); }

#if defined(__AVX512BF16__)
void pack_rows(const Matrix& a, int64_t row, int64_t count, int64_t k, float* to) {
  for (int64_t i = 0; i < count; ++i, to += pairs(k)) {
    if (a.transposed) {
      uint16_t gathered[2];
      for (int64_t j = 0; j < k; j += 2) {
        for (int64_t half = 0; half < 2; ++half) {
          if (j + half >= k) gathered[half] = 0;
          else if (a.bf16) gathered[half] = stored_row<uint16_t>(a, j + half)[row + i];
          else gathered[half] = static_cast<uint16_t>(bf16_bits(stored_row<float>(a, j + half)[row + i]));
        }
        memcpy(to + j / 2, gathered, 4);
      }
    } else if (a.bf16) {
      pack_row(stored_row<uint16_t>(a, row + i), k, to);
    } else {
      pack_row(stored_row<float>(a, row + i), k, to);
    }
  }
}

inline Vec load_pairs(const uint16_t* p) { return {_mm512_loadu_ps(p)}; }
inline Vec load_pairs(const float* p) { return {(__m512)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(p + 16), _mm512_loadu_ps(p))}; }
template <class B>
Vec load_pairs_n(const B* p, int64_t count) {
  alignas(64) float row[16] = {};
  pack_row(p, count, row);
  return load(row);
}

template <int R, int C, class B>
void dot_pairs_kernel(int64_t k, const float* a, int64_t lda, const void* b, int64_t ldb, float* c, int64_t ldc, bool accumulate, const char* next, int lines) {
  const B* stored = static_cast<const B*>(b);
  Vec total[R][C];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j) total[i][j] = splat(0.0f);
  const auto add = [&](const Vec(&right)[C], const auto& left_of) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const Vec left = left_of(i);
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) total[i][j] = add_products(total[i][j], left, right[j]);
    }
  };
  int64_t at = 0;
  for (; at + 32 <= k; at += 32) {
    for (int line = 0; line < lines; ++line, next += 64) __builtin_prefetch(next, 0, 2);
    Vec right[C];
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j) right[j] = load_pairs(stored + j * ldb + at);
    add(right, [&](int i) { return load(a + i * lda + at / 2); });
  }
  if (at < k) {
    Vec right[C];
    for (int j = 0; j < C; ++j) right[j] = load_pairs_n(stored + j * ldb + at, k - at);
    add(right, [&](int i) { return load_n(a + i * lda + at / 2, static_cast<int>(pairs(k - at))); });
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    float sums[C];
    if constexpr (C == 4) sums_of_four(total[i][0], total[i][1], total[i][2], total[i][3], sums);
    else sums[0] = sum(total[i][0]);
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) c[i * ldc + j] = accumulate ? c[i * ldc + j] + sums[j] : sums[j];
  }
}

template <int C, class B, int R = 6>
DotPairsKernel dot_for_rows(int rows) {
  if constexpr (R == 1) {
    return &dot_pairs_kernel<1, C, B>;
  } else {
    return rows == R ? &dot_pairs_kernel<R, C, B> : dot_for_rows<C, B, R - 1>(rows);
  }
}

DotPairsKernel dot(bool bf16, int rows, int columns) {
  if (columns == 4) return bf16 ? dot_for_rows<4, uint16_t>(rows) : dot_for_rows<4, float>(rows);
  return bf16 ? dot_for_rows<1, uint16_t>(rows) : dot_for_rows<1, float>(rows);
}
#else
constexpr auto pack_rows = nullptr;
constexpr auto dot = nullptr;
#endif

}  // namespace

#if defined(__AVX512BF16__)
extern const KernelEntry attention_kernels[];  // attention.cc once more, for these instructions
constexpr const KernelEntry* kernels = attention_kernels;
#else
constexpr const KernelEntry* kernels = nullptr;
#endif

extern const Bf16Products bf16_products;
const Bf16Products bf16_products = {round_a, round_b, kernel, pack_rows, dot, kernels};

}  // namespace trefoil::cpu::TREFOIL_ISA
