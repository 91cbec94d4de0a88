// C = A B by wgmma, for sm_90a: tiles of 128 x 128, a producer thread that has the copy engine (TMA) fill a ring of stages, and two warp
// groups of 64 x 128 that multiply. Each operand lies along k or across it. It is right on the emulator and has never run on a GPU, so it
// is used only where TREFOIL_CUDA_WGMMA=1.
#include "gemm_wgmma.h"

#include "tensor_boxes.h"
#include "wgmma.h"

namespace trefoil::cuda {

namespace {

constexpr int kSide = 128, kDepth = 64, kStages = 5, kThreads = 384;  // warp group 0 produces, 1 and 2 multiply
constexpr uint32_t kTileBytes = kSide * kDepth * sizeof(bf16), kStageBytes = 2 * kTileBytes;

#if defined(TREFOIL_HOPPER)

constexpr uint32_t kHalfBytes = kTileBytes / 2;
constexpr int kBothBarrier = 1;  // of both warp groups that multiply

// An operand's tile of one step. Along k: a box of 128 rows. Across k its rows are k: two boxes of 64 columns.
template <bool across>
__device__ __forceinline__ void load(unsigned char* tile, const CUtensorMap* map, int product, int row, int k, uint64_t* full) {
  if constexpr (across) {
    copy_box(tile, map, {row, k, product}, full);
    copy_box(tile + kHalfBytes, map, {row + 64, k, product}, full);
  } else {
    copy_box(tile, map, {k, row, product}, full);
  }
}

// Both operands across k: zeros past `left` rows of both tiles, by both groups. They are the next group's there, and may be NaN.
__device__ __forceinline__ void clear_rows(unsigned char* stage, int left) {
  const int chunks = (kDepth - left) * 8;
  for (int i = static_cast<int>(threadIdx.x) - 128; i < 4 * chunks; i += 256)
    store_for_engine(stage + i / chunks * kHalfBytes + left * 128 + i % chunks * 16, uint4{});
  engine_fence();
  named_sync(kBothBarrier, 256);
}

// Two neighbours of C; `first` is the column.
__device__ __forceinline__ void store_pair(const Product& p, int product, int row, int first, float low, float high) {
  const int64_t within = static_cast<int64_t>(row) * p.n + first;
  if (p.splits > 1) {
    float* to = p.partials + (static_cast<int64_t>(blockIdx.y) * p.count + product) * p.m * p.n + within;
    if (first < p.n) to[0] = low;
    if (first + 1 < p.n) to[1] = high;
    return;
  }
  if (first >= p.n) return;
  const int64_t at = product * p.c_step + within, residual_at = product * p.residual_step + within;
  const bool both = first + 1 < p.n;
  const float x = finish(p.epilogue, low, first, at, residual_at), y = both ? finish(p.epilogue, high, first + 1, at + 1, residual_at + 1) : 0.0f;
  if (p.n % 2 == 0) {
    p.c.store2(at, make_float2(x, y));
  } else {
    p.c.store(at, x);
    if (both) p.c.store(at + 1, y);
  }
}

#endif

// a_each, b_each: 1 where each product, or group, has an operand of its own; 0 where they share it.
template <bool a_across, bool b_across>
__global__ void __launch_bounds__(kThreads, 1)
    gemm_wgmma_kernel(const __grid_constant__ CUtensorMap a_map, const __grid_constant__ CUtensorMap b_map, int a_each, int b_each, Product p) {
#if defined(TREFOIL_HOPPER)
  TREFOIL_SHARED(full, uint64_t[kStages]);
  TREFOIL_SHARED(empty, uint64_t[kStages]);
  unsigned char* stages = dynamic_shared<unsigned char>();
  stages += (1024 - shared_address(stages) % 1024) % 1024;  // the swizzle goes by address
  Tile tile;
  if (!locate<kSide, kSide, kDepth>(p, tile)) return;
  const int depth = tile.k_end > tile.k ? tile.k_end - tile.k : 0, steps = (depth + kDepth - 1) / kDepth, group = static_cast<int>(threadIdx.x) / 128;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(&full[stage], 1);
      barrier_init(&empty[stage], 8);  // every warp that reads
    }
    barrier_fence();
  }
  __syncthreads();
  if (group == 0) {
    give_registers<40>();
    if (threadIdx.x == 0) {
      for (int step = 0; step < steps; ++step) {
        const int stage = step % kStages, k = tile.k + step * kDepth;
        if (step >= kStages) barrier_wait(&empty[stage], static_cast<uint32_t>(step / kStages - 1) & 1u);
        barrier_expect(&full[stage], kStageBytes);  // what lies outside of the tensor counts too: it arrives as zeros
        load<a_across>(stages + stage * kStageBytes, &a_map, tile.product * a_each, tile.row, k, &full[stage]);
        load<b_across>(stages + stage * kStageBytes + kTileBytes, &b_map, tile.product * b_each, tile.column, k, &full[stage]);
      }
    }
  } else {
    take_registers<232>();
    const int warp_row = (group - 1) * 64;
    float sums[64];
#pragma unroll
    for (float& sum : sums) sum = 0;
    keep(sums);  // ptxas would run products one by one if it found these zeros among them
    // A group of steps of k may end within a step. What lies past the tensor is zero already.
    const int left = a_across && b_across && tile.k_end < p.k ? depth % kDepth : 0;
    for (int step = 0; step < steps; ++step) {
      unsigned char* stage = stages + step % kStages * kStageBytes;
      barrier_wait(&full[step % kStages], static_cast<uint32_t>(step / kStages) & 1u);
      if constexpr (a_across && b_across)
        if (left && step + 1 == steps) clear_rows(stage, left);
      const unsigned char *a_tile = stage + warp_row * 128, *b_tile = stage + kTileBytes;  // across k as well: a half of 64 columns is as large as 64 rows
      const uint64_t a = a_across ? describe_columns_of_128(a_tile, kHalfBytes) : describe_rows_of_128(a_tile);
      const uint64_t b = b_across ? describe_columns_of_128(b_tile, kHalfBytes) : describe_rows_of_128(b_tile);
      constexpr uint64_t kNextA = a_across ? 128 : 2, kNextB = b_across ? 128 : 2;  // 16 of k further on
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k)
        wgmma<kSide, a_across, b_across>(sums, a + kNextA * static_cast<uint64_t>(k), b + kNextB * static_cast<uint64_t>(k), step > 0 || k > 0);
      wgmma_commit();
      wgmma_wait<1>();  // the step before is done with its stage
      if (step > 0 && lane_index() == 0) barrier_arrive(&empty[(step - 1) % kStages]);
    }
    wgmma_wait<0>();
    keep(sums);
    const int lane = lane_index(), row = tile.row + warp_row + warp_index() % 4 * 16 + lane / 4, column = tile.column + lane % 4 * 2;
    const int product = p.schedule == Schedule::row_groups ? 0 : tile.product;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (row + 8 * half >= tile.row_end) continue;
#pragma unroll
      for (int j = 0; j < 16; ++j) store_pair(p, product, row + 8 * half, column + 8 * j, sums[4 * j + 2 * half], sums[4 * j + 2 * half + 1]);
    }
  }
