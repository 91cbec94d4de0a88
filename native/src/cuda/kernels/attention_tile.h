// What the tensor core kernels of attention share: tiles of rows of bf16 in shared memory, read as fragments of mma_bf16.
#pragma once
#include "floats.h"
#include "mma.h"

namespace trefoil::cuda {

constexpr int kAttentionThreads = 128;  // four warps
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// Rows of `dim` elements. The 16-byte chunks of a row change places with its number, so that the eight rows of an ldmatrix lie in
// different banks.
template <int dim>
struct AttentionTile {
  static constexpr int kChunks = dim / 8;

  static __device__ __forceinline__ int position(int row, int chunk) {
    if constexpr (dim == 32) return row * 32 + ((chunk ^ (row / 2)) & 3) * 8;
    else return row * dim + ((chunk & ~7) | ((chunk ^ row) & 7)) * 8;
  }

  // Row i from `from + i * step`; zeros past `valid` rows and `columns` elements. Asynchronous, by `threads` of which this is `thread`.
  template <int rows, int threads = kAttentionThreads>
  static __device__ __forceinline__ void copy(bf16* tile, const bf16* from, int step, int valid, int columns, int thread) {
    constexpr int kStride = threads / kChunks;  // rows that the threads copy at a time: the swizzle repeats with them
    static_assert(rows % kStride == 0 && kStride % (dim == 32 ? 8 : 2) == 0);
    const int row = thread / kChunks, chunk = thread % kChunks, reach = chunk * 8 < columns ? valid - row : 0;
    int at = row * step + chunk * 8;
#pragma unroll
    for (int i = 0; i < rows / kStride; ++i, at += kStride * step) {
      const bool there = i * kStride < reach;
      copy_async_16(tile + position(row + i * kStride, chunk), there ? from + at : from, there);
    }
  }

  // A: rows row..+15, elements column..+15 are k.
  static __device__ __forceinline__ void left(uint32_t (&to)[4], const bf16* tile, int row, int column) {
    const int lane = lane_index();
    load_matrix_x4(to, tile + position(row + (lane & 15), column / 8 + (lane >> 4)));
  }
  // Two fragments of B, {0, 1} and {2, 3}: rows row..+15 are columns of the product, elements column..+15 are k.
  static __device__ __forceinline__ void right(uint32_t (&to)[4], const bf16* tile, int row, int column) {
    const int lane = lane_index();
    load_matrix_x4(to, tile + position(row + (lane & 7) + (lane >> 4) * 8, column / 8 + ((lane >> 3) & 1)));
  }
  // The same with rows as k, elements column..+15 as columns of the product.
  static __device__ __forceinline__ void right_transposed(uint32_t (&to)[4], const bf16* tile, int row, int column) {
    const int lane = lane_index();
    load_matrix_x4_transposed(to, tile + position(row + (lane & 15), column / 8 + (lane >> 4)));
  }
};

// sums[16 x 8n] += rows `row` of a times rows of b, transposed.
template <int dim, int n>
__device__ __forceinline__ void multiply_rows(float (&sums)[n][4], const bf16* a, int row, const bf16* b) {
#pragma unroll
  for (int k = 0; k < dim; k += 16) {
    uint32_t left[4];
    AttentionTile<dim>::left(left, a, row, k);
#pragma unroll
    for (int j = 0; j < n; j += 2) {
      uint32_t right[4];
      AttentionTile<dim>::right(right, b, 8 * j, k);
      const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
      mma_bf16(sums[j], left, first);
      mma_bf16(sums[j + 1], left, second);
    }
  }
}

// A fragment of A from two neighbouring fragments of sums, rounded.
__device__ __forceinline__ void round_fragment(uint32_t (&to)[4], const float (&first)[4], const float (&second)[4]) {
  to[0] = pack_bf16(first[0], first[1]);
  to[1] = pack_bf16(first[2], first[3]);
  to[2] = pack_bf16(second[0], second[1]);
  to[3] = pack_bf16(second[2], second[3]);
}

// sums[16 x dim] += weights[16 x 8n] (rounded) times the 8n rows of b.
template <int dim, int n>
__device__ __forceinline__ void multiply_weights(float (&sums)[dim / 8][4], const float (&weights)[n][4], const bf16* b) {
#pragma unroll
  for (int j = 0; j < n; j += 2) {
    uint32_t left[4];
    round_fragment(left, weights[j], weights[j + 1]);
#pragma unroll
    for (int column = 0; column < dim; column += 16) {
      uint32_t right[4];
      AttentionTile<dim>::right_transposed(right, b, 8 * j, column);
      const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
      mma_bf16(sums[column / 8], left, first);
      mma_bf16(sums[column / 8 + 1], left, second);
    }
  }
}

// Over the four lanes that share a row of a fragment.
template <class Op>
__device__ __forceinline__ float quad_reduce(float value, Op op) {
  value = op(value, __shfl_xor_sync(kFullWarp, value, 1));
  return op(value, __shfl_xor_sync(kFullWarp, value, 2));
}

// A warp's 16 x dim of results to rows of `to`: at(half) is where the row begins, -1: left out; value(half, j) are its elements 8 j + 2 (lane % 4) and the next.
template <int dim, class At, class Value>
__device__ __forceinline__ void store_pairs(int64_t size, const Floats& to, const At& at, const Value& value) {
  const int pair = lane_index() % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t first = at(half);
    if (first < 0) continue;
    const Floats row = to.from(first);
#pragma unroll
    for (int j = 0; j < dim / 8; ++j) {
      const int column = 8 * j + pair;
      const float2 both = value(half, j);
      if (size % 2 == 0) {
        if (column < size) row.store2(column, both);
      } else {
        if (column < size) row.store(column, both.x);
        if (column + 1 < size) row.store(column + 1, both.y);
      }
    }
  }
}
// Of sums, times `factor` of each half's row.
template <int dim, class At>
__device__ __forceinline__ void store_fragments(const float (&sums)[dim / 8][4], const float (&factor)[2], int64_t size, const Floats& to, const At& at) {
  store_pairs<dim>(size, to, at, [&](int half, int j) { return make_float2(sums[j][2 * half] * factor[half], sums[j][2 * half + 1] * factor[half]); });
}

}  // namespace trefoil::cuda
