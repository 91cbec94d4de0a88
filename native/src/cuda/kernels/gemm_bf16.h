// C = A B with bf16 operands and f32 sums on the tensor cores (mma.sync): four warps of 64 x 64 (or 32 x 64, 32 x 32) each, operand tiles
// streamed through shared memory by asynchronous copies, several stages ahead, in a layout that ldmatrix reads without conflicts.
#pragma once
#include "gemm_problem.h"
#include "hopper.h"
#include "mma.h"

namespace trefoil::cuda {

constexpr int kDepthBf16 = 32;  // k of a stage
constexpr int kThreadsBf16 = 128;

// A stage of one operand: `size` rows (or columns) of C's side by 32 of k. by_depth: stored [size][32], else [32][size].
// The 16-byte chunks of a line change places with the line's number, so that the eight lines of an ldmatrix lie in different banks.
template <class Source, bool by_depth, int size>
struct TileStreamBf16 {
  static constexpr int kPerLine = (by_depth ? kDepthBf16 : size) / 8;
  static constexpr int kLines = kThreadsBf16 / kPerLine;  // that the threads copy at a time
  static constexpr int kChunks = size * kDepthBf16 / 8 / kThreadsBf16;

  const Source& source;
  int first, limit;
  typename Source::Outer lines[by_depth ? kChunks : 1];

  static __device__ __forceinline__ int position(int line, int chunk) {
    if constexpr (by_depth) return line * 32 + ((chunk ^ (line / 2)) & 3) * 8;
    else return line * size + ((chunk & ~7) | ((chunk ^ line) & 7)) * 8;
  }

  __device__ __forceinline__ TileStreamBf16(const Source& source, int first, int limit) : source(source), first(first), limit(limit) {
    if constexpr (by_depth) {
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        const int line = first + static_cast<int>(threadIdx.x) / kPerLine + i * kLines;
        lines[i] = source.outer(line < limit ? line : first);
      }
    }
  }

  __device__ __forceinline__ void copy(bf16* tile, int k, int k_end) const {
    const int line0 = static_cast<int>(threadIdx.x) / kPerLine, chunk = static_cast<int>(threadIdx.x) % kPerLine;
    const int inner = (by_depth ? k : first) + chunk * 8;
    const bool reachable = inner < (by_depth ? k_end : limit);
    const typename Source::Inner column = source.inner(inner);
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int line = line0 + i * kLines, outer = (by_depth ? first : k) + line;
      const bf16* from = nullptr;
      if (reachable && outer < (by_depth ? limit : k_end)) {
        if constexpr (by_depth) from = source.at(lines[i], column);
        else from = source.at(source.outer(outer), column);
      }
      copy_async_16(tile + position(line, chunk), from ? from : source.data, from != nullptr);
    }
  }

  // The fragments of a 16 x 16 piece at `side` along C and `k` within the stage. As A: one fragment of 16 rows. As B (second half of
  // k before the second half of the side): two of 8 columns, {0, 1} and {2, 3}.
  template <bool as_b>
  static __device__ __forceinline__ void fragment(uint32_t (&to)[4], const bf16* tile, int side, int k) {
    const int lane = lane_index(), in = lane & 7, low = (lane >> 3) & 1, high = lane >> 4;
    const int side_half = as_b ? high : low, k_half = as_b ? low : high;
    if constexpr (by_depth) load_matrix_x4(to, tile + position(side + in + side_half * 8, k / 8 + k_half));
    else load_matrix_x4_transposed(to, tile + position(k + in + k_half * 8, side / 8 + side_half));
  }
};

