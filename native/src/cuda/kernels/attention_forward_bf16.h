// out = softmax(scale q kᵀ) v on the tensor cores: flash attention 2 (Dao 2023, arXiv 2307.08691). Four warps of 16 or 32 rows each
// share tiles of keys, of which the next is on its way while one is worked on. Scores stay in registers: the fragments that a product
// leaves are those that the next one takes.
#pragma once
#include "attention_keys.h"

namespace trefoil::cuda {

// Elements column..+7 of row r of q as bf16; zeros past the head's size.
__device__ __forceinline__ uint4 query_chunk(const Attention& a, const Floats& q, int64_t b, int64_t g, int64_t r, int column) {
  const int size = static_cast<int>(a.size);
  if (column >= size) return make_uint4(0, 0, 0, 0);
  const Floats from = q.from(a.row_at(b, g, r) + column);
  if (size % 8 == 0 && q.half) return *static_cast<const uint4*>(from.data);
  float x[8];
  if (size % 8 == 0) {
    *reinterpret_cast<float4*>(x) = from.load4(0), *reinterpret_cast<float4*>(x + 4) = from.load4(4);
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = column + j < size ? from.load(j) : 0.0f;
  }
  return make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
}

// q as a tile of bf16; zeros past `valid` rows.
template <int dim, int rows>
__device__ __forceinline__ void load_queries(bf16* tile, const Attention& a, const Floats& q, int64_t b, int64_t g, int64_t first, int valid) {
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < rows * dim / 8; i += kAttentionThreads) {
    const int row = i / (dim / 8), chunk = i % (dim / 8);
    *reinterpret_cast<uint4*>(tile + AttentionTile<dim>::position(row, chunk)) =
        row < valid ? query_chunk(a, q, b, g, first + row, chunk * 8) : make_uint4(0, 0, 0, 0);
  }
}

template <int dim, int fragments, int kKeys>
__global__ void __launch_bounds__(kAttentionThreads) attention_forward_kernel(Attention a, Floats q, Rows<bf16> k, Rows<bf16> v, Floats out, float* lse) {
  constexpr int kRows = 64 * fragments, kColumns = kKeys / 8, kDims = dim / 8;
  using Tile = AttentionTile<dim>;
  bf16* q_tile = dynamic_shared<bf16>();
  const int pair = lane_index() % 4 * 2;
  // Late tiles first: under a causal mask they are the long ones.
  const int64_t tiles = (a.rows + kRows - 1) / kRows, head = blockIdx.x / tiles, first = (tiles - 1 - (blockIdx.x - head * tiles)) * kRows;
  const int64_t b = head / a.groups, g = head - b * a.groups, n = a.length(b);
  const int valid = static_cast<int>(a.rows - first < kRows ? a.rows - first : kRows);
  const int every = static_cast<int>(a.limit(n, first / a.shared_heads));  // all rows of the tile see the keys before it
  const int end = static_cast<int>(a.limit(n, (first + valid - 1) / a.shared_heads));
  const AttentionKeys<dim, kKeys> tiles_of_keys(a, k, v, b, g, end, q_tile + kRows * dim);
  tiles_of_keys.copy(0);
  load_queries<dim, kRows>(q_tile, a, q, b, g, first, valid);

  // Of row fragment f of this warp: rows own + 16 f and + 8 of it.
  const int warp_row = warp_index() * 16 * fragments, own = warp_row + lane_index() / 4;
  int row_end[fragments][2];
#pragma unroll
  for (int f = 0; f < fragments; ++f)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = own + 16 * f + 8 * half;
      row_end[f][half] = static_cast<int>(a.limit(n, (first + (row < valid ? row : valid - 1)) / a.shared_heads));
    }
  const float slope = a.scale * kLog2E;
  float sums[fragments][kDims][4] = {}, top[fragments][2], total[fragments][2] = {};
