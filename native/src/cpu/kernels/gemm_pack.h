// Packing: copies of A and B in the order the micro-kernel reads them. Transposes, row lists and bf16 disappear here.
#pragma once
#include "gemm.h"
#include "microkernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

template <class T>
inline const T* stored_row(const Matrix& matrix, int64_t row) {
  return static_cast<const T*>(matrix.data) + (matrix.rows ? matrix.rows[row] : row) * matrix.stride;
}

// to[j * to_stride + i] = from[i * from_stride + j] for a width x width block.
#if defined(TREFOIL_ISA_AVX512)
inline void transpose_block(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {  // columns 4q..4q+3; lane L of part[i] holds row 4L + i
    __m512 part[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const float* p = from + i * from_stride + 4 * q;
      __m512 x = _mm512_castps128_ps512(_mm_loadu_ps(p));
      x = _mm512_mask_broadcast_f32x4(x, 0x00f0, _mm_loadu_ps(p + 4 * from_stride));
      x = _mm512_mask_broadcast_f32x4(x, 0x0f00, _mm_loadu_ps(p + 8 * from_stride));
      part[i] = _mm512_mask_broadcast_f32x4(x, 0xf000, _mm_loadu_ps(p + 12 * from_stride));
    }
    __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(part[0], part[1]));
    __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(part[2], part[3]));
    __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(part[0], part[1]));
    __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(part[2], part[3]));
    float* out = to + 4 * q * to_stride;
    _mm512_storeu_ps(out, _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23)));
    _mm512_storeu_ps(out + to_stride, _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23)));
    _mm512_storeu_ps(out + 2 * to_stride, _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23)));
    _mm512_storeu_ps(out + 3 * to_stride, _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23)));
  }
}
#elif defined(TREFOIL_ISA_AVX2)
inline void transpose_block(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
#pragma GCC unroll 2
  for (int q = 0; q < 2; ++q) {
    __m256 part[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const float* p = from + i * from_stride + 4 * q;
      part[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * from_stride), 1);
    }
    __m256d low01 = _mm256_castps_pd(_mm256_unpacklo_ps(part[0], part[1]));
    __m256d low23 = _mm256_castps_pd(_mm256_unpacklo_ps(part[2], part[3]));
    __m256d high01 = _mm256_castps_pd(_mm256_unpackhi_ps(part[0], part[1]));
    __m256d high23 = _mm256_castps_pd(_mm256_unpackhi_ps(part[2], part[3]));
    float* out = to + 4 * q * to_stride;
    _mm256_storeu_ps(out, _mm256_castpd_ps(_mm256_unpacklo_pd(low01, low23)));
    _mm256_storeu_ps(out + to_stride, _mm256_castpd_ps(_mm256_unpackhi_pd(low01, low23)));
    _mm256_storeu_ps(out + 2 * to_stride, _mm256_castpd_ps(_mm256_unpacklo_pd(high01, high23)));
    _mm256_storeu_ps(out + 3 * to_stride, _mm256_castpd_ps(_mm256_unpackhi_pd(high01, high23)));
  }
}
#elif defined(TREFOIL_ISA_NEON)
inline void transpose_block(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  float32x4_t r0 = vld1q_f32(from), r1 = vld1q_f32(from + from_stride);
  float32x4_t r2 = vld1q_f32(from + 2 * from_stride), r3 = vld1q_f32(from + 3 * from_stride);
  float32x4x2_t x = vtrnq_f32(r0, r1), y = vtrnq_f32(r2, r3);
  vst1q_f32(to, vcombine_f32(vget_low_f32(x.val[0]), vget_low_f32(y.val[0])));
  vst1q_f32(to + to_stride, vcombine_f32(vget_low_f32(x.val[1]), vget_low_f32(y.val[1])));
  vst1q_f32(to + 2 * to_stride, vcombine_f32(vget_high_f32(x.val[0]), vget_high_f32(y.val[0])));
  vst1q_f32(to + 3 * to_stride, vcombine_f32(vget_high_f32(x.val[1]), vget_high_f32(y.val[1])));
}
#else
inline void transpose_block(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  for (int i = 0; i < Vec::width; ++i)
    for (int j = 0; j < Vec::width; ++j) to[j * to_stride + i] = from[i * from_stride + j];
}
#endif

