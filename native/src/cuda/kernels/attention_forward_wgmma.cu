// out = softmax(scale q kᵀ) v by wgmma, for sm_90a: the design of flash attention 3 (Shah et al. 2024, arXiv 2407.08608). A warp group
// multiplies q with the next keys and its last weights with their values at once, and makes the next weights while the second product is
// under way; the groups take turns, so that one multiplies while others are at their exponentials. Blocks stay, one to a multiprocessor, and
// take one tile of rows after another: the copy engine fetches the next one's q and keys, and writes the last one's results, meanwhile. It is
// right on the emulator and has never run on a GPU, so it is used only where TREFOIL_CUDA_WGMMA=1.
#include <algorithm>

#include "attention_forward_bf16.h"
#include "attention_wgmma.h"

namespace trefoil::cuda {

namespace {

// Warp groups that multiply, 64 rows each, and stages of keys and of values.
template <int dim>
constexpr int kGroups = dim == 128 ? 2 : 3;
template <int dim>
constexpr int kStages = dim == 128 ? 2 : 4;
template <int dim>
constexpr int kThreads = 128 + 128 * kGroups<dim>;
constexpr int kOwnBytes = 64 * 128;  // a group's rows of a half
template <int dim>
constexpr int kQueryBytes = kGroups<dim> * dim / 64 * kOwnBytes;

// The order in which tiles of rows are worked on. Long ones first; but only of as many heads at once as have their keys in the L2 cache.
struct Order {
  int row_tiles, heads, together, tiles;
  int queries;  // of a group
};
constexpr int64_t kCachedBytes = 32 << 20;

Order order_of(const Attention& a, int64_t stride, int groups) {
  const int64_t queries = 64 / a.shared_heads, row_tiles = ceil_divide(a.queries, groups * queries), heads = a.batch * a.groups;
  const int64_t together = kCachedBytes / (a.keys * stride * 2 * static_cast<int64_t>(sizeof(bf16)));
  return {static_cast<int>(row_tiles), static_cast<int>(heads), static_cast<int>(together < 1 ? 1 : together < heads ? together : heads), static_cast<int>(row_tiles * heads),
          static_cast<int>(queries)};
}

#if defined(TREFOIL_HOPPER)

// Where a tile's rows are, and what they see.
struct TilePlace {
  int b, g, query, n, tiles;  // the first query; keys of the batch; tiles of keys that any row sees, -1: there is no more tile of rows
};
template <int dim>
__device__ __forceinline__ TilePlace find_tile(const Attention& a, const Order& order, int tile) {
  TilePlace at;
  const int section = order.together * order.row_tiles, before = tile / section * order.together, place = tile % section;
  const int heads = min(order.together, order.heads - before), rank = place / heads, head = before + place % heads, groups = static_cast<int>(a.groups);
  at.b = head / groups, at.g = head % groups, at.n = static_cast<int>(a.length(at.b));
  at.query = (order.row_tiles - 1 - rank) * kGroups<dim> * order.queries;
  const int last = min(at.query + kGroups<dim> * order.queries, static_cast<int>(a.queries)) - 1;
  at.tiles = (static_cast<int>(a.limit(at.n, last)) + kWgmmaRows - 1) / kWgmmaRows;
  return at;
}

// A warp group's rows of a tile: `count` queries with a row for each head that shares the keys. Of a thread's scores
// [4 j + 2 half + i] is that of its row `half` and key 8 j + pair + i of a tile of keys.
struct OwnRows {
  const Attention& a;
  const TilePlace& at;
  int first, count, pair;
  int query[2], head[2];  // of the thread's rows; the last query where there is no row
  bool there[2];

  __device__ __forceinline__ OwnRows(const Attention& a, const TilePlace& at, const Order& order, int side) : a(a), at(at), first(at.query + side * order.queries), pair(lane_index() % 4 * 2) {
    count = max(0, min(static_cast<int>(a.queries) - first, order.queries));
  }
  // What the following need, but for every() and end().
  __device__ __forceinline__ void find_queries() {
    const int shared = static_cast<int>(a.shared_heads);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_index() % 4 * 16 + lane_index() / 4 + 8 * half, within = row / shared;
      there[half] = within < count;
      query[half] = first + min(within, count - 1), head[half] = row - within * shared;
    }
  }
  // Keys before this one are seen by all rows; by none but them.
  __device__ __forceinline__ int every() const { return count ? static_cast<int>(a.limit(at.n, first)) : 0; }
  __device__ __forceinline__ int end() const { return count ? static_cast<int>(a.limit(at.n, first + count - 1)) : 0; }
  // Scores of keys from..+127 that a row does not see become -inf.
  __device__ __forceinline__ void hide(float (&scores)[kWgmmaRows / 2], int from) const {
    uint32_t hidden[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) hidden[half] = columns_past(static_cast<int>(a.limit(at.n, query[half])) - from - pair);
    if (a.segments) {
      const int32_t* segments = a.segments + at.b * a.keys;
      add_other_segments(hidden, segments, {segments[query[0]], segments[query[1]]}, from + pair, at.n);
    }
    hide_scores(scores, hidden);
  }
  __device__ __forceinline__ int64_t result_at(int half) const {
    return there[half] ? ((at.b * a.queries + query[half]) * a.heads + at.g * a.shared_heads + head[half]) * a.size : -1;
  }
  __device__ __forceinline__ int64_t statistic_at(int half) const { return (at.b * a.heads + at.g * a.shared_heads + head[half]) * a.queries + query[half]; }
};

// The softmax of a warp group's rows.
struct Softmax {
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, correction[2];

