// out = softmax(scale q kᵀ) v by wgmma, for sm_90a: the design of flash attention 3 (Shah et al. 2024, arXiv 2407.08608). A producer thread
// has the copy engine (TMA) fill stages of keys and values; two warp groups have 64 rows each. A group multiplies q with the next keys and
// its last weights with their values at once, and makes the next weights while the second product is under way; the two groups take turns,
// so that one multiplies while the other is at its exponentials. It is right on the emulator and has never run on a GPU, so it is used only
// where TREFOIL_CUDA_WGMMA=1.
#include "attention_forward_wgmma.h"

#include "attention_forward_bf16.h"
#include "tensor_boxes.h"
#include "wgmma.h"

namespace trefoil::cuda {

namespace {

constexpr int kRows = 128, kKeys = 128, kThreads = 384;  // warp group 0 produces, 1 and 2 multiply
constexpr int kHalfBytes = kKeys * 128;  // tiles are halves of 64 elements of the head: rows of 128 bytes

template <int dim>
constexpr int kTileBytes = dim / 64 * kHalfBytes;
template <int dim>
constexpr int kStages = dim == 128 ? 2 : 4;

#if defined(TREFOIL_HOPPER)

constexpr int kOwnBarrier = 1, kTurnBarrier = 3, kBothBarrier = 5;  // named barriers; of the first two one for each group

// Where a block's rows are, and what they see. In shared memory, so that it takes no registers.
struct Place {
  int64_t b, g, n, first;
  int valid, end, tiles;  // rows; keys before `end` are seen by any of them
};
__device__ __forceinline__ Place find_place(const Attention& a) {
  Place at;
  // Late tiles first: under a causal mask they are the long ones.
  const int64_t row_tiles = (a.rows + kRows - 1) / kRows, head = blockIdx.x / row_tiles;
  at.first = (row_tiles - 1 - (blockIdx.x - head * row_tiles)) * kRows;
  at.b = head / a.groups, at.g = head - at.b * a.groups, at.n = a.length(at.b);
  at.valid = static_cast<int>(a.rows - at.first < kRows ? a.rows - at.first : kRows);
  at.end = static_cast<int>(a.limit(at.n, (at.first + at.valid - 1) / a.shared_heads));
  at.tiles = (at.end + kKeys - 1) / kKeys;
  return at;
}

// A ring of tiles of keys, or of values.
template <int dim>
struct Ring {
  unsigned char* tiles;
  uint64_t *full, *empty;

  __device__ __forceinline__ unsigned char* tile(int j) const { return tiles + j % kStages<dim> * kTileBytes<dim>; }
  __device__ __forceinline__ void load(const CUtensorMap* map, const Place& at, int j) const {
    const int stage = j % kStages<dim>;
    if (j >= kStages<dim>) barrier_wait(&empty[stage], static_cast<uint32_t>(j / kStages<dim> - 1) & 1u);
    barrier_expect(&full[stage], kTileBytes<dim>);  // what lies outside of the tensor counts too: it arrives as zeros
#pragma unroll
    for (int half = 0; half < dim / 64; ++half)
      copy_box(tile(j) + half * kHalfBytes, map, {64 * half, static_cast<int>(at.g), j * kKeys, static_cast<int>(at.b)}, &full[stage]);
  }
  __device__ __forceinline__ void wait(int j) const { barrier_wait(&full[j % kStages<dim>], static_cast<uint32_t>(j / kStages<dim>) & 1u); }
  // By every warp.
  __device__ __forceinline__ void release(int j) const {
    if (lane_index() == 0) barrier_arrive(&empty[j % kStages<dim>]);
  }
};

// The compiler moves no access to memory past this point.
__device__ __forceinline__ void in_order() { asm volatile("" ::: "memory"); }

using Scores = float[kKeys / 2];
using Weights = uint32_t[kKeys / 16][4];

// A warp group's 64 rows. Of a thread's scores and sums, [4 j + 2 half + i] is of row `row(half)`, key or element 8 j + pair + i. They are
// arrays of the kernel, as those of a struct would not stay in registers.
template <int dim>
struct RowsOfGroup {
  using Sums = float[dim / 2];

  const Attention& a;
  const Place& at;
  int side, pair, every;  // all rows see the keys before `every`
  int row_end[2];
  int32_t segment[2];
  float top[2], total[2], correction[2];

  __device__ __forceinline__ RowsOfGroup(const Attention& a, const Place& at, int side) : a(a), at(at), side(side), pair(lane_index() % 4 * 2) {
    const int64_t own = at.first + (side * 64 < at.valid ? side * 64 : at.valid - 1);
    every = static_cast<int>(a.limit(at.n, own / a.shared_heads));
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t query = (at.first + (row(half) < at.valid ? row(half) : at.valid - 1)) / a.shared_heads;
      row_end[half] = static_cast<int>(a.limit(at.n, query));
      segment[half] = a.segments ? a.segments[at.b * a.keys + query] : 0;
      top[half] = -INFINITY;
      total[half] = 0;
    }
  }
  __device__ __forceinline__ int row(int half) const { return side * 64 + warp_index() % 4 * 16 + lane_index() / 4 + 8 * half; }

