// C = A B by wgmma, for sm_90a: tiles of 128 x 128, a producer thread that has the copy engine (TMA) fill a ring of stages, and two warp
// groups of 64 x 128 that multiply. a lies along k, b along k or along its columns. It is right on the emulator and has never run on a GPU, so it is used only
// where TREFOIL_CUDA_WGMMA=1.
#include "gemm_wgmma.h"

#include "hopper.h"

namespace trefoil::cuda {

namespace {

constexpr int kSide = 128, kDepth = 64, kStages = 5, kThreads = 384;  // warp group 0 produces, 1 and 2 multiply
constexpr uint32_t kTileBytes = kSide * kDepth * sizeof(bf16), kStageBytes = 2 * kTileBytes;

// a_step, b_step: rows of the tensor from one product, or group, to the next. b_across: rows of b are k; its tile is two of 64 columns.
template <bool b_across>
__global__ void __launch_bounds__(kThreads, 1)
    gemm_wgmma_kernel(const __grid_constant__ CUtensorMap a_map, const __grid_constant__ CUtensorMap b_map, int a_step, int b_step, Product p) {
#if defined(TREFOIL_HOPPER)
  TREFOIL_SHARED(full, uint64_t[kStages]);
  TREFOIL_SHARED(empty, uint64_t[kStages]);
  unsigned char* stages = dynamic_shared<unsigned char>();
  stages += (1024 - shared_address(stages) % 1024) % 1024;  // the swizzle goes by address
  Tile tile;
  if (!locate<kSide, kSide, kDepth>(p, tile)) return;
  const int steps = (p.k + kDepth - 1) / kDepth, group = static_cast<int>(threadIdx.x) / 128;
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
      const int a_row = tile.product * a_step + tile.row, b_row = tile.product * b_step;
      for (int step = 0; step < steps; ++step) {
        const int stage = step % kStages;
        if (step >= kStages) barrier_wait(&empty[stage], static_cast<uint32_t>(step / kStages - 1) & 1u);
        barrier_expect(&full[stage], kStageBytes);  // what lies outside of the tensor counts too: it arrives as zeros
        copy_box(stages + stage * kStageBytes, &a_map, step * kDepth, a_row, &full[stage]);
        unsigned char* b_tile = stages + stage * kStageBytes + kTileBytes;
        if constexpr (b_across) {
          copy_box(b_tile, &b_map, tile.column, b_row + step * kDepth, &full[stage]);
          copy_box(b_tile + kTileBytes / 2, &b_map, tile.column + 64, b_row + step * kDepth, &full[stage]);
        } else {
          copy_box(b_tile, &b_map, step * kDepth, b_row + tile.column, &full[stage]);
        }
      }
    }
  } else {
    take_registers<232>();
    const int warp_row = (group - 1) * 64;
    float sums[64];
#pragma unroll
    for (float& sum : sums) sum = 0;
    keep(sums);  // ptxas would run products one by one if it found these zeros among them
    for (int step = 0; step < steps; ++step) {
      const int stage = step % kStages;
      barrier_wait(&full[stage], static_cast<uint32_t>(step / kStages) & 1u);
      const uint64_t a = describe_rows_of_128(stages + stage * kStageBytes + warp_row * kDepth * 2);
      const unsigned char* b_tile = stages + stage * kStageBytes + kTileBytes;
      const uint64_t b = b_across ? describe_columns_of_128(b_tile, kTileBytes / 2) : describe_rows_of_128(b_tile);
      constexpr uint64_t kNext = b_across ? 128 : 2;  // 16 of k further on
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k)
        wgmma_m64n128k16<b_across>(sums, a + 2 * static_cast<uint64_t>(k), b + kNext * static_cast<uint64_t>(k), step > 0 || k > 0);
      wgmma_commit();
      wgmma_wait<1>();  // the step before is done with its stage
      if (step > 0 && lane_index() == 0) barrier_arrive(&empty[(step - 1) % kStages]);
    }
    wgmma_wait<0>();
    keep(sums);
    const int lane = lane_index(), row = tile.row + warp_row + warp_index() % 4 * 16 + lane / 4, column = tile.column + lane % 4 * 2;
    const int64_t product = p.schedule == Schedule::row_groups ? 0 : tile.product;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (row + 8 * half >= tile.row_end) continue;
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        const int first = column + 8 * j;
        const int64_t within = static_cast<int64_t>(row + 8 * half) * p.n + first, at = product * p.c_step + within;
        const int64_t residual_at = product * p.residual_step + within;
        if (p.n % 2 == 0) {
          if (first < p.n)
            p.c.store2(at, make_float2(finish(p.epilogue, sums[4 * j + 2 * half], first, at, residual_at),
                                       finish(p.epilogue, sums[4 * j + 2 * half + 1], first + 1, at + 1, residual_at + 1)));
        } else {
          if (first < p.n) p.c.store(at, finish(p.epilogue, sums[4 * j + 2 * half], first, at, residual_at));
          if (first + 1 < p.n) p.c.store(at + 1, finish(p.epilogue, sums[4 * j + 2 * half + 1], first + 1, at + 1, residual_at + 1));
        }
      }
    }
  }
#endif
}

// Boxes of `lines` rows by 64 columns (128 bytes), swizzled by 128 bytes; zeros outside of [count, columns].
bool encode(EncodeTensorMap function, CUtensorMap& map, const Rows<bf16>& rows, int64_t count, int columns, unsigned lines) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(count)}, strides[1] = {static_cast<cuuint64_t>(rows.stride) * sizeof(bf16)};
  const cuuint32_t box[2] = {64, lines}, steps[2] = {1, 1};
  return count <= INT32_MAX && function(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<bf16*>(rows.data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace

bool gemm_wgmma(const Context& context, const Rows<bf16>& a, const Rows<bf16>& b, bool b_by_depth, const Product& p) {
  if (!context.wgmma || p.schedule == Schedule::depth_groups || p.splits != 1 || p.placement.columns != 0 || a.index || b.index || p.k == 0) return false;
  // The products' rows lie one after another, or are the same for all. Where they are k, a step past the last would read another product's.
  const bool grouped = p.schedule == Schedule::row_groups;
  const int b_rows = b_by_depth ? p.n : p.k, a_step = grouped || a.step == 0 ? 0 : p.m, b_step = b.step == 0 ? 0 : b_rows;
  if (!b_by_depth && b_step != 0 && p.k % kDepth != 0) return false;
  static const EncodeTensorMap function = find_encode_tensor_map();
  CUtensorMap a_map, b_map;
  if (!function || !encode(function, a_map, a, a_step ? int64_t{p.count} * p.m : p.m, p.k, kSide) ||
      !encode(function, b_map, b, b_step ? int64_t{p.count} * b_rows : b_rows, b_by_depth ? p.k : p.n, b_by_depth ? kSide : kDepth))
    return false;
  const int64_t tiles = tile_slots(p, kSide) * ceil_divide(p.n, kSide) * (grouped ? 1 : p.count);
  launch(context, {static_cast<unsigned>(tiles), kThreads, kStages * kStageBytes + 1024}, b_by_depth ? gemm_wgmma_kernel<false> : gemm_wgmma_kernel<true>, a_map, b_map, a_step,
         b_step, p);
  return true;
}

}  // namespace trefoil::cuda
