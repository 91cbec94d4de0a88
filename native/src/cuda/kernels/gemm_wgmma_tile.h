// C = A B by wgmma, for sm_90a: the kernel, for tiles of 128 x 128 and 128 x 256. Blocks stay, one to a multiprocessor, and take tile after
// tile: a producer thread has the copy engine (TMA) fill a ring of stages, and runs ahead into the next tile while two warp groups of 64 rows
// finish and write the last. Two blocks (a cluster) may take two tiles below each other together: each loads half of b for both. Each operand
// lies along k or across it. It is right on the emulator and has never run on a GPU, so it is used only where TREFOIL_CUDA_WGMMA=1.
#pragma once
#include "gemm_problem.h"
#include "wgmma.h"

namespace trefoil::cuda {

constexpr int kTileRows = 128, kDepth = 64, kWgmmaThreads = 384;  // warp group 0 produces, 1 and 2 multiply
constexpr uint32_t kHalfBytes = 64 * kDepth * sizeof(bf16);       // 64 rows along k, or 64 columns across it
constexpr uint32_t kSliceBytes = 64 * 128;                        // of results on their way: 64 rows of 128 bytes
template <int columns>
constexpr int kStages = columns == 256 ? 4 : 6;
template <int columns>
constexpr uint32_t kStageBytes = (kTileRows + columns) / 64 * kHalfBytes;
// Stages, two slices of results to each warp group, and what it takes to start at a multiple of 1024.
template <int columns>
constexpr size_t kWgmmaShared = kStages<columns> * kStageBytes<columns> + 4 * kSliceBytes + 1024;

// What a launch is told.
struct WgmmaProblem {
  int cluster;         // 1 or, for tiles of 256 columns, 2
  int a_each, b_each;  // 1 where each product, or group, has an operand of its own; 0 where they share it
  bool by_engine;      // results, or the sums of parts, are written by the copy engine: nothing is to be done to them but to scale
  Product p;
};
using WgmmaKernel = void (*)(CUtensorMap, CUtensorMap, CUtensorMap, WgmmaProblem);

// The kernel of each way round: gemm_wgmma_128.cu, gemm_wgmma_256.cu.
WgmmaKernel gemm_wgmma_128(bool a_across, bool b_across);
WgmmaKernel gemm_wgmma_256(bool a_across, bool b_across);

#if defined(TREFOIL_HOPPER)

constexpr int kBothBarrier = 1;  // of both warp groups that multiply; 1 + group: of one

// Where a thread is in the ring of stages.
template <int stages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;  // of the stage's present round
  __device__ __forceinline__ void advance() {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
  __device__ __forceinline__ int before() const { return stage ? stage - 1 : stages - 1; }
};

// All tiles, in the order in which blocks take them: parts of k, then products, then bands of 2048 rows. Known to each warp by itself.
template <int columns>
struct Tiles {
  int rows;                  // of the tiles of a cluster together
  int slots, across, total;  // rows of tiles and columns of tiles of a product, and all