  // q as rows of bf16 in shared memory; zeros past the last row and the head's elements.
  __device__ __forceinline__ void load_queries(const Floats& q, unsigned char* tile) const {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x) % 128; i < 64 * dim / 8; i += 128) {
      const int row = side * 64 + i / (dim / 8), chunk = i % (dim / 8);
      store_for_engine(tile + chunk / 8 * kHalfBytes + chunk_of_128(row, chunk % 8), row < at.valid ? query_chunk(a, q, at.b, at.g, at.first + row, chunk * 8) : uint4{});
    }
    engine_fence();
    named_sync(kOwnBarrier + side, 128);
  }

  __device__ __forceinline__ void multiply_keys(Scores& scores, const unsigned char* q_tile, const unsigned char* k_tile) const {
    const uint64_t q = describe_rows_of_128(q_tile + side * 64 * 128), k = describe_rows_of_128(k_tile);
    wgmma_fence();
#pragma unroll
    for (int d = 0; d < dim / 16; ++d) {
      const uint64_t further = static_cast<uint64_t>(d / 4 * (kHalfBytes >> 4) + d % 4 * 2);
      wgmma<kKeys, false, false>(scores, q + further, k + further, d > 0);
    }
    wgmma_commit();
  }
  __device__ __forceinline__ void add_values(Sums& sums, const Weights& weights, const unsigned char* v_tile) const {
    const uint64_t v = describe_columns_of_128(v_tile, kHalfBytes);
    wgmma_fence();
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j) wgmma<dim, true>(sums, weights[j], v + 128 * static_cast<uint64_t>(j), true);
    wgmma_commit();
  }

  // Scores of keys from..+kKeys become weights, not rounded yet; what was summed before is to be multiplied by `correction`.
  __device__ __forceinline__ void soften(Scores& scores, int from) {
    if (from + kKeys > every) {
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (from + 8 * j + pair + i % 2 >= row_end[i / 2]) scores[4 * j + i] = -INFINITY;
    }
    if (a.segments) {
      const int32_t* segments = a.segments + at.b * a.keys;
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int key = from + 8 * j + pair + i;
          const int32_t found = segments[key < at.end ? key : 0];
#pragma unroll
          for (int half = 0; half < 2; ++half)
            if (found != segment[half]) scores[4 * j + 2 * half + i] = -INFINITY;
        }
        in_order();  // not all loads at once: their registers would be missing
      }
    }
    const float slope = a.scale * kLog2E;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = top[half];
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) most = fmaxf(most, fmaxf(scores[4 * j + 2 * half], scores[4 * j + 2 * half + 1]));
      most = quad_reduce(most, Largest{});
      const float shift = most == -INFINITY ? 0.0f : most * slope;
      correction[half] = exp2_fast(top[half] * slope - shift);
      top[half] = most;
      float part = 0;
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[4 * j + 2 * half + i];
          score = exp2_fast(fmaf(score, slope, -shift));
          part += score;
        }
      total[half] = total[half] * correction[half] + part;  // this lane's keys: the quad adds up at the end
    }
  }
  // Once no product reads the last weights any more.
  __device__ __forceinline__ void round_weights(Weights& weights, const Scores& scores) const {
#pragma unroll
    for (int j = 0; j < kKeys / 16; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) weights[j][i] = pack_bf16(scores[8 * j + 2 * i], scores[8 * j + 2 * i + 1]);
  }
  __device__ __forceinline__ void correct_sums(Sums& sums) const {
#pragma unroll
    for (int i = 0; i < dim / 2; ++i) sums[i] *= correction[i / 2 % 2];
  }

  __device__ __forceinline__ void store(const Sums& sums, const Floats& out, float* lse) const {
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float all = quad_reduce(total[half], Add{});
      factor[half] = all == 0 ? 0.0f : 1.0f / all;
      if (lse && pair == 0 && row(half) < at.valid)
        lse[a.statistic_at(at.b, at.g, at.first + row(half))] = all == 0 ? -INFINITY : fmaf(top[half], a.scale, logf(all));
    }
    store_pairs<dim>(a.size, out, [&](int half) { return row(half) < at.valid ? a.row_at(at.b, at.g, at.first + row(half)) : -1; },
                     [&](int half, int j) { return make_float2(sums[4 * j + 2 * half] * factor[half], sums[4 * j + 2 * half + 1] * factor[half]); });
  }
};

// Values of keys that nobody sees have weight 0, and must not be NaN: zeros past `left` rows of the tile, by both groups.
template <int dim>
__device__ __forceinline__ void clear_values(unsigned char* tile, int left) {
  const int chunks = (kKeys - left) * 8;
  for (int i = static_cast<int>(threadIdx.x) - 128; i < chunks * (dim / 64); i += 256)
    store_for_engine(tile + i / chunks * kHalfBytes + left * 128 + i % chunks * 16, uint4{});
  engine_fence();
  named_sync(kBothBarrier, 256);
}

#endif