#pragma unroll
  for (int f = 0; f < fragments; ++f) top[f][0] = top[f][1] = -INFINITY;

  for (int from = 0; from < end; from += kKeys) {
    copy_async_wait<0>();
    __syncthreads();  // this tile has arrived for every thread, and the other stage has been read
    tiles_of_keys.copy(from + kKeys);
    const bf16 *k_tile = tiles_of_keys.keys(from), *v_tile = tiles_of_keys.values(from);
    float scores[fragments][kColumns][4] = {};
#pragma unroll
    for (int d = 0; d < dim; d += 16) {
      uint32_t left[fragments][4];
#pragma unroll
      for (int f = 0; f < fragments; ++f) Tile::left(left[f], q_tile, warp_row + 16 * f, d);
#pragma unroll
      for (int j = 0; j < kColumns; j += 2) {
        uint32_t right[4];
        Tile::right(right, k_tile, 8 * j, d);
        const uint32_t low[2] = {right[0], right[1]}, high[2] = {right[2], right[3]};
#pragma unroll
        for (int f = 0; f < fragments; ++f) {
          mma_bf16(scores[f][j], left[f], low);
          mma_bf16(scores[f][j + 1], left[f], high);
        }
      }
    }
    if (from + kKeys > every || a.segments) {
#pragma unroll
      for (int f = 0; f < fragments; ++f)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = own + 16 * f + 8 * half;
          const int32_t* segments = a.segments ? a.segments + b * a.keys : nullptr;
          const int32_t segment = segments ? segments[(first + (row < valid ? row : valid - 1)) / a.shared_heads] : 0;
          hide_keys(scores[f], half, from, row_end[f][half], segments, segment);
        }
    }
#pragma unroll
    for (int f = 0; f < fragments; ++f)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float most = top[f][half];
#pragma unroll
        for (int j = 0; j < kColumns; ++j) most = fmaxf(most, fmaxf(scores[f][j][2 * half], scores[f][j][2 * half + 1]));
        most = quad_reduce(most, Largest{});
        const float shift = most == -INFINITY ? 0.0f : most * slope, correction = exp2_fast(top[f][half] * slope - shift);
        top[f][half] = most;
        float part = 0;
#pragma unroll
        for (int j = 0; j < kColumns; ++j)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float& score = scores[f][j][2 * half + i];
            score = exp2_fast(fmaf(score, slope, -shift));
            part += score;
          }
        total[f][half] = total[f][half] * correction + part;  // this lane's keys: the quad adds up at the end
#pragma unroll
        for (int j = 0; j < kDims; ++j) sums[f][j][2 * half] *= correction, sums[f][j][2 * half + 1] *= correction;
      }
#pragma unroll
    for (int j = 0; j < kColumns; j += 2) {
      uint32_t left[fragments][4];
#pragma unroll
      for (int f = 0; f < fragments; ++f) round_fragment(left[f], scores[f][j], scores[f][j + 1]);
#pragma unroll
      for (int d = 0; d < dim; d += 16) {
        uint32_t right[4];
        Tile::right_transposed(right, v_tile, 8 * j, d);
        const uint32_t low[2] = {right[0], right[1]}, high[2] = {right[2], right[3]};
#pragma unroll
        for (int f = 0; f < fragments; ++f) {
          mma_bf16(sums[f][d / 8], left[f], low);
          mma_bf16(sums[f][d / 8 + 1], left[f], high);
        }
      }
    }
  }
  copy_async_wait<0>();

#pragma unroll
  for (int f = 0; f < fragments; ++f) {
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float all = quad_reduce(total[f][half], Add{});
      factor[half] = all == 0 ? 0.0f : 1.0f / all;
      const int row = own + 16 * f + 8 * half;
      if (lse && pair == 0 && row < valid)
        lse[a.statistic_at(b, g, first + row)] = all == 0 ? -INFINITY : fmaf(top[f][half], a.scale, logf(all));
    }
    store_fragments<dim>(sums[f], factor, a.size, out, [&](int half) {
      const int row = own + 16 * f + 8 * half;
      return row < valid ? a.row_at(b, g, first + row) : -1;
    });
  }
}

template <int dim, int fragments, int kKeys>
void launch_attention_forward(const Context& context, const Attention& a, const Floats& q, const Rows<bf16>& k, const Rows<bf16>& v, const Floats& out, float* lse) {
  constexpr int kRows = 64 * fragments;
  const auto blocks = static_cast<unsigned>(a.batch * a.groups * ceil_divide(a.rows, kRows));
  const size_t shared = static_cast<size_t>((kRows + 4 * kKeys) * dim) * sizeof(bf16);
  launch(context, {blocks, kAttentionThreads, shared}, attention_forward_kernel<dim, fragments, kKeys>, a, q, k, v, out, lse);
}

}  // namespace trefoil::cuda
