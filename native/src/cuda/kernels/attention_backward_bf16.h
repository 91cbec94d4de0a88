// Gradients of attention on the tensor cores (flash attention 2). q and dout are first laid out row after row of their key-value head, as
// bf16 (wgmma: only the rows' statistics are). One pass over tiles of rows makes dq, one over tiles of keys dk and dv: the probabilities are made twice, and nothing is added
// by atomics, so that sums have an order. Scores stay in registers, as in the forward pass.
#pragma once
#include "attention_keys.h"

namespace trefoil::cuda {

constexpr int kBackwardTile = 64;  // rows, or keys, of a block; and of the tiles that it walks

// Places of a key-value head's rows: units of `rows` that begin with `queries` whole queries of `shared` rows each; what is left of one is empty.
struct RowUnits {
  int rows, queries, shared;

  __device__ __forceinline__ int place_of(int query) const { return query / queries * rows + query % queries * shared; }
};
// Of a place: its query, and which of the heads that share the keys; `there`: neither empty nor past the last query.
struct PlacedRow {
  int query, head;
  bool there;

  __device__ __forceinline__ PlacedRow(const Attention& a, const RowUnits& units, int place) {
    const int unit = place / units.rows, within = place - unit * units.rows, n = within / units.shared;
    query = unit * units.queries + n, head = within - n * units.shared;
    there = n < units.queries && query < a.queries;
  }
  // Of the op's rows, [batch, queries, heads].
  __device__ __forceinline__ int64_t row(const Attention& a, int64_t b, int64_t g) const { return (b * a.queries + query) * a.heads + g * a.shared_heads + head; }
};

// [batch, groups, padded places]: where no row is, q and dout are zero and lse is +inf. By wgmma q and dout are rows as the op has them, [batch, queries, heads].
struct BackwardRows {
  const bf16 *q, *dout;
  const float *lse, *delta;  // lse in units of log 2, +inf where a row sees no key; delta = Σ dout out
  int64_t padded, stride;    // a multiple of kBackwardTile (by wgmma: of kWgmmaBackwardTile); of q and dout
  RowUnits units;            // of one query, so that all places have a row; by wgmma of 64 places
};

// By Hopper's wgmma, where suits_wgmma.
constexpr int kWgmmaBackwardTile = 128;
void attention_query_gradient_wgmma(const Context& context, const Attention& a, const BackwardRows& rows, const Rows<bf16>& k, const Rows<bf16>& v, const Floats& dq);
void attention_key_gradient_wgmma(const Context& context, const Attention& a, const BackwardRows& rows, const Rows<bf16>& k, const Rows<bf16>& v, const Floats& dk,
                                  const Floats& dv);

// All three in one pass: dq's sums in f32, tile after tile of rows, and what gives them their order.
struct QuerySums {
  float* sums;
  int32_t *ticket, *turns;  // of the launch; of each tile: how many tiles of keys have been added
  unsigned heads_at_once;   // whose blocks take turns to start
};
QuerySums take_query_sums(const Context& context, Workspace& workspace, const Attention& a, int64_t padded);
void attention_one_pass_gradient_wgmma(const Context& context, const Attention& a, const BackwardRows& rows, const Rows<bf16>& k, const Rows<bf16>& v, const QuerySums& sums,
                                       const Floats& dq, const Floats& dk, const Floats& dv);

template <int dim>
__global__ void __launch_bounds__(kAttentionThreads) attention_query_gradient_kernel(Attention a, BackwardRows rows, Rows<bf16> k, Rows<bf16> v, Floats dq) {
  constexpr int kTile = kBackwardTile, kColumns = kTile / 8;
  using Tile = AttentionTile<dim>;
  bf16 *q_tile = dynamic_shared<bf16>(), *dout_tile = q_tile + kTile * dim;
  const int thread = static_cast<int>(threadIdx.x), stride = static_cast<int>(k.stride);
  const int64_t tiles = rows.padded / kTile, head = blockIdx.x / tiles, first = (tiles - 1 - (blockIdx.x - head * tiles)) * kTile;
  const int64_t b = head / a.groups, g = head - b * a.groups, n = a.length(b);
  const int valid = static_cast<int>(a.rows - first < kTile ? a.rows - first : kTile);
  const int every = static_cast<int>(a.limit(n, first / a.shared_heads)), end = static_cast<int>(a.limit(n, (first + valid - 1) / a.shared_heads));
  const AttentionKeys<dim, kTile> tiles_of_keys(a, k, v, b, g, end, dout_tile + kTile * dim);
  const int64_t rows_at = head * rows.padded + first;
  Tile::template copy<kTile>(q_tile, rows.q + rows_at * stride, stride, kTile, stride, thread);
  Tile::template copy<kTile>(dout_tile, rows.dout + rows_at * stride, stride, kTile, stride, thread);
  tiles_of_keys.copy(0);

  const int warp_row = warp_index() * 16, own = warp_row + lane_index() / 4;
  float lse[2], delta[2];
  int row_end[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = own + 8 * half;
    lse[half] = rows.lse[rows_at + row];
    delta[half] = rows.delta[rows_at + row];
    row_end[half] = row < valid ? static_cast<int>(a.limit(n, (first + row) / a.shared_heads)) : 0;
  }
  const float slope = a.scale * kLog2E;
  float sums[dim / 8][4] = {};
  for (int from = 0; from < end; from += kTile) {
    copy_async_wait<0>();
    __syncthreads();  // this tile has arrived for every thread, and the other stage has been read
    tiles_of_keys.copy(from + kTile);
    const bf16 *k_tile = tiles_of_keys.keys(from), *v_tile = tiles_of_keys.values(from);
    float scores[kColumns][4] = {}, slopes[kColumns][4] = {};
    multiply_rows<dim>(scores, q_tile, warp_row, k_tile);
    multiply_rows<dim>(slopes, dout_tile, warp_row, v_tile);
    if (from + kTile > every || a.segments) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int32_t* segments = a.segments ? a.segments + b * a.keys : nullptr;
        const int row = own + 8 * half;
        const int32_t segment = segments ? segments[(first + (row < valid ? row : 0)) / a.shared_heads] : 0;
        hide_keys(scores, half, from, row_end[half], segments, segment);
      }
    }
#pragma unroll
    for (int j = 0; j < kColumns; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[j][i] = exp2_fast(fmaf(scores[j][i], slope, -lse[i / 2])) * (slopes[j][i] - delta[i / 2]);
    multiply_weights<dim>(sums, scores, k_tile);
  }
  copy_async_wait<0>();
  const float factor[2] = {a.scale, a.scale};
  store_fragments<dim>(sums, factor, a.size, dq, [&](int half) {
    const int row = own + 8 * half;
    return row < valid ? a.row_at(b, g, first + row) : -1;
  });
}