// cluster: the blocks of a cluster are the parts of k of one tile, in order, and add them up.
template <int rows, int columns, int stages, bool cluster, class A, bool a_by_depth, class B, bool b_by_depth>
__device__ __forceinline__ void gemm_bf16_tile(A a, B b, const Product& p) {
  constexpr int kWarpRows = rows / 2, kWarpColumns = columns / 2, kRows = kWarpRows / 16, kColumns = kWarpColumns / 8;
  constexpr int kTileA = rows * kDepthBf16, kStage = (rows + columns) * kDepthBf16;
  bf16* tiles = dynamic_shared<bf16>();  // [stages][A then B]
  let_next_start();
  if (!p.constant_b) wait_for_previous();
  Tile tile;
  if (!locate<rows, columns, kDepthBf16, cluster>(p, tile)) return;
  if (p.schedule != Schedule::depth_groups) b.select(tile.product);
  if (p.schedule == Schedule::batch) a.select(tile.product);
  using StreamA = TileStreamBf16<A, a_by_depth, rows>;
  using StreamB = TileStreamBf16<B, b_by_depth, columns>;
  const StreamA stream_a(a, tile.row, tile.row_end);
  const StreamB stream_b(b, tile.column, p.n);

  const int steps = tile.k < tile.k_end ? (tile.k_end - tile.k + kDepthBf16 - 1) / kDepthBf16 : 0;
  auto place = [&](int step) { return tiles + step % stages * kStage; };
  auto copy_b = [&](int step) { stream_b.copy(place(step) + kTileA, tile.k + step * kDepthBf16, tile.k_end); };
  auto copy_stage = [&](int step, bool has_b) {
    if (step < steps) {
      stream_a.copy(place(step), tile.k + step * kDepthBf16, tile.k_end);
      if (!has_b) copy_b(step);
    }
    copy_async_commit();  // also when empty: the count of groups is what waiting goes by
  };
  if (p.constant_b) {
#pragma unroll
    for (int step = 0; step < stages - 1; ++step)
      if (step < steps) copy_b(step);
    wait_for_previous();
  }
#pragma unroll
  for (int step = 0; step < stages - 1; ++step) copy_stage(step, p.constant_b);

  const int warp_row = warp_index() / 2 * kWarpRows, warp_column = warp_index() % 2 * kWarpColumns;
  float sums[kRows][kColumns][4] = {};
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<stages - 2>();
    __syncthreads();  // this stage has arrived for every thread, and the one about to be overwritten has been read
    copy_stage(step + stages - 1, false);
    const bf16 *left = place(step), *right = left + kTileA;
#pragma unroll
    for (int k = 0; k < kDepthBf16; k += 16) {
      uint32_t left_parts[kRows][4], right_parts[kColumns / 2][4];
#pragma unroll
      for (int i = 0; i < kRows; ++i) StreamA::template fragment<false>(left_parts[i], left, warp_row + 16 * i, k);
#pragma unroll
      for (int j = 0; j < kColumns / 2; ++j) StreamB::template fragment<true>(right_parts[j], right, warp_column + 16 * j, k);
#pragma unroll
      for (int i = 0; i < kRows; ++i)
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          const uint32_t column[2] = {right_parts[j / 2][j % 2 * 2], right_parts[j / 2][j % 2 * 2 + 1]};
          mma_bf16(sums[i][j], left_parts[i], column);
        }
    }
  }
  copy_async_wait<0>();
  __syncthreads();  // every warp is done with the stages
  const int g = lane_index() / 4, t = lane_index() % 4;
#if defined(TREFOIL_HOPPER)
  if constexpr (cluster) {
    constexpr int kPitch = columns + 4, kItems = columns / 4;
    float* mine = reinterpret_cast<float*>(tiles);  // [rows][kPitch]
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          *reinterpret_cast<float2*>(mine + (warp_row + 16 * i + g + 8 * half) * kPitch + warp_column + 8 * j + 2 * t) = make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
    cluster_sync();  // every part has its sums where the others look for them
    const int count = min(tile.row_end - tile.row, rows) * kItems;
    for (int at = tile.part * kThreadsBf16 + static_cast<int>(threadIdx.x); at < count; at += p.splits * kThreadsBf16) {
      const int row = at / kItems, column = at % kItems * 4;
      float4 parts[kMostInCluster];
#pragma unroll
      for (int part = 0; part < kMostInCluster; ++part)
        if (part < p.splits) parts[part] = load4_of(part, mine + row * kPitch + column);
      float4 sum = parts[0];
#pragma unroll
      for (int part = 1; part < kMostInCluster; ++part)
        if (part < p.splits) sum = make_float4(sum.x + parts[part].x, sum.y + parts[part].y, sum.z + parts[part].z, sum.w + parts[part].w);
      const float values[4] = {sum.x, sum.y, sum.z, sum.w};
      store_columns<true>(p, tile, tile.row + row, tile.column + column, values);
    }
    cluster_sync();  // nobody ends while others read its sums
    return;
  }
