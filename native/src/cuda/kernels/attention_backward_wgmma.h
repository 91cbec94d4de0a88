// What the gradients of attention by wgmma share: the places of rows (BackwardRows), and what the copy engine (TMA) brings of them; blocks of 128
// keys, by which tiles of places pass.
#pragma once
#include "attention_backward_bf16.h"
#include "attention_wgmma.h"

namespace trefoil::cuda {

// The copy engine writes results of bf16 in rows of whole 16 bytes, threads all others.
inline bool by_engine(const Attention& a, const Floats& to) { return to.half && a.size % 8 == 0; }
struct KeyResults {
  Floats dk, dv;  // one of them may be null
  bool by_engine;

  KeyResults(const Attention& a, const Floats& dk, const Floats& dv)
      : dk(dk), dv(dv), by_engine((!dk || cuda::by_engine(a, dk)) && (!dv || cuda::by_engine(a, dv))) {}
};
// dk or dv, by the copy engine: 64 keys of one head. What stands in for a map that nobody reads is that of the keys.
inline CUtensorMap encode_key_results(const Attention& a, const KeyResults& to, const Floats& result, const CUtensorMap& otherwise) {
  return to.by_engine && result ? encode_keys(a, static_cast<const bf16*>(result.data), a.size, 64) : otherwise;
}

#if defined(TREFOIL_HOPPER)

constexpr int kUnitBytes = 64 * 128;

// What copy_rows brings.
template <int dim, int count>
__device__ __forceinline__ uint32_t row_bytes(const RowUnits& units) { return static_cast<uint32_t>(dim / 64 * (count / 64) * units.queries * units.shared) * 128; }
// Rows of q or dout at `count` places from `first` on: units of a half each, as encode_queries has them. Zeros past the last query, and nothing where a
// unit is empty.
template <int dim, int count>
__device__ __forceinline__ void copy_rows(unsigned char* tile, const CUtensorMap* map, const RowUnits& units, int64_t b, int64_t g, int first, uint64_t* full) {
#pragma unroll
  for (int half = 0; half < dim / 64; ++half)
#pragma unroll
    for (int unit = 0; unit < count / 64; ++unit)
      copy_box(tile + (half * (count / 64) + unit) * kUnitBytes, map, {64 * half, 0, static_cast<int>(g), (first / 64 + unit) * units.queries, static_cast<int>(b)}, full);
}
// Zeros where units are empty, by both groups: what a product sums over must not be NaN. Nothing else is ever written there.
__device__ __forceinline__ void clear_empty(unsigned char* tiles, int bytes, const RowUnits& units) {
  const int from = units.queries * units.shared, chunks = (64 - from) * 8;
  if (chunks == 0) return;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) - 128; i < bytes / kUnitBytes * chunks; i += 256) store_for_engine(tiles + i / chunks * kUnitBytes + from * 128 + i % chunks * 16, uint4{});
  end_clearing();
}

// What a warp group's threads have written for the copy engine goes to global memory, by one of them: store(half) for each half.
template <class Store>
__device__ __forceinline__ void store_own(int side, int halves, const Store& store) {
  engine_fence();
  named_sync(kOwnBarrier + side, 128);
  if (threadIdx.x % 128 != 0) return;
  for (int half = 0; half < halves; ++half) store(half);
  commit_stores();
  wait_stores_read<0>();
}

// How a block starts: thread 0 finds where it is, and makes the barriers of its ring and of the tiles that stay.
template <class Place, class Stages, class Find, class... Maps>
__device__ __forceinline__ void start_block(Place& at, const Stages& ring, uint64_t* ready, const Find& find, const Maps&... maps) {
  if (threadIdx.x == kWarp) (prefetch_map(&maps), ...);
  if (threadIdx.x == 0) {
    at = find();
    ring.init();
    barrier_init(ready, 1);
    barrier_fence();
  }
  __syncthreads();
}

// Where a block's keys are, and the places of rows that see them.
struct KeyPlace {
  int64_t b, g, n, first;
  int stored, valid;        // keys of the tile that there are, and that are within the length
  int begin, whole, tiles;  // of places: rows from `whole` on see all 128 keys
  int seen_from;            // the first query that sees key i of the tile is that much after i, or 0
  const int32_t* segments;  // of the batch, or null
};
// Of tile `tile` of a head's keys; places in tiles of `rows`.
template <int rows>
__device__ __forceinline__ KeyPlace find_keys(const Attention& a, const RowUnits& units, unsigned head, unsigned tile) {
  KeyPlace at;
  const auto groups = static_cast<unsigned>(a.groups);
  at.first = int64_t{tile} * kWgmmaRows;
  at.b = head / groups, at.g = head % groups, at.n = a.length(at.b);
  at.stored = static_cast<int>(a.keys - at.first < kWgmmaRows ? a.keys - at.first : kWgmmaRows);
  at.valid = static_cast<int>(at.n > at.first ? (at.n - at.first < at.stored ? at.n - at.first : at.stored) : 0);
  const int end = (static_cast<int>(a.queries) + units.queries - 1) / units.queries * 64;
  at.seen_from = a.causal ? static_cast<int>(at.first - (at.n - a.queries)) : -kWgmmaRows;
  at.begin = units.place_of(max(at.seen_from, 0)) / rows * rows;
  at.segments = a.segments ? a.segments + at.b * a.keys : nullptr;
  at.whole = at.segments || at.valid < kWgmmaRows ? INT32_MAX : units.place_of(max(kWgmmaRows - 1 + at.seen_from, 0));
  at.tiles = at.valid > 0 && at.begin < end ? (end - at.begin + rows - 1) / rows : 0;
  return at;
}