template <class T>
inline void widen(const T* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + Vec::width <= count; i += Vec::width) store(to + i, load_wide(from + i));
  if (i < count) store_n(to + i, load_wide_n(from + i, static_cast<int>(count - i)), static_cast<int>(count - i));
}

// Rows lie far apart, where the hardware does not look ahead by itself.
constexpr int64_t kRowsAhead = 4;

// to = from; fetches `ahead`, a row that will be copied soon, on the way.
template <class T>
inline void copy_row(const T* from, float* to, int64_t count, const T* ahead) {
  if (ahead) prefetch_row<3>(ahead, count);
  widen(from, to, count);
}

// to[j * to_stride + i] = from[i * from_stride + j], i < rows, j < columns.
inline void transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows, int64_t columns) {
  int64_t i = 0;
  for (; i + Vec::width <= rows; i += Vec::width) {
    int64_t j = 0;
    for (; j + Vec::width <= columns; j += Vec::width)
      transpose_block(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
    for (; j < columns; ++j)
      for (int r = 0; r < Vec::width; ++r) to[j * to_stride + i + r] = from[(i + r) * from_stride + j];
  }
  for (; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) to[j * to_stride + i] = from[i * from_stride + j];
}

// Panels of kTileColumns columns, each [depth][kTileColumns] with zeros past the last column: rows [k0, k0 + depth) of b and
// columns [first, last), first a multiple of kTileColumns.
template <class T>
void pack_b_typed(const Matrix& b, int64_t k0, int64_t depth, int64_t first, int64_t last, float* to) {
  constexpr int64_t kWide = kTileColumns;
  if (!b.transposed) {
    // A few panels at a time: long enough runs for the prefetcher, few enough streams for the caches.
    constexpr int64_t kTogether = 4 * kWide;
    for (int64_t j0 = first; j0 < last; j0 += kTogether) {
      int64_t count = last - j0 < kTogether ? last - j0 : kTogether;
      float* block = to + (j0 - first) * depth;
      for (int64_t k = 0; k < depth; ++k) {
        const T* from = stored_row<T>(b, k0 + k) + j0;
        if (k + 2 * kRowsAhead < depth) prefetch_row<3>(stored_row<T>(b, k0 + k + 2 * kRowsAhead) + j0, count);
        int64_t j = 0;
        for (; j + kWide <= count; j += kWide)
#pragma GCC unroll 4
          for (int v = 0; v < kTileVectors; ++v)
            store(block + j * depth + k * kWide + v * Vec::width, load_wide(from + j + v * Vec::width));
        for (int64_t v = j; j < count && v < j + kWide; v += Vec::width) {
          int lanes = static_cast<int>(count - v < 0 ? 0 : count - v > Vec::width ? Vec::width : count - v);
          store(block + j * depth + k * kWide + v - j, lanes == 0 ? splat(0.0f) : load_wide_n(from + v, lanes));
        }
      }
    }
    return;
  }
  constexpr int64_t kChunk = 64;  // of k, when bf16 has to be widened before it is transposed
  alignas(64) float wide[sizeof(T) == 4 ? 1 : kWide * kChunk];
  for (int64_t j = first; j < last; j += kWide) {
    float* panel = to + (j - first) * depth;
    int64_t columns = last - j < kWide ? last - j : kWide;
    if (columns < kWide) memset(panel, 0, static_cast<size_t>(depth * kWide) * sizeof(float));
    const T* from = stored_row<T>(b, j) + k0;
    if constexpr (sizeof(T) == 4) {
      transpose(from, b.stride, panel, kWide, columns, depth);
    } else {
      for (int64_t k = 0; k < depth; k += kChunk) {
        int64_t count = depth - k < kChunk ? depth - k : kChunk;
        for (int64_t i = 0; i < columns; ++i) widen(from + i * b.stride + k, wide + i * kChunk, count);
        transpose(wide, kChunk, panel + k * kWide, kWide, columns, count);
      }
    }
  }
}

inline void pack_b(const Matrix& b, int64_t k0, int64_t depth, int64_t first, int64_t last, float* to) {
  if (b.bf16) pack_b_typed<uint16_t>(b, k0, depth, first, last, to);
  else pack_b_typed<float>(b, k0, depth, first, last, to);
}

// A block of rows is cut into panels of at most kTileRows; the last two share what is left, so that neither is thin.
inline int panel_rows(int64_t remaining) {
  if (remaining <= kTileRows) return static_cast<int>(remaining);
  return remaining < 2 * kTileRows ? static_cast<int>((remaining + 1) / 2) : kTileRows;
}
inline int64_t panel_count(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }
// Floats from one packed panel of A to the next. The slack takes whole-vector stores that run over the last row.
inline int64_t panel_stride(int64_t depth) { return (depth * kTileRows + 2 * Vec::width - 1) / Vec::width * Vec::width; }

// Rows [row, row + count) and columns [k0, k0 + depth) of a that is stored as it is used: panels [rows][depth].
template <class T>
void pack_a_rows(const Matrix& a, int64_t row, int64_t count, int64_t k0, int64_t depth, float* to) {
  for (int64_t i = 0; i < count; to += panel_stride(depth)) {
    int rows = panel_rows(count - i);
    for (int r = 0; r < rows; ++r, ++i) {
      const T* ahead = i + kRowsAhead < count ? stored_row<T>(a, row + i + kRowsAhead) + k0 : nullptr;
      copy_row(stored_row<T>(a, row + i) + k0, to + r * depth, depth, ahead);
    }
  }
}

// The same block of a that is stored transposed: panels [depth][rows].
template <class T>
void pack_a_columns(const Matrix& a, int64_t row, int64_t count, int64_t k0, int64_t depth, float* to) {
  for (int64_t k = 0; k < depth; ++k) {
    const T* from = stored_row<T>(a, k0 + k) + row;
    if (k + 4 * kRowsAhead < depth) prefetch_row<3>(stored_row<T>(a, k0 + k + 4 * kRowsAhead) + row, count);
    float* panel = to;
    for (int64_t i = 0; i < count; panel += panel_stride(depth)) {
      int rows = panel_rows(count - i);
      for (int r = 0; r < rows; r += Vec::width) {
        int lanes = rows - r < Vec::width ? rows - r : Vec::width;
        store(panel + k * rows + r, lanes == Vec::width ? load_wide(from + i + r) : load_wide_n(from + i + r, lanes));
      }
      i += rows;
    }
  }
}

inline void pack_a(const Matrix& a, int64_t row, int64_t count, int64_t k0, int64_t depth, float* to) {
  if (a.transposed) {
    if (a.bf16) pack_a_columns<uint16_t>(a, row, count, k0, depth, to);
    else pack_a_columns<float>(a, row, count, k0, depth, to);
  } else {
    if (a.bf16) pack_a_rows<uint16_t>(a, row, count, k0, depth, to);
    else pack_a_rows<float>(a, row, count, k0, depth, to);
  }
}

// All of a's rows [row, row + count) in plain order, [count][k].
inline void copy_a(const Matrix& a, int64_t row, int64_t count, int64_t k, float* to) {
  for (int64_t i = 0; i < count; ++i, to += k) {
    if (!a.transposed) {
      if (a.bf16) widen(stored_row<uint16_t>(a, row + i), to, k);
      else memcpy(to, stored_row<float>(a, row + i), static_cast<size_t>(k) * sizeof(float));
    } else if (a.bf16) {
      for (int64_t j = 0; j < k; ++j) to[j] = bf16_to_f32(stored_row<uint16_t>(a, j)[row + i]);
    } else {
      for (int64_t j = 0; j < k; ++j) to[j] = stored_row<float>(a, j)[row + i];
    }
  }
}

}  // namespace trefoil::cpu::TREFOIL_ISA