#endif
  // Sixteen rows at a time through shared memory, each warp for itself, so that global memory sees whole lines.
  constexpr int kStride = kWarpColumns + 4;
  float* strip = reinterpret_cast<float*>(tiles) + warp_index() * 16 * kStride;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<float2*>(strip + (g + 8 * half) * kStride + 8 * j + 2 * t) = make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
    __syncwarp();
#pragma unroll 1
    for (int at = lane_index(); at < 16 * kWarpColumns / 4; at += 32) {
      const int row = at / (kWarpColumns / 4), column = at % (kWarpColumns / 4) * 4;
      float values[4];
      *reinterpret_cast<float4*>(values) = load4(strip + row * kStride + column);
      store_columns(p, tile, tile.row + warp_row + 16 * i + row, tile.column + warp_column + column, values);
    }
    __syncwarp();
  }
}

template <int side, int stages, class A, bool a_by_depth, class B, bool b_by_depth>
__global__ void __launch_bounds__(kThreadsBf16, 2) gemm_bf16(A a, B b, Product p) {
  gemm_bf16_tile<side, side, stages, false, A, a_by_depth, B, b_by_depth>(a, b, p);
}

// For few rows, where the time is that of reading b: wide tiles, as each column of them reads a again, and many copies under way. Hopper's.
constexpr int kClusterStages = 6;
template <class A, bool a_by_depth, class B, bool b_by_depth>
__global__ void __launch_bounds__(kThreadsBf16, 2) gemm_bf16_cluster(A a, B b, Product p) {
#if defined(TREFOIL_HOPPER)
  gemm_bf16_tile<kClusterRows, kClusterColumns, kClusterStages, true, A, a_by_depth, B, b_by_depth>(a, b, p);
#endif
}

template <class A, bool a_by_depth, class B, bool b_by_depth>
void launch_gemm_bf16_cluster(const Context& context, const A& a, const B& b, const Product& p) {
  const int64_t blocks = ceil_divide(p.m, kClusterRows) * ceil_divide(p.n, kClusterColumns) * p.count * p.splits;
  constexpr size_t kShared = sizeof(bf16) * kClusterStages * (kClusterRows + kClusterColumns) * kDepthBf16;
  launch(context, early({static_cast<unsigned>(blocks), kThreadsBf16, kShared, static_cast<unsigned>(p.splits)}), gemm_bf16_cluster<A, a_by_depth, B, b_by_depth>, a, b, p);
}

template <class A, bool a_by_depth, class B, bool b_by_depth>
void launch_gemm_bf16(const Context& context, const A& a, const B& b, const Product& p, bool large) {
  const int side = large ? 128 : 64;
  const int64_t tiles = tile_slots(p, side) * ceil_divide(p.n, side) * (p.schedule == Schedule::row_groups ? 1 : p.count);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(p.splits));
  constexpr int kStages = 4;
  const size_t shared = static_cast<size_t>(kStages) * 2 * static_cast<size_t>(side) * kDepthBf16 * sizeof(bf16);
  if (large)
    launch(context, early({grid, kThreadsBf16, shared}), gemm_bf16<128, kStages, A, a_by_depth, B, b_by_depth>, a, b, p);
  else
    launch(context, early({grid, kThreadsBf16, shared}), gemm_bf16<64, kStages, A, a_by_depth, B, b_by_depth>, a, b, p);
}

}  // namespace trefoil::cuda