// A warp group's 64 keys, and tiles of `rows` places. Of a thread's scores [4 j + 2 half + i] is that of key `key(half)` of the tile and the row at place 8 j + pair + i.
template <int rows>
struct GroupKeys {
  const Attention& a;
  const KeyPlace& at;
  const RowUnits& units;
  int side, pair;

  __device__ __forceinline__ GroupKeys(const Attention& a, const KeyPlace& at, const RowUnits& units) : a(a), at(at), units(units), side(own_group()), pair(lane_index() % 4 * 2) {}
  __device__ __forceinline__ int key(int half) const { return side * 64 + warp_index() % 4 * 16 + lane_index() / 4 + 8 * half; }

  // Scores of rows at from..from + rows - 1 that do not see a key become -inf.
  __device__ __forceinline__ void hide(float (&scores)[rows / 2], int from) const {
    if (from >= at.whole) return;
    uint32_t hidden[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int begin = units.place_of(max(key(half) + at.seen_from, 0));
      hidden[half] = key(half) < at.valid ? ~columns_past(begin - from - pair) : ~0u;
    }
    if (at.segments) add_other_segments(hidden, from);
    hide_scores(scores, hidden);
  }
  // And those of other segments than the keys'. One after another: registers for all loads at once would be missing.
  __device__ __forceinline__ void add_other_segments(uint32_t (&hidden)[2], int from) const {
    const int32_t* segments = at.segments;
    int32_t own[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) own[half] = segments[at.first + min(key(half), at.valid - 1)];
#pragma unroll 1
    for (int j = 0; j < rows / 4; ++j) {
      const int place = from + j / 2 * 8 + pair + j % 2, query = place / 64 * units.queries + place % 64 / units.shared;
      const int32_t found = segments[min(query, static_cast<int>(a.queries) - 1)];
#pragma unroll
      for (int half = 0; half < 2; ++half) hidden[half] |= static_cast<uint32_t>(found != own[half]) << j;
    }
  }

  // Scores become weights, by what the statistics of the tile's rows say of their sum.
  __device__ __forceinline__ void weigh(float (&scores)[rows / 2], const float* lse, float slope) const {
#pragma unroll
    for (int column = 0; column < rows / 8; ++column) {
      const float2 shift = load2(lse + 8 * column + pair);
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[4 * column + i] = exp2_fast(fmaf(scores[4 * column + i], slope, -(i % 2 ? shift.y : shift.x)));
    }
  }
  // Slopes by weights become slopes by scores.
  __device__ __forceinline__ void pass_softmax(float (&slopes)[rows / 2], const float (&weights)[rows / 2], const float* delta) const {
#pragma unroll
    for (int column = 0; column < rows / 8; ++column) {
      const float2 mean = load2(delta + 8 * column + pair);
#pragma unroll
      for (int i = 0; i < 4; ++i) slopes[4 * column + i] = weights[4 * column + i] * (slopes[4 * column + i] - (i % 2 ? mean.y : mean.x));
    }
  }
  // By the copy engine the results take the place of tiles of which no product reads the group's rows any more.
  template <int dim>
  __device__ __forceinline__ void store(const KeyResults& to, const CUtensorMap* dk_map, const CUtensorMap* dv_map, unsigned char* dk_tile, unsigned char* dv_tile, float (&dk_sums)[dim / 2],
                                        const float (&dv_sums)[dim / 2]) const {
#pragma unroll
    for (int i = 0; i < dim / 2; ++i) dk_sums[i] *= a.scale;
    if (to.by_engine) {
      unsigned char *dk_own = dk_tile + side * kUnitBytes, *dv_own = dv_tile + side * kUnitBytes;
      uint32_t rows_of_dk[dim / 16][4], rows_of_dv[dim / 16][4];
      round_weights(rows_of_dk, dk_sums);
      round_weights(rows_of_dv, dv_sums);
      named_sync(kOwnBarrier + side, 128);  // the group's products have read what was there
      store_rows_for_engine(dk_own, kHalfBytes, rows_of_dk);
      store_rows_for_engine(dv_own, kHalfBytes, rows_of_dv);
      const int first = static_cast<int>(at.first) + side * 64, g = static_cast<int>(at.g), b = static_cast<int>(at.b);
      store_own(side, dim / 64, [&](int half) {
        if (to.dk) store_box(dk_map, {64 * half, g, first, b}, dk_own + half * kHalfBytes);
        if (to.dv) store_box(dv_map, {64 * half, g, first, b}, dv_own + half * kHalfBytes);
      });
      return;
    }
    const auto result_at = [&](int half) { return key(half) < at.stored ? a.key_at(at.b, at.g, at.first + key(half)) : -1; };
    if (to.dk) store_pairs<dim>(a.size, to.dk, result_at, [&](int half, int j) { return make_float2(dk_sums[4 * j + 2 * half], dk_sums[4 * j + 2 * half + 1]); });
    if (to.dv) store_pairs<dim>(a.size, to.dv, result_at, [&](int half, int j) { return make_float2(dv_sums[4 * j + 2 * half], dv_sums[4 * j + 2 * half + 1]); });
  }
};

#endif

}  // namespace trefoil::cuda
