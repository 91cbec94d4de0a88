// transpose: any permutation of 4-byte or 2-byte elements. Dimensions that stay neighbours are merged first; what remains is
// either a gather of whole rows, or a blocked exchange of two dimensions repeated over the others.
#pragma once
#include "../rows.h"
#include "convert.h"
#include "work_split.h"

namespace trefoil::cpu::TREFOIL_ISA {
namespace {  // one family includes this: its names stay out of the others' way

// The output's dimensions and the input's stride along each, in elements.
struct Permuted {
  int rank = 0;
  int64_t size[TREFOIL_MAX_RANK], stride[TREFOIL_MAX_RANK];
};

inline Permuted merge_dimensions(const TrefoilView& x, const TrefoilView& y, const double* permutation) {
  int64_t strides[TREFOIL_MAX_RANK], stride = 1;
  for (int d = x.rank - 1; d >= 0; --d) {
    strides[d] = stride;
    stride *= x.shape[d];
  }
  Permuted result;
  unsigned seen = 0;
  for (int d = 0; d < y.rank; ++d) {
    int from = permutation[d] >= 0 && permutation[d] < x.rank ? static_cast<int>(permutation[d]) : -1;
    if (from < 0 || (seen >> from & 1u) || y.shape[d] != x.shape[from])
      fail(TREFOIL_INVALID_ARGUMENT, "transpose: entry %d of the permutation does not fit the shapes", d);
    seen |= 1u << from;
    if (y.shape[d] == 1) continue;
    int last = result.rank - 1;
    if (last >= 0 && result.stride[last] == strides[from] * y.shape[d]) {
      result.size[last] *= y.shape[d];
      result.stride[last] = strides[from];
    } else {
      result.size[result.rank] = y.shape[d];
      result.stride[result.rank++] = strides[from];
    }
  }
  return result;
}

// Four rows of four 4-byte elements, exchanged in registers.
typedef int32_t Quad __attribute__((vector_size(16)));
template <int... lanes>
inline Quad pick(Quad a, Quad b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, lanes...);
#else
  return __builtin_shuffle(a, b, Quad{lanes...});
#endif
}
inline void exchange_4x4(const uint32_t* from, int64_t from_stride, uint32_t* to, int64_t to_stride) {
  Quad a, b, c, d;
  memcpy(&a, from, 16);
  memcpy(&b, from + from_stride, 16);
  memcpy(&c, from + 2 * from_stride, 16);
  memcpy(&d, from + 3 * from_stride, 16);
  Quad ab_low = pick<0, 4, 1, 5>(a, b), ab_high = pick<2, 6, 3, 7>(a, b);
  Quad cd_low = pick<0, 4, 1, 5>(c, d), cd_high = pick<2, 6, 3, 7>(c, d);
  Quad rows[4] = {pick<0, 1, 4, 5>(ab_low, cd_low), pick<2, 3, 6, 7>(ab_low, cd_low), pick<0, 1, 4, 5>(ab_high, cd_high),
                  pick<2, 3, 6, 7>(ab_high, cd_high)};
  for (int i = 0; i < 4; ++i) memcpy(to + i * to_stride, &rows[i], 16);
}

// to[j * to_stride + i] = from[i * from_stride + j] for i in [0, rows), j in [0, columns).
template <class T>
inline void exchange_edge(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t rows, int64_t columns) {
  int64_t i = 0;
  if constexpr (sizeof(T) == 4) {
    for (; i + 4 <= rows; i += 4) {
      int64_t j = 0;
      for (; j + 4 <= columns; j += 4) exchange_4x4(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
      for (; j < columns; ++j)
        for (int64_t k = i; k < i + 4; ++k) to[j * to_stride + k] = from[k * from_stride + j];
    }
  }
  for (; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) to[j * to_stride + i] = from[i * from_stride + j];
}

// The same, in squares of a vector's width where there are wide vectors. `streamed`: past the caches, whole aligned lines.
template <class T>
inline void exchange_block(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t rows, int64_t columns, bool streamed) {
  if constexpr (sizeof(T) == 4 && Vec::width >= 8) {
    constexpr int width = Vec::width;
    const int64_t whole_rows = rows / width * width, whole_columns = columns / width * width;
    for (int64_t j = 0; j < whole_columns; j += width)
      for (int64_t i = 0; i < whole_rows; i += width) {
        Vec square[width];
#pragma GCC unroll 16
        for (int k = 0; k < width; ++k) square[k] = load(reinterpret_cast<const float*>(from + (i + k) * from_stride + j));
        TREFOIL_ISA::transpose(square);
        float* corner = reinterpret_cast<float*>(to + j * to_stride + i);
        if (streamed) {
#pragma GCC unroll 16
          for (int k = 0; k < width; ++k) stream(corner + k * to_stride, square[k]);
        } else {
#pragma GCC unroll 16
          for (int k = 0; k < width; ++k) store(corner + k * to_stride, square[k]);
        }
      }
    exchange_edge(from + whole_columns, from_stride, to + whole_columns * to_stride, to_stride, whole_rows, columns - whole_columns);
    exchange_edge(from + whole_rows * from_stride, from_stride, to + whole_rows, to_stride, rows - whole_rows, columns);
  } else {
    exchange_edge(from, from_stride, to, to_stride, rows, columns);
  }
}

template <class T>
void transpose_elements(Context& context, const Permuted& shape, const T* x, T* y) {
  int inner = shape.rank - 1;
  int64_t count = 1, output_stride[TREFOIL_MAX_RANK];
  for (int d = inner; d >= 0; --d) {
    output_stride[d] = count;
    count *= shape.size[d];
  }
  // The dimension that is contiguous in the input: the inner one of the output where rows stay whole.
  int contiguous = inner;
  while (shape.stride[contiguous] != 1) --contiguous;
  constexpr int64_t block = 64;
  int64_t n = shape.size[inner], m = shape.size[contiguous];
  int64_t n_blocks = contiguous == inner ? 1 : ceil_divide(n, block), m_blocks = contiguous == inner ? 1 : ceil_divide(m, block);
  int64_t unit = contiguous == inner ? n : block * block;
  int64_t others = count / (contiguous == inner ? n : n * m);
  int64_t row_bytes = output_stride[contiguous] * static_cast<int64_t>(sizeof(T));
  bool streamed = kStreams && count * static_cast<int64_t>(sizeof(T)) >= kStreamedBytes &&
                  (reinterpret_cast<uintptr_t>(y) | static_cast<uintptr_t>(row_bytes)) % 64 == 0;
  parallel_ranges(context, others * n_blocks * m_blocks, rows_per_task(unit), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      int64_t rest = item / (n_blocks * m_blocks), from = 0, to = 0;
      for (int d = inner - 1; d >= 0; --d) {
        if (d == contiguous) continue;
        from += rest % shape.size[d] * shape.stride[d];
        to += rest % shape.size[d] * output_stride[d];
        rest /= shape.size[d];
      }
      if (contiguous == inner) {
        memcpy(y + to, x + from, static_cast<size_t>(n) * sizeof(T));
        continue;
      }
      // Neighbours in the output follow each other.
      int64_t i = item % n_blocks * block, j = item / n_blocks % m_blocks * block;
      exchange_block(x + from + i * shape.stride[inner] + j, shape.stride[inner], y + to + j * output_stride[contiguous] + i,
                     output_stride[contiguous], n - i < block ? n - i : block, m - j < block ? m - j : block, streamed);
    }
    if (streamed) stream_fence();
  });
}

inline void transpose(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &x = launch.inputs[0], &y = launch.outputs[0];
  if (!y.data || elements(y) == 0) return;
  if (x.rank != y.rank || launch.attribute_count != y.rank || x.dtype != y.dtype)
    fail(TREFOIL_INVALID_ARGUMENT, "transpose: rank, dtype and permutation must agree");
  Permuted shape = merge_dimensions(x, y, launch.attributes);
  if (shape.rank == 0) shape = {1, {1}, {1}};
  switch (element_bytes(x.dtype)) {
    case 4: return transpose_elements(context, shape, data<const uint32_t>(x), data<uint32_t>(y));
    case 2: return transpose_elements(context, shape, data<const uint16_t>(x), data<uint16_t>(y));
    default: fail(TREFOIL_INVALID_ARGUMENT, "transpose: elements must have 2 or 4 bytes");
  }
}

}  // namespace
}  // namespace trefoil::cpu::TREFOIL_ISA
