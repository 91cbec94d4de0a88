#include "bf16_products.h"

#include "convert.h"
#include "gemm_pack.h"
#include "microkernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

// sum + the two products of every pair.
#if defined(__AVX512BF16__)
inline Vec add_products(Vec sum, Vec left, Vec right) {
  return {_mm512_dpbf16_ps(sum.v, (__m512bh)left.v, (__m512bh)right.v)};
}
#elif defined(TREFOIL_ISA_NEON) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
inline Vec add_products(Vec sum, Vec left, Vec right) {
  return {vbfdotq_f32(sum.v, vreinterpretq_bf16_f32(left.v), vreinterpretq_bf16_f32(right.v))};
}
#else
inline Vec add_products(Vec sum, Vec left, Vec right) {
  return fma(low_bf16(left), low_bf16(right), fma(high_bf16(left), high_bf16(right), sum));
}
#endif

// to[i] = the pair (from[2 i], from[2 i + 1]).
inline void pack_row(const float* from, int64_t count, float* to) {
  int64_t i = 0;
#if defined(__AVX512BF16__)
  for (; i + 32 <= count; i += 32)
    _mm512_storeu_ps(to + i / 2, (__m512)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + 16), _mm512_loadu_ps(from + i)));
#endif
  constexpr int64_t kChunk = 64;
  for (uint16_t rounded[kChunk]; i < count; i += kChunk) {
    const int64_t some = count - i < kChunk ? count - i : kChunk;
    rounded[some - 1 + some % 2] = 0;
    narrow(TREFOIL_BF16, from + i, rounded, 0, some);
    memcpy(to + i / 2, rounded, static_cast<size_t>(pairs(some)) * 4);
  }
}
inline void pack_row(const uint16_t* from, int64_t count, float* to) {
  memcpy(to, from, static_cast<size_t>(count / 2) * 4);
  if (count % 2 == 0) return;
  const uint32_t last = from[count - 1];
  memcpy(to + count / 2, &last, 4);
}

inline uint32_t bf16_bits(uint16_t x) { return x; }
inline uint32_t bf16_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return ((bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : rounded) >> 16;
}

// to[j] = the pair (first[j], second[j]); without a second row zeros take its place.
template <class T>
void pack_two_rows(const T* first, const T* second, int64_t count, float* to) {
  int64_t j = 0;
#if defined(__AVX512BF16__)
  if constexpr (sizeof(T) == 4) {
    const __m512i interleaved = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (; j < count; j += 16) {
      const int lanes = count - j < 16 ? static_cast<int>(count - j) : 16;
      const __m512 low = load_n(first + j, lanes).v, high = second ? load_n(second + j, lanes).v : _mm512_setzero_ps();
      const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high, low);
      store_n(to + j, {_mm512_castsi512_ps(_mm512_permutexvar_epi16(interleaved, both))}, lanes);
    }
  }
#endif
  for (; second && j < count; ++j) {
    const uint32_t pair = bf16_bits(first[j]) | bf16_bits(second[j]) << 16;
    memcpy(to + j, &pair, 4);
  }
  for (; j < count; ++j) {
    const uint32_t pair = bf16_bits(first[j]);
    memcpy(to + j, &pair, 4);
  }
}

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

extern const Bf16Products bf16_products;
const Bf16Products bf16_products = {round_a, round_b, kernel, pack_rows, dot};

}  // namespace trefoil::cpu::TREFOIL_ISA