  // For a whole warp, as is find.
  __device__ __forceinline__ Tiles(const Product& p, int cluster) : rows(kTileRows * cluster) {
    across = (p.n + columns - 1) / columns;
    slots = (p.m + rows - 1) / rows;
    int products = p.count * p.splits;
    if (p.schedule == Schedule::row_groups) {
      slots = 0;
      for (int group = lane_index(); group < p.count; group += 32) {
        int begin, end;
        slots += group_tiles(p, group, rows, begin, end);
      }
      slots = warp_sum(slots);
      products = 1;
    }
    total = products * slots * across;
  }
  // That of block `rank` of the cluster; it may begin past the last row, or past its group's.
  __device__ __forceinline__ Tile find(const Product& p, int id, int rank) const {
    Tile tile;
    const int number = id / (slots * across);
    tile.part = number / p.count;
    tile.product = number - tile.part * p.count;
    int column;
    const int slot = place_in_bands(id - number * slots * across, slots, across, 2048 / rows, column);
    tile.column = column * columns;
    tile.row = slot * rows;
    tile.row_end = p.m;
    if (p.schedule == Schedule::row_groups) find_group_tile(p, rows, slot, tile);
    tile.row += rank * kTileRows;
    set_depth<kDepth>(p, tile);
    return tile;
  }
};

__device__ __forceinline__ int steps_of(const Tile& tile) { return tile.k_end > tile.k ? (tile.k_end - tile.k + kDepth - 1) / kDepth : 0; }

// An operand's `rows` of one step, to both blocks of a cluster where `both`. Along k: boxes of 128 rows. Across k its rows are k: boxes of 64 columns.
template <bool across, int rows>
__device__ __forceinline__ void load(bool both, unsigned char* to, const CUtensorMap* map, int product, int row, int k, uint64_t* full) {
  const auto copy = [&](unsigned char* place, const int(&at)[3]) {
    if (both) copy_box_to(3, place, map, at, full);
    else copy_box(place, map, at, full);
  };
  if constexpr (across) {
#pragma unroll
    for (int i = 0; i < rows / 64; ++i) copy(to + i * kHalfBytes, {row + 64 * i, k, product});
  } else {
#pragma unroll
    for (int i = 0; i < rows / 128; ++i) copy(to + 2 * i * kHalfBytes, {k, row + 128 * i, product});
  }
}

// Both operands across k: zeros past `left` rows of both tiles, by both groups. They are the next group's there, and may be NaN.
template <int columns>
__device__ __forceinline__ void clear_rows(unsigned char* stage, int left) {
  const int chunks = (kDepth - left) * 8;
  for (int i = static_cast<int>(threadIdx.x) - 128; i < (kTileRows + columns) / 64 * chunks; i += 256)
    store_for_engine(stage + i / chunks * kHalfBytes + left * 128 + i % chunks * 16, uint4{});
  engine_fence();
  named_sync(kBothBarrier, 256);
}

// Four neighbouring columns of one row of C, whose sums are in shared memory. What few products need goes one by one, there: registers are short.
__device__ __forceinline__ void store_from_shared(const Product& p, const Tile& tile, int row, int column, float* sums) {
  if (row >= tile.row_end || column >= p.n) return;
  const Epilogue& e = p.epilogue;
  const bool parts = p.splits > 1, whole = p.n % 4 == 0;
  const int count = p.n - column < 4 ? p.n - column : 4, product = p.schedule == Schedule::row_groups ? 0 : tile.product;
  const int64_t within = static_cast<int64_t>(row) * p.n + column;
  const int64_t at = parts ? (static_cast<int64_t>(tile.part) * p.count + product) * p.m * p.n + within : product * p.c_step + within;
  const bool plain = parts || (!e.bias && !e.preactivation && e.activation == Activation::none);
  if (!plain)
#pragma unroll 1
    for (int i = 0; i < count; ++i) sums[i] = finish_product(e, sums[i], column + i, at + i);
  const float scale = plain && !parts ? e.alpha : 1.0f;
  const Floats to = parts ? Floats(p.partials) : p.c, residual = parts || !e.residual ? Floats() : e.residual.from(product * p.residual_step + within);
  if (whole) {
    float4 x = load4(sums);
    x = make_float4(scale * x.x, scale * x.y, scale * x.z, scale * x.w);
    if (residual) {
      const float4 r = residual.load4(0);
      x = make_float4(x.x + r.x, x.y + r.y, x.z + r.z, x.w + r.w);
    }
    to.store4(at, x);
  } else {
#pragma unroll 1
    for (int i = 0; i < count; ++i) to.store(at + i, scale * sums[i] + (residual ? residual.load(i) : 0.0f));
  }
}

// The 64 rows of a warp group from `row` on, in slices of 128 bytes of each, by way of shared memory: the copy engine writes them on beside the
// next tile's products, or, where it cannot, threads write 16 bytes beside each other. `slices` counts those written.
template <int columns>
__device__ __forceinline__ void write_results(const WgmmaProblem& problem, const CUtensorMap* c_map, const Tile& tile, int row, const float (&sums)[columns / 2], unsigned char* slice_pair,
                                              int group, int& slices) {
  const Product& p = problem.p;
  // Rows past the last one of C are left out by the engine; those of the next group would not be.
  const bool by_engine = problem.by_engine && (row + 64 <= tile.row_end || tile.row_end == p.m), parts = p.splits > 1;
  const float scale = by_engine && !parts ? p.epilogue.alpha : 1.0f;
  const int product = (p.schedule == Schedule::row_groups ? 0 : tile.product) + tile.part * p.count;
  int thread = static_cast<int>(threadIdx.x) % 128;
  // When all are past the barrier the slice is whole, and the engine has read the one before: its place is free for the next.
  const auto finish_slice = [&] {
    engine_fence();
    if (thread == 0) wait_stores_read<0>();
    named_sync(kBothBarrier + group, 128);
  };
  const auto store_slice = [&](int column, unsigned char* slice) {
    if (thread > 0) return;
    store_box(c_map, {column, row, product}, slice);
    commit_stores();
  };
  if (by_engine && p.c.half && !parts) {
#pragma unroll
    for (int slice = 0; slice < columns / 64; ++slice) {
      const int column = tile.column + 64 * slice;
      if (column >= p.n) break;
      unsigned char* to = slice_pair + slices++ % 2 * kSliceBytes;
      opaque(thread);  // addresses of all slices at once would not fit into registers
      const int lane = thread % 32, own = thread / 32 * 16 + lane / 4;
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float* pair = &sums[32 * slice + 4 * j + 2 * half];
          store_for_engine(to + chunk_of_128(own + 8 * half, j) + lane % 4 * 4, pack_bf16(scale * pair[0], scale * pair[1]));
        }
      finish_slice();
      store_slice(column, to);
    }
    return;
  }
#pragma unroll
  for (int slice = 0; slice < columns / 32; ++slice) {
    const int column = tile.column + 32 * slice;
    if (column >= p.n) break;
    unsigned char* to = slice_pair + slices++ % 2 * kSliceBytes;
    opaque(thread);
    const int lane = thread % 32, own = thread / 32 * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* pair = &sums[16 * slice + 4 * j + 2 * half];
        store_for_engine(to + chunk_of_128(own + 8 * half, 2 * j + lane % 4 / 2) + lane % 2 * 8, make_float2(scale * pair[0], scale * pair[1]));
      }
    finish_slice();
    if (by_engine) {
      store_slice(column, to);
      continue;
    }
#pragma unroll 1
    for (int i = thread; i < 64 * 8; i += 128)
      store_from_shared(p, tile, row + i / 8, column + i % 8 * 4, reinterpret_cast<float*>(to + chunk_of_128(i / 8, i % 8)));
  }
}