  // Scores become weights, not rounded yet; what was summed before is to be multiplied by `correction`.
  __device__ __forceinline__ void soften(float (&scores)[kWgmmaRows / 2], float slope) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = top[half];
#pragma unroll
      for (int j = 0; j < kWgmmaRows / 8; ++j) most = fmaxf(most, fmaxf(scores[4 * j + 2 * half], scores[4 * j + 2 * half + 1]));
      most = quad_reduce(most, Largest{});
      const float shift = most == -INFINITY ? 0.0f : most * slope;
      correction[half] = exp2_fast(top[half] * slope - shift);
      top[half] = most;
      float part = 0;
#pragma unroll
      for (int j = 0; j < kWgmmaRows / 8; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[4 * j + 2 * half + i];
          score = exp2_fast(fmaf(score, slope, -shift));
          part += score;
        }
      total[half] = total[half] * correction[half] + part;  // this lane's keys: the quad adds up at the end
    }
  }
  template <int n>
  __device__ __forceinline__ void correct(float (&sums)[n]) const {
#pragma unroll
    for (int i = 0; i < n; ++i) sums[i] *= correction[i / 2 % 2];
  }
};

// Zeros past `left` keys of a tile of values: what nobody sees has weight 0, and must not be NaN. Each group for itself.
template <int dim>
__device__ __forceinline__ void clear_own_values(unsigned char* tile, int left, int barrier) {
  const int chunks = (kWgmmaRows - left) * 8;
  for (int i = static_cast<int>(threadIdx.x) % 128; i < chunks * (dim / 64); i += 128) store_for_engine(tile + i / chunks * kHalfBytes + left * 128 + i % chunks * 16, uint4{});
  engine_fence();
  named_sync(barrier, 128);
}

#endif