#endif
}

// [products, rows, columns] of an operand, columns k or (across) rows k.
CUtensorMap encode(const Rows<bf16>& operand, bool by_depth, int count, int side, int k) {
  const int64_t columns = by_depth ? k : side, rows = by_depth ? side : k;
  return encode_boxes<3>(operand.data, {columns, rows, operand.step ? count : 1}, {operand.stride, operand.step ? operand.step : rows * operand.stride}, {64, by_depth ? kSide : kDepth, 1});
}

}  // namespace

bool gemm_wgmma(const Context& context, const Rows<bf16>& a, bool a_by_depth, const Rows<bf16>& b, bool b_by_depth, const Product& p) {
  if (!context.wgmma || p.placement.columns != 0 || a.index || b.index || p.k == 0) return false;
  if (p.schedule == Schedule::depth_groups && (a_by_depth || b_by_depth)) return false;  // no op has groups of k along rows
  const CUtensorMap a_map = encode(a, a_by_depth, p.count, p.m, p.k), b_map = encode(b, b_by_depth, p.count, p.n, p.k);
  const int64_t tiles = tile_slots(p, kSide) * ceil_divide(p.n, kSide) * (p.schedule == Schedule::row_groups ? 1 : p.count);
  const auto kernel = a_by_depth ? (b_by_depth ? gemm_wgmma_kernel<false, false> : gemm_wgmma_kernel<false, true>)
                                 : (b_by_depth ? gemm_wgmma_kernel<true, false> : gemm_wgmma_kernel<true, true>);
  launch(context, {dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(p.splits)), kThreads, kStages * kStageBytes + 1024}, kernel, a_map, b_map, a.step ? 1 : 0, b.step ? 1 : 0, p);
  return true;
}

}  // namespace trefoil::cuda