#endif

template <int columns, bool a_across, bool b_across>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    gemm_wgmma_kernel(const __grid_constant__ CUtensorMap a_map, const __grid_constant__ CUtensorMap b_map, const __grid_constant__ CUtensorMap c_map, const __grid_constant__ WgmmaProblem problem) {
#if defined(TREFOIL_HOPPER)
  constexpr int stages = kStages<columns>;
  constexpr uint32_t kATileBytes = kTileRows / 64 * kHalfBytes;
  TREFOIL_SHARED(full, uint64_t[stages]);
  TREFOIL_SHARED(empty, uint64_t[stages]);
  unsigned char* ring_memory = dynamic_shared<unsigned char>();
  ring_memory += (1024 - shared_address(ring_memory) % 1024) % 1024;  // the swizzle goes by address
  const Product& p = problem.p;
  const int group = static_cast<int>(threadIdx.x) / 128, cluster = columns == 256 ? problem.cluster : 1, rank = cluster == 1 ? 0 : cluster_rank();
  const int first = static_cast<int>(blockIdx.x) / cluster, clusters = static_cast<int>(gridDim.x) / cluster;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < stages; ++stage) {
      barrier_init(&full[stage], 1);
      barrier_init(&empty[stage], static_cast<uint32_t>(8 * cluster));  // every warp that reads what is loaded from here
    }
    barrier_fence();
  }
  if (cluster == 1) __syncthreads();
  else cluster_sync();
  const auto release = [&](int stage) {
    if (lane_index() > 0) return;
    if (cluster == 1) return barrier_arrive(&empty[stage]);
    barrier_arrive_at(&empty[stage], 0);
    barrier_arrive_at(&empty[stage], 1);
  };
  Ring<stages> ring;
  if (group == 0) {
    give_registers<56>();
    const Tiles<columns> tiles(p, cluster);
    for (int id = first; warp_index() == 0 && id < tiles.total; id += clusters) {
      const Tile tile = tiles.find(p, id, rank);
      if (lane_index() > 0) continue;
      const int steps = steps_of(tile);
      for (int step = 0; step < steps; ++step, ring.advance()) {
        unsigned char* stage = ring_memory + ring.stage * kStageBytes<columns>;
        uint64_t* const arrived = &full[ring.stage];
        const int k = tile.k + step * kDepth;
        barrier_wait(&empty[ring.stage], ring.parity ^ 1);   // passes at once in the first round
        barrier_expect(arrived, kStageBytes<columns>);  // what lies outside of the tensor counts too: it arrives as zeros
        load<a_across, kTileRows>(false, stage, &a_map, tile.product * problem.a_each, tile.row, k, arrived);
        if (cluster == 1) load<b_across, columns>(false, stage + kATileBytes, &b_map, tile.product * problem.b_each, tile.column, k, arrived);
        else load<b_across, 128>(true, stage + kATileBytes + rank * 2 * kHalfBytes, &b_map, tile.product * problem.b_each, tile.column + 128 * rank, k, arrived);
      }
    }
  } else {
    take_registers<224>();
    const Tiles<columns> tiles(p, cluster);
    unsigned char* const slice_pair = ring_memory + stages * kStageBytes<columns> + (group - 1) * 2 * kSliceBytes;
    int slices = 0;
    float sums[columns / 2];
    for (int id = first; id < tiles.total; id += clusters) {
      const Tile tile = tiles.find(p, id, rank);
      const int steps = steps_of(tile);
      // A group of steps of k may end within a step. What lies past the tensor is zero already.
      const int left = a_across && b_across && tile.k_end < p.k ? (tile.k_end - tile.k) % kDepth : 0;
#pragma unroll
      for (float& sum : sums) sum = 0;
      keep(sums);  // ptxas would run products one by one if it found these zeros among them
      for (int step = 0; step < steps; ++step, ring.advance()) {
        unsigned char* stage = ring_memory + ring.stage * kStageBytes<columns>;
        barrier_wait(&full[ring.stage], ring.parity);
        if constexpr (a_across && b_across)
          if (left && step + 1 == steps) clear_rows<columns>(stage, left);
        const unsigned char *a_tile = stage + (group - 1) * kHalfBytes, *b_tile = stage + kATileBytes;
        const uint64_t a = a_across ? describe_columns_of_128(a_tile, kHalfBytes) : describe_rows_of_128(a_tile);
        const uint64_t b = b_across ? describe_columns_of_128(b_tile, kHalfBytes) : describe_rows_of_128(b_tile);
        constexpr uint64_t kNextA = a_across ? 128 : 2, kNextB = b_across ? 128 : 2;  // 16 of k further on
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < kDepth / 16; ++k)
          wgmma<columns, a_across, b_across>(sums, a + kNextA * static_cast<uint64_t>(k), b + kNextB * static_cast<uint64_t>(k), step > 0 || k > 0);
        wgmma_commit();
        wgmma_wait<1>();  // the step before is done with its stage
        if (step > 0) release(ring.before());
      }
      wgmma_wait<0>();
      keep(sums);
      if (steps) release(ring.before());
      const int row = tile.row + (group - 1) * 64;
      if (row < tile.row_end) write_results<columns>(problem, &c_map, tile, row, sums, slice_pair, group, slices);
    }
    if (threadIdx.x % 128 == 0) wait_stores<0>();
  }
  if (cluster > 1) cluster_sync();  // the other block may still load for this one, and arrive at its barriers
#endif
}

// The four ways round.
template <int columns>
WgmmaKernel gemm_wgmma_of(bool a_across, bool b_across) {
  if (a_across) return b_across ? gemm_wgmma_kernel<columns, true, true> : gemm_wgmma_kernel<columns, true, false>;
  return b_across ? gemm_wgmma_kernel<columns, false, true> : gemm_wgmma_kernel<columns, false, false>;
}

}  // namespace trefoil::cuda
