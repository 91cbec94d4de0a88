// What the gradients of attention by wgmma share: q and dout as BackwardRows lays them out, as the copy engine (TMA) is told of them; and blocks
// of 128 keys, by which tiles of rows pass.
#pragma once
#include "attention_backward_bf16.h"
#include "attention_wgmma.h"

namespace trefoil::cuda {

// Boxes of `count` rows of one key-value head.
inline CUtensorMap encode_rows(const Attention& a, const BackwardRows& rows, const bf16* data, int64_t stride, int count) {
  return encode_boxes<3>(data, {stride, rows.padded, a.batch * a.groups}, {stride, stride * rows.padded}, {64, count, 1});
}

#if defined(TREFOIL_HOPPER)

template <int dim, int count>
__device__ __forceinline__ void copy_rows(unsigned char* tile, const CUtensorMap* map, int head, int first, uint64_t* full) {
#pragma unroll
  for (int half = 0; half < dim / 64; ++half) copy_box(tile + half * count * 128, map, {64 * half, first, head}, full);
}

// How a block starts: thread 0 finds where it is, and makes the barriers of its ring and of the tiles that stay.
template <class Place, class Stages, class Find>
__device__ __forceinline__ void start_block(Place& at, const Stages& ring, uint64_t* ready, const Find& find) {
  if (threadIdx.x == 0) {
    at = find();
    ring.init();
    barrier_init(ready, 1);
    barrier_fence();
  }
  __syncthreads();
}

// Where a block's keys are, and the rows that see them.
struct KeyPlace {
  int64_t b, g, n, first;
  int stored, valid;        // keys of the tile that there are, and that are within the length
  int begin, whole, tiles;  // of rows: from `whole` on they see every key within the length
};
// Of tile `tile` of a head's keys; rows in tiles of `rows`.
template <int rows>
__device__ __forceinline__ KeyPlace find_keys(const Attention& a, int64_t head, int64_t tile) {
  KeyPlace at;
  at.first = tile * kWgmmaRows;
  at.b = head / a.groups, at.g = head - at.b * a.groups, at.n = a.length(at.b);
  at.stored = static_cast<int>(a.keys - at.first < kWgmmaRows ? a.keys - at.first : kWgmmaRows);
  at.valid = static_cast<int>(at.n > at.first ? (at.n - at.first < at.stored ? at.n - at.first : at.stored) : 0);
  const int64_t begin = a.first_row(at.n, at.first) / rows * rows, whole = a.first_row(at.n, at.first + kWgmmaRows - 1);
  at.begin = static_cast<int>(begin < a.rows ? begin : a.rows);
  at.whole = static_cast<int>(whole < a.rows ? whole : a.rows);
  at.tiles = at.valid > 0 ? (static_cast<int>(a.rows) - at.begin + rows - 1) / rows : 0;
  return at;
}

// A warp group's 64 keys, and tiles of `rows` rows. Of a thread's scores [4 j + 2 half + i] is that of key `key(half)` of the tile and row 8 j + pair + i.
template <int rows>
struct GroupKeys {
  const Attention& a;
  const KeyPlace& at;
  int side, pair;

  __device__ __forceinline__ GroupKeys(const Attention& a, const KeyPlace& at) : a(a), at(at), side(static_cast<int>(threadIdx.x) / 128 - 1), pair(lane_index() % 4 * 2) {}
  __device__ __forceinline__ int key(int half) const { return side * 64 + warp_index() % 4 * 16 + lane_index() / 4 + 8 * half; }

  // Scores of rows from..from + rows - 1 that do not see a key become -inf.
  __device__ __forceinline__ void hide(float (&scores)[rows / 2], int from) const {
    if (from >= at.whole && at.valid == kWgmmaRows && !a.segments) return;
    const int32_t* segments = a.segments ? a.segments + at.b * a.keys : nullptr;
    const int row_count = static_cast<int>(a.rows), shared_heads = static_cast<int>(a.shared_heads);
    int32_t own[2] = {0, 0};
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (segments && key(half) < at.valid) own[half] = segments[at.first + key(half)];
#pragma unroll
    for (int j = 0; j < rows / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = from + 8 * j + pair + i, query = (row < row_count ? row : row_count - 1) / shared_heads;
        const int limit = static_cast<int>(a.limit(at.n, query) - at.first);  // of keys, from the tile's first on
        const int32_t segment = segments ? segments[query] : 0;
#pragma unroll
        for (int half = 0; half < 2; ++half)
          if (key(half) >= limit || segment != own[half]) scores[4 * j + 2 * half + i] = -INFINITY;
      }
      asm volatile("" ::: "memory");  // not all loads at once: their registers would be missing
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
  template <int dim>
  __device__ __forceinline__ void store(const Floats& dk, const float (&dk_sums)[dim / 2], const Floats& dv, const float (&dv_sums)[dim / 2]) const {
    const auto result_at = [&](int half) { return key(half) < at.stored ? a.key_at(at.b, at.g, at.first + key(half)) : -1; };
    store_pairs<dim>(a.size, dk, result_at, [&](int half, int j) { return make_float2(dk_sums[4 * j + 2 * half] * a.scale, dk_sums[4 * j + 2 * half + 1] * a.scale); });
    store_pairs<dim>(a.size, dv, result_at, [&](int half, int j) { return make_float2(dv_sums[4 * j + 2 * half], dv_sums[4 * j + 2 * half + 1]); });
  }
};

#endif

}  // namespace trefoil::cuda