// q and out are [batch, queries, groups, shared heads, size] to the copy engine; `engine_stores`: out is, else threads write it. A block's first
// tile of rows is that of its number, and those after it the next ones that no block has taken: nothing depends on who that is.
template <int dim>
__global__ void __launch_bounds__(kThreads<dim>, 1)
    attention_forward_wgmma_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map, const __grid_constant__ CUtensorMap v_map,
                                   const __grid_constant__ CUtensorMap out_map, Attention a, Order order, int* taken, bool engine_stores, Floats out, float* lse) {
#if defined(TREFOIL_HOPPER)
  constexpr int kTileBytes = kWgmmaTileBytes<dim>, kSides = kGroups<dim>, kHalves = dim / 64, kOwn = 1, kTurn = kOwn + kSides;
  TREFOIL_SHARED(barriers, uint64_t[4 * kStages<dim>]);
  TREFOIL_SHARED(q_barriers, uint64_t[4]);             // full, empty
  TREFOIL_SHARED(out_barriers, uint64_t[2 * kSides]);  // a group's results are there
  TREFOIL_SHARED(places, TilePlace[2]);
  unsigned char* q_tiles = aligned_tiles();  // two, [half][group][64 rows]: results take the place of q
  const Ring<kStages<dim>, kTileBytes, kTileBytes, 4 * kSides> keys{q_tiles + 2 * kQueryBytes<dim>, barriers};
  const Ring<kStages<dim>, kTileBytes, kTileBytes, 4 * kSides> values{keys.tiles + kStages<dim> * kTileBytes, barriers + 2 * kStages<dim>};
  if (threadIdx.x == 0) {
    keys.init();
    values.init();
    for (int i = 0; i < 4; ++i) barrier_init(&q_barriers[i], 1);
    for (int i = 0; i < 2 * kSides; ++i) barrier_init(&out_barriers[i], 128);
    barrier_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    give_registers<kSides == 2 ? 24 : 32>();
    if (threadIdx.x == 0) {
      const int shared = static_cast<int>(a.shared_heads);
      for (int t = 0, done = 0, tile = static_cast<int>(blockIdx.x);; ++t) {
        TilePlace at{0, 0, 0, 0, -1};
        if (tile < order.tiles) at = find_tile<dim>(a, order, tile);
        if (t >= 2) barrier_wait(&q_barriers[2 + t % 2], static_cast<uint32_t>(t / 2 - 1) & 1u);
        places[t % 2] = at;
        uint64_t* full = &q_barriers[t % 2];
        if (at.tiles < 0) {
          barrier_arrive(full);
          break;
        }
        tile = static_cast<int>(gridDim.x) + atomicAdd(taken, 1);
        barrier_expect(full, static_cast<uint32_t>(kSides * kHalves * shared * order.queries) * 128);
        for (int half = 0; half < kHalves; ++half)
          for (int side = 0; side < kSides; ++side)
            copy_box(q_tiles + t % 2 * kQueryBytes<dim> + (half * kSides + side) * kOwnBytes, &q_map, {64 * half, 0, at.g, at.query + side * order.queries, at.b}, full);
        // Keys one ahead of values, as they are needed. 24 registers are enough for no more than one at a time.
#pragma unroll 1
        for (int j = 0; j <= at.tiles; ++j) {
          if (j < at.tiles) copy_keys<dim>(keys.tile(done + j), &k_map, at.b, at.g, j * kWgmmaRows, keys.claim(done + j));
          if (j > 0) copy_keys<dim>(values.tile(done + j - 1), &v_map, at.b, at.g, (j - 1) * kWgmmaRows, values.claim(done + j - 1));
        }
        done += at.tiles;
      }
    } else if (threadIdx.x == 32) {
      for (int t = 0;; ++t) {
        barrier_wait(&q_barriers[t % 2], static_cast<uint32_t>(t / 2) & 1u);
        const TilePlace at = places[t % 2];
        if (at.tiles < 0) break;
        for (int side = 0; side < kSides; ++side) {
          barrier_wait(&out_barriers[t % 2 * kSides + side], static_cast<uint32_t>(t / 2) & 1u);
          if (!engine_stores) continue;
          for (int half = 0; half < kHalves; ++half)
            store_box(&out_map, {64 * half, 0, at.g, at.query + side * order.queries, at.b}, q_tiles + t % 2 * kQueryBytes<dim> + (half * kSides + side) * kOwnBytes);
          commit_stores();
        }
        wait_stores_read<0>();
        barrier_arrive(&q_barriers[2 + t % 2]);
      }
    }
  } else {
    take_registers<kSides == 2 ? 240 : 160>();
    const int side = __shfl_sync(kFullWarp, static_cast<int>(threadIdx.x) / 128 - 1, 0), next = (side + 1) % kSides;
    const float slope = a.scale * kLog2E;
    if (side == kSides - 1) named_arrive(kTurn, 256);  // the first turn is that of side 0
    float scores[kWgmmaRows / 2], sums[dim / 2];
    uint32_t weights[kWgmmaRows / 16][4];
    for (int t = 0, done = 0;; ++t) {
      unsigned char* own = q_tiles + t % 2 * kQueryBytes<dim> + side * kOwnBytes;
      barrier_wait(&q_barriers[t % 2], static_cast<uint32_t>(t / 2) & 1u);
      const TilePlace& at = places[t % 2];
      if (at.tiles < 0) break;
      OwnRows rows(a, at, order, side);
      const int tiles = (rows.end() + kWgmmaRows - 1) / kWgmmaRows;              // of keys, that a row of the group sees
      const int open = a.segments ? 0 : min(rows.every() / kWgmmaRows, tiles);  // of them those that all rows see
      Softmax softmax;
      set_zero(scores);
      set_zero(sums);
      const auto multiply_keys = [&](int j) {
        wgmma_fence();
        multiply_along<dim, kWgmmaRows, false>(scores, own, kSides * kOwnBytes, keys.tile(done + j), kHalfBytes);
        wgmma_commit();
      };
      const auto add_values = [&](int j) {
        wgmma_fence();
        add_across<dim>(sums, weights, values.tile(done + j), kHalfBytes);
        wgmma_commit();
      };
      // The last product with values ends, and the weights since are ready for the next one.
      const auto finish_values = [&](int j) {
        wgmma_wait<0>();
        keep(sums);
        if (j >= 0) values.release(done + j);
        softmax.correct(sums);
        round_weights(weights, scores);
      };
      // The wait for the product with values is in the next step: here the compiler would have the exponentials wait for it too.
      const auto step = [&](int j, auto some_hidden) {
        finish_values(j - 2);
        keys.wait(done + j);
        named_sync(kTurn + side, 256);
        multiply_keys(j);
        values.wait(done + j - 1);
        add_values(j - 1);
        named_arrive(kTurn + next, 256);
        wgmma_wait<1>();
        keep(scores);
        keys.release(done + j);
        if constexpr (some_hidden()) rows.hide(scores, j * kWgmmaRows);
        softmax.soften(scores, slope);
      };
      if (tiles > 0) {
        keys.wait(done);
        multiply_keys(0);
        rows.find_queries();
        wgmma_wait<0>();
        keep(scores);
        keys.release(done);
        if (open == 0) rows.hide(scores, 0);
        softmax.soften(scores, slope);
        int j = 1;
        for (; j < open; ++j) step(j, std::false_type{});
        for (; j < tiles; ++j) step(j, std::true_type{});
        finish_values(tiles - 2);
        const int last = tiles - 1, left = at.n - last * kWgmmaRows;
        values.wait(done + last);
        if (left < kWgmmaRows && at.n < a.keys) clear_own_values<dim>(values.tile(done + last), left, kOwn + side);
        add_values(last);
      } else {
        rows.find_queries();
      }
      // What groups with later rows see. Rows of a tile end at most one tile of keys apart, so that no stage waits for the product under way.
      for (int j = tiles; j < at.tiles; ++j) {
        if (j > 0) named_sync(kTurn + side, 256);
        if (j > 0) named_arrive(kTurn + next, 256);
        keys.wait(done + j);
        keys.release(done + j);
        values.wait(done + j);
        values.release(done + j);
      }
      wgmma_wait<0>();
      keep(sums);
      if (tiles > 0) values.release(done + tiles - 1);
      done += at.tiles;
      float factor[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float all = quad_reduce(softmax.total[half], Add{});
        factor[half] = all == 0 ? 0.0f : 1.0f / all;
        if (lse && rows.pair == 0 && rows.there[half]) lse[rows.statistic_at(half)] = all == 0 ? -INFINITY : fmaf(softmax.top[half], a.scale, logf(all));
      }
      if (engine_stores) {
        named_sync(kOwn + side, 128);  // the group's products have read q
        const int row = warp_index() % 4 * 16 + lane_index() / 4;
#pragma unroll
        for (int j = 0; j < dim / 8; ++j)
#pragma unroll
          for (int half = 0; half < 2; ++half)
            store_for_engine(own + j / 8 * kSides * kOwnBytes + chunk_of_128(row + 8 * half, j % 8) + rows.pair * 2,
                             pack_bf16(sums[4 * j + 2 * half] * factor[half], sums[4 * j + 2 * half + 1] * factor[half]));
        engine_fence();
      } else {
        store_pairs<dim>(a.size, out, [&](int half) { return rows.result_at(half); },
                         [&](int half, int j) { return make_float2(sums[4 * j + 2 * half] * factor[half], sums[4 * j + 2 * half + 1] * factor[half]); });
      }
      barrier_arrive(&out_barriers[t % 2 * kSides + side]);
    }
    if (side == 0) named_sync(kTurn, 256);  // the turn that is left
  }
#endif
}