// Rows of the products are keys here, columns are rows of q: scores come out transposed, which is how dk and dv take them.
template <int dim, int tile>
__global__ void __launch_bounds__(kAttentionThreads) attention_key_gradient_kernel(Attention a, BackwardRows rows, Rows<bf16> k, Rows<bf16> v, Floats dk, Floats dv) {
  constexpr int kKeys = kBackwardTile, kColumns = tile / 8;
  using Tile = AttentionTile<dim>;
  bf16 *k_tile = dynamic_shared<bf16>(), *v_tile = k_tile + kKeys * dim;
  bf16* stages = v_tile + kKeys * dim;                                  // [2][q then dout][tile x dim]
  float* statistics = reinterpret_cast<float*>(stages + 4 * tile * dim);  // [2][lse then delta][tile]
  const int thread = static_cast<int>(threadIdx.x), pair = lane_index() % 4 * 2;
  const int64_t tiles = (a.keys + kKeys - 1) / kKeys, head = blockIdx.x / tiles, first = (blockIdx.x - head * tiles) * kKeys;
  const int64_t b = head / a.groups, g = head - b * a.groups, n = a.length(b);
  const int stored = static_cast<int>(a.keys - first < kKeys ? a.keys - first : kKeys), valid = static_cast<int>(n > first ? (n - first < stored ? n - first : stored) : 0);
  const int stride = static_cast<int>(k.stride), step = static_cast<int>(a.groups) * stride;
  const int64_t keys_at = ((b * a.keys + first) * a.groups + g) * stride;
  const int row_count = static_cast<int>(a.rows), begin = static_cast<int>(a.first_row(n, first)) / tile * tile;
  // Rows from here on see every key of the tile.
  const int64_t whole = a.first_row(n, first + kKeys - 1);
  const int64_t rows_at = head * rows.padded;
  auto copy_rows = [&](int from) {
    if (from < row_count) {
      const int stage = from / tile % 2;
      bf16* to = stages + stage * 2 * tile * dim;
      const int64_t at = rows_at + from;
      Tile::template copy<tile>(to, rows.q + at * stride, stride, tile, stride, thread);
      Tile::template copy<tile>(to + tile * dim, rows.dout + at * stride, stride, tile, stride, thread);
      if (thread < tile / 2) {
        const bool second = thread >= tile / 4;
        const int i = thread % (tile / 4) * 4;
        copy_async_16(statistics + (2 * stage + second) * tile + i, (second ? rows.delta : rows.lse) + at + i);
      }
    }
    copy_async_commit();
  };
  const int start = valid > 0 ? begin : row_count;
  if (valid > 0) {
    Tile::template copy<kKeys>(k_tile, k.data + keys_at, step, valid, stride, thread);
    Tile::template copy<kKeys>(v_tile, v.data + keys_at, step, valid, stride, thread);
  }
  copy_rows(start);

  const int warp_key = warp_index() * 16, own = warp_key + lane_index() / 4;
  const float slope = a.scale * kLog2E;
  float dk_sums[dim / 8][4] = {}, dv_sums[dim / 8][4] = {};
  for (int from = start; from < row_count; from += tile) {
    copy_async_wait<0>();
    __syncthreads();
    copy_rows(from + tile);
    const bf16 *q_tile = stages + from / tile % 2 * 2 * tile * dim, *dout_tile = q_tile + tile * dim;
    const float *lse = statistics + from / tile % 2 * 2 * tile, *delta = lse + tile;
    float scores[kColumns][4] = {}, slopes[kColumns][4] = {};
    multiply_rows<dim>(scores, k_tile, warp_key, q_tile);
    multiply_rows<dim>(slopes, v_tile, warp_key, dout_tile);
    if (from < whole || valid < kKeys || a.segments) {
      const int32_t* segments = a.segments ? a.segments + b * a.keys : nullptr;
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int row = from + 8 * j + pair + i;
          const int64_t query = (row < row_count ? row : row_count - 1) / static_cast<int>(a.shared_heads);
          const int64_t limit = row < row_count ? a.limit(n, query) : 0;
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int64_t key = first + own + 8 * half;
            if (key >= limit || (segments && segments[key] != segments[query])) scores[j][2 * half + i] = -INFINITY;
          }
        }
    }
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const float2 shift = *reinterpret_cast<const float2*>(lse + 8 * j + pair), mean = *reinterpret_cast<const float2*>(delta + 8 * j + pair);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float p = exp2_fast(fmaf(scores[j][i], slope, -(i % 2 ? shift.y : shift.x)));
        scores[j][i] = p;
        slopes[j][i] = p * (slopes[j][i] - (i % 2 ? mean.y : mean.x));
      }
    }
    multiply_weights<dim>(dv_sums, scores, dout_tile);
    multiply_weights<dim>(dk_sums, slopes, q_tile);
  }
  copy_async_wait<0>();
  const float one[2] = {1, 1}, scaled[2] = {a.scale, a.scale};
  const auto row_of = [&](int half) {
    const int row = own + 8 * half;
    return row < stored ? a.key_at(b, g, first + row) : -1;
  };
  if (dk) store_fragments<dim>(dk_sums, scaled, a.size, dk, row_of);
  if (dv) store_fragments<dim>(dv_sums, one, a.size, dv, row_of);
}

template <int dim>
void launch_attention_backward(const Context& context, const Attention& a, const BackwardRows& rows, const Rows<bf16>& k, const Rows<bf16>& v, const Floats& dq,
                               const Floats& dk, const Floats& dv) {
  constexpr int kTile = kBackwardTile;
  if (dq && a.batch * a.rows > 0)
    launch(context, {static_cast<unsigned>(a.batch * a.groups * (rows.padded / kTile)), kAttentionThreads, size_t{6 * kTile * dim} * sizeof(bf16)},
           attention_query_gradient_kernel<dim>, a, rows, k, v, dq);
  if ((dk || dv) && a.batch * a.keys > 0) {
    constexpr int kRows = dim == 128 ? 32 : kTile;  // sums of dk and dv take half of the registers there
    launch(context, {static_cast<unsigned>(a.batch * a.groups * ceil_divide(a.keys, kTile)), kAttentionThreads,
                     size_t{(2 * kTile + 4 * kRows) * dim} * sizeof(bf16) + size_t{4 * kRows} * sizeof(float)},
           attention_key_gradient_kernel<dim, kRows>, a, rows, k, v, dk, dv);
  }
}

}  // namespace trefoil::cuda