template <int dim>
__global__ void __launch_bounds__(kThreads, 1)
    attention_forward_wgmma_kernel(const __grid_constant__ CUtensorMap k_map, const __grid_constant__ CUtensorMap v_map, Attention a, Floats q, Floats out, float* lse) {
#if defined(TREFOIL_HOPPER)
  TREFOIL_SHARED(barriers, uint64_t[4 * kStages<dim>]);
  unsigned char* q_tile = dynamic_shared<unsigned char>();
  q_tile += (1024 - shared_address(q_tile) % 1024) % 1024;  // the swizzle goes by address
  const Ring<dim> keys{q_tile + kTileBytes<dim>, barriers, barriers + kStages<dim>};
  const Ring<dim> values{keys.tiles + kStages<dim> * kTileBytes<dim>, barriers + 2 * kStages<dim>, barriers + 3 * kStages<dim>};
  TREFOIL_SHARED(at, Place);
  if (threadIdx.x == 0) {
    at = find_place(a);
    for (int stage = 0; stage < kStages<dim>; ++stage) {
      barrier_init(&keys.full[stage], 1);
      barrier_init(&keys.empty[stage], 8);  // every warp that reads
      barrier_init(&values.full[stage], 1);
      barrier_init(&values.empty[stage], 8);
    }
    barrier_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    give_registers<24>();
    if (threadIdx.x == 0 && at.tiles > 0) {
      keys.load(&k_map, at, 0);
      for (int j = 0; j < at.tiles; ++j) {
        if (j + 1 < at.tiles) keys.load(&k_map, at, j + 1);
        values.load(&v_map, at, j);
      }
    }
  } else {
    take_registers<240>();
    const int side = static_cast<int>(threadIdx.x) / 128 - 1;
    RowsOfGroup<dim> rows(a, at, side);
    Scores scores;
    Weights weights;
    float sums[dim / 2];
#pragma unroll
    for (float& x : scores) x = 0;
#pragma unroll
    for (float& x : sums) x = 0;
    keep(scores);  // ptxas would run products one by one if it found these zeros among them
    keep(sums);
    if (at.tiles > 0) {
      rows.load_queries(q, q_tile);
      keys.wait(0);
      rows.multiply_keys(scores, q_tile, keys.tile(0));
      wgmma_wait<0>();
      keep(scores);
      keys.release(0);
      rows.soften(scores, 0);
      rows.round_weights(weights, scores);
      if (side == 1 && at.tiles > 1) named_arrive(kTurnBarrier, 256);  // the first turn is that of side 0
      for (int j = 1; j < at.tiles; ++j) {
        keys.wait(j);
        named_sync(kTurnBarrier + side, 256);
        rows.multiply_keys(scores, q_tile, keys.tile(j));
        values.wait(j - 1);
        rows.add_values(sums, weights, values.tile(j - 1));
        if (side == 0 || j + 1 < at.tiles) named_arrive(kTurnBarrier + 1 - side, 256);
        wgmma_wait<1>();
        keep(scores);
        keys.release(j);
        rows.soften(scores, j * kKeys);
        wgmma_wait<0>();
        keep(sums);
        values.release(j - 1);
        rows.correct_sums(sums);
        rows.round_weights(weights, scores);
      }
      const int last = at.tiles - 1, left = at.end - last * kKeys;
      values.wait(last);
      if (left < kKeys && at.end < a.keys) clear_values<dim>(values.tile(last), left);
      rows.add_values(sums, weights, values.tile(last));
      wgmma_wait<0>();
      keep(sums);
    }
    rows.store(sums, out, lse);
  }
#endif
}

// Rows of one head, [batch, keys, groups, size]; boxes of kKeys of them by 64 elements.
bool encode(CUtensorMap& map, const Attention& a, const Rows<bf16>& rows) {
  return encode_boxes<4>(map, rows.data, {a.size, a.groups, a.keys, a.batch}, {rows.stride, rows.stride * a.groups, rows.stride * a.groups * a.keys}, {64, 1, kKeys, 1});
}

template <int dim>
void launch_attention(const Context& context, const CUtensorMap& k_map, const CUtensorMap& v_map, const Attention& a, const Floats& q, const Floats& out, float* lse) {
  const auto blocks = static_cast<unsigned>(a.batch * a.groups * ceil_divide(a.rows, kRows));
  launch(context, {blocks, kThreads, size_t{(1 + 2 * kStages<dim>) * kTileBytes<dim>} + 1024}, attention_forward_wgmma_kernel<dim>, k_map, v_map, a, q, out, lse);
}

}  // namespace

bool attention_forward_wgmma(const Context& context, const Attention& a, const Floats& q, const Rows<bf16>& k, const Rows<bf16>& v, const Floats& out, float* lse) {
  CUtensorMap k_map, v_map;
  if (!context.wgmma || a.size <= 32 || a.keys == 0 || !encode(k_map, a, k) || !encode(v_map, a, v)) return false;
  if (a.size <= 64) launch_attention<64>(context, k_map, v_map, a, q, out, lse);
  else launch_attention<128>(context, k_map, v_map, a, q, out, lse);
  return true;
}

}  // namespace trefoil::cuda