template <int dim>
void launch_attention(const Context& context, const Attention& a, int* taken, const Rows<bf16>& q, const Rows<bf16>& k, const Rows<bf16>& v, const Floats& out, float* lse) {
  const Order order = order_of(a, k.stride, kGroups<dim>);
  const bool engine_stores = out.half && a.size % 8 == 0;
  const CUtensorMap q_map = encode_queries(a, q.data, q.stride), out_map = engine_stores ? encode_queries(a, static_cast<const bf16*>(out.data), a.size) : q_map;
  const auto blocks = static_cast<unsigned>(std::min(context.multiprocessors, order.tiles));
  launch(context, {blocks, kThreads<dim>, size_t{2 * kQueryBytes<dim> + 2 * kStages<dim> * kWgmmaTileBytes<dim>} + 1024}, attention_forward_wgmma_kernel<dim>, q_map, encode_keys(a, k),
         encode_keys(a, v), out_map, a, order, taken, engine_stores, out, lse);
}

}  // namespace

bool suits_forward_wgmma(const Context& context, const Attention& a) {
  return suits_wgmma(context, a) && a.batch * a.heads * a.queries < INT32_MAX;
}

void attention_forward_wgmma(const Context& context, Workspace& workspace, const Attention& a, const TrefoilView& q, const Rows<bf16>& k, const Rows<bf16>& v, const Floats& out, float* lse) {
  const Rows<bf16> rows = as_rows<bf16>(context, workspace, {q.data, q.dtype, a.batch * a.queries * a.heads, a.size}, false);
  int* taken = workspace.take<int>(1);
  if (!workspace.running()) return;
  zero_memory(context, taken, sizeof(int));
  if (a.size <= 64) launch_attention<64>(context, a, taken, rows, k, v, out, lse);
  else launch_attention<128>(context, a, taken, rows, k, v, out, lse);
}

}  // namespace trefoil::cuda
