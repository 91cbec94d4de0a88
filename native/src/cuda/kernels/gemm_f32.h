// C = A B in f32 on the plain cores: tiles of C in registers, double-buffered tiles of the operands in shared memory, the next tile
// on its way from global memory while this one is multiplied. One fused multiply-add per term, in order of k.
#pragma once
#include "gemm_problem.h"

namespace trefoil::cuda {

// Reads tiles of `size` rows (or columns) of an operand by `depth` steps of k. by_depth: k is the contiguous direction.
template <class Source, bool by_depth, int size, int depth, int threads>
struct TileReaderF32 {
  static constexpr int kChunks = size * depth / 4 / threads;
  static constexpr int kPerLine = (by_depth ? depth : size) / 4;
  static_assert(size * depth % (4 * threads) == 0);

  const Source& source;
  int first, limit;  // along the side of C
  float4 chunk[kChunks];
  typename Source::Outer lines[by_depth ? kChunks : 1];

  static __device__ __forceinline__ int line(int i) { return (static_cast<int>(threadIdx.x) + i * threads) / kPerLine; }
  static __device__ __forceinline__ int place(int i) { return (static_cast<int>(threadIdx.x) + i * threads) % kPerLine * 4; }

  __device__ __forceinline__ TileReaderF32(const Source& source, int first, int limit) : source(source), first(first), limit(limit) {
    if constexpr (by_depth)
#pragma unroll
      for (int i = 0; i < kChunks; ++i) lines[i] = source.outer(first + line(i) < limit ? first + line(i) : first);
  }

  __device__ __forceinline__ void fetch(int k, int k_end) {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      chunk[i] = make_float4(0, 0, 0, 0);
      if constexpr (by_depth) {
        if (first + line(i) < limit) read(lines[i], k + place(i), k_end, chunk[i]);
      } else {
        if (k + line(i) < k_end) read(source.outer(k + line(i)), first + place(i), limit, chunk[i]);
      }
    }
  }

  __device__ __forceinline__ void read(const typename Source::Outer& line, int inner, int end, float4& to) const {
    if (source.vectors()) {
      if (inner < end)
        if (const float* from = source.at(line, source.inner(inner))) to = load4(from);
    } else {
      float* lanes = &to.x;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (inner + j < end)
          if (const float* from = source.at(line, source.inner(inner + j))) lanes[j] = *from;
    }
  }

  // tile [depth][size + 4]: four words of padding keep the transposed stores off each other's banks
  __device__ __forceinline__ void store(float* tile) const {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      if constexpr (by_depth) {
        const float* lanes = &chunk[i].x;
#pragma unroll
        for (int j = 0; j < 4; ++j) tile[(place(i) + j) * (size + 4) + line(i)] = lanes[j];
      } else {
        store4(tile + line(i) * (size + 4) + place(i), chunk[i]);
      }
    }
  }
};

// 256 threads, each with (side / 16)² sums in blocks of 4 x 4.
template <int side, int depth, class A, bool a_by_depth, class B, bool b_by_depth>
__global__ void __launch_bounds__(256) gemm_f32(A a, B b, Product p) {
  constexpr int kThreads = 256, kBlocks = side / 64, kTile = depth * (side + 4);
  TREFOIL_SHARED(tiles, float[4 * kTile]);  // A and B, twice
  Tile tile;
  if (!locate<side, side, depth>(p, tile)) return;
  if (p.schedule != Schedule::depth_groups) b.select(tile.product);
  if (p.schedule == Schedule::batch) a.select(tile.product);
  TileReaderF32<A, a_by_depth, side, depth, kThreads> read_a(a, tile.row, tile.row_end);
  TileReaderF32<B, b_by_depth, side, depth, kThreads> read_b(b, tile.column, p.n);

  float sums[kBlocks * 4][kBlocks * 4] = {};
  const int ty = static_cast<int>(threadIdx.x) / 16 * 4, tx = static_cast<int>(threadIdx.x) % 16 * 4;
  if (tile.k < tile.k_end) {
    read_a.fetch(tile.k, tile.k_end);
    read_b.fetch(tile.k, tile.k_end);
    read_a.store(tiles);
    read_b.store(tiles + kTile);
    __syncthreads();
    int buffer = 0;
    for (int k = tile.k; k < tile.k_end; k += depth) {
      const bool more = k + depth < tile.k_end;
      if (more) {
        read_a.fetch(k + depth, tile.k_end);
        read_b.fetch(k + depth, tile.k_end);
      }
      const float *left = tiles + buffer * 2 * kTile, *right = left + kTile;
#pragma unroll
      for (int step = 0; step < depth; ++step) {
        float x[kBlocks * 4], y[kBlocks * 4];
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
          *reinterpret_cast<float4*>(x + 4 * block) = load4(left + step * (side + 4) + block * 64 + ty);
          *reinterpret_cast<float4*>(y + 4 * block) = load4(right + step * (side + 4) + block * 64 + tx);
        }
#pragma unroll
        for (int i = 0; i < kBlocks * 4; ++i)
#pragma unroll
          for (int j = 0; j < kBlocks * 4; ++j) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
      }
      buffer ^= 1;
      if (more) {  // the other buffer was last read before the previous barrier
        read_a.store(tiles + buffer * 2 * kTile);
        read_b.store(tiles + buffer * 2 * kTile + kTile);
      }
      __syncthreads();
    }
  }
#pragma unroll
  for (int i = 0; i < kBlocks * 4; ++i)
#pragma unroll
    for (int block = 0; block < kBlocks; ++block)
      store_columns(p, tile, tile.row + i / 4 * 64 + ty + i % 4, tile.column + block * 64 + tx, &sums[i][4 * block]);
}

// The larger tile where there are enough of them to fill the device.
template <class A, bool a_by_depth, class B, bool b_by_depth>
void launch_gemm_f32(const Context& context, const A& a, const B& b, const Product& p, bool large) {
  const int side = large ? 128 : 64;
  const int64_t tiles = tile_slots(p, side) * ceil_divide(p.n, side) * (p.schedule == Schedule::row_groups ? 1 : p.count);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(p.splits));
  if (large)
    launch(context, {grid, 256}, gemm_f32<128, 8, A, a_by_depth, B, b_by_depth>, a, b, p);
  else
    launch(context, {grid, 256}, gemm_f32<64, 16, A, a_by_depth, B, b_by_depth>, a, b, p);
}

}  // namespace trefoil::cuda
