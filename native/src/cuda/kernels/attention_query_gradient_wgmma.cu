// dq of attention by wgmma, for sm_90a: 128 rows of q and dout stay in shared memory, tiles of 128 keys and their values pass by. The two
// warp groups go on by themselves: one multiplies while the other is at its exponentials. It is right on the emulator and has never run on
// a GPU, so it is used only where TREFOIL_CUDA_WGMMA=1.
#include "attention_backward_wgmma.h"

namespace trefoil::cuda {

namespace {

template <int dim>
constexpr int kStages = dim == 128 ? 2 : 4;

#if defined(TREFOIL_HOPPER)

// A block's 128 places, and what the rows there see. In shared memory, so that it takes no registers.
struct RowPlace {
  int64_t b, g, n;
  int first, end, tiles;  // keys before `end` are seen by any of them
};
__device__ __forceinline__ RowPlace find_rows(const Attention& a, const BackwardRows& rows) {
  RowPlace at;
  // Late tiles first: under a causal mask they are the long ones.
  const auto row_tiles = static_cast<unsigned>(rows.padded / kWgmmaRows), head = blockIdx.x / row_tiles, groups = static_cast<unsigned>(a.groups);
  at.first = static_cast<int>(row_tiles - 1 - blockIdx.x % row_tiles) * kWgmmaRows;
  at.b = head / groups, at.g = head % groups, at.n = a.length(at.b);
  at.end = static_cast<int>(a.limit(at.n, min((at.first / 64 + 2) * rows.units.queries, static_cast<int>(a.queries)) - 1));
  at.tiles = (at.end + kWgmmaRows - 1) / kWgmmaRows;
  return at;
}

// A warp group's 64 places. Of a thread's scores [4 j + 2 half + i] is that of the row at place `place(half)` and key 8 j + pair + i of a tile.
struct GroupRows {
  const Attention& a;
  const RowPlace& at;
  const RowUnits& units;
  int side, pair, every;  // all rows see the keys before `every`
  int query[2];           // where there is no row, one that there is

  __device__ __forceinline__ GroupRows(const Attention& a, const RowPlace& at, const RowUnits& units)
      : a(a), at(at), units(units), side(own_group()), pair(lane_index() % 4 * 2) {
    const int last = static_cast<int>(a.queries) - 1;
    every = a.segments ? 0 : static_cast<int>(a.limit(at.n, min((at.first / 64 + side) * units.queries, last)));
#pragma unroll
    for (int half = 0; half < 2; ++half) query[half] = min(PlacedRow(a, units, place(half)).query, last);
  }
  __device__ __forceinline__ int place(int half) const { return at.first + side * 64 + warp_index() % 4 * 16 + lane_index() / 4 + 8 * half; }

  // Scores of keys from..+127 that a row does not see become -inf.
  __device__ __forceinline__ void hide(float (&scores)[kWgmmaRows / 2], int from) const {
    if (from + kWgmmaRows <= every) return;
    uint32_t hidden[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) hidden[half] = columns_past(static_cast<int>(a.limit(at.n, query[half])) - from - pair);
    if (a.segments) {
      const int32_t* segments = a.segments + at.b * a.keys;
      add_other_segments(hidden, segments, {segments[query[0]], segments[query[1]]}, from + pair, at.end);
    }
    hide_scores(scores, hidden);
  }
  // A result's row, for store_pairs.
  __device__ __forceinline__ int64_t result_at(int half) const {
    const PlacedRow placed(a, units, place(half));
    return placed.there ? placed.row(a, at.b, at.g) * a.size : -1;
  }
};

#endif

template <int dim>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    attention_query_gradient_wgmma_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap dout_map, const __grid_constant__ CUtensorMap k_map,
                                          const __grid_constant__ CUtensorMap v_map, const __grid_constant__ CUtensorMap dq_map, Attention a, BackwardRows laid_out, Floats dq,
                                          bool engine_stores) {
#if defined(TREFOIL_HOPPER)
  constexpr int kTileBytes = kWgmmaTileBytes<dim>;
  TREFOIL_SHARED(barriers, uint64_t[2 * kStages<dim>]);
  TREFOIL_SHARED(ready, uint64_t[1]);
  TREFOIL_SHARED(at, RowPlace);
  unsigned char *q_tile = aligned_tiles(), *dout_tile = q_tile + kTileBytes;
  const Ring<kStages<dim>, 2 * kTileBytes> ring{dout_tile + kTileBytes, barriers};  // keys, then values
  start_block(at, ring, ready, [&] { return find_rows(a, laid_out); }, q_map, dout_map, k_map, v_map);
  if (threadIdx.x < 128) {
    give_registers<24>();
    if (threadIdx.x == 0 && at.tiles > 0) {
      barrier_expect(ready, 2 * row_bytes<dim, kWgmmaRows>(laid_out.units));
      copy_rows<dim, kWgmmaRows>(q_tile, &q_map, laid_out.units, at.b, at.g, at.first, ready);
      copy_rows<dim, kWgmmaRows>(dout_tile, &dout_map, laid_out.units, at.b, at.g, at.first, ready);
      for (int j = 0; j < at.tiles; ++j) {
        uint64_t* full = ring.claim(j);
        copy_keys<dim>(ring.tile(j), &k_map, at.b, at.g, j * kWgmmaRows, full);
        copy_keys<dim>(ring.tile(j) + kTileBytes, &v_map, at.b, at.g, j * kWgmmaRows, full);
      }
    }
  } else {
    take_registers<240>();
    const GroupRows rows(a, at, laid_out.units);
    const float slope = a.scale * kLog2E;
    float lse[2], delta[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t statistic = (at.b * a.groups + at.g) * laid_out.padded + rows.place(half);
      lse[half] = laid_out.lse[statistic];
      delta[half] = laid_out.delta[statistic];
    }
    float scores[kWgmmaRows / 2], slopes[kWgmmaRows / 2], sums[dim / 2];
    uint32_t weights[kWgmmaRows / 16][4];
    set_zero(sums);
    const int own = rows.side * 64 * 128;
    const auto multiply_keys = [&](int j) {
      ring.wait(j);
      const int left = at.end - j * kWgmmaRows;
      if (left < kWgmmaRows && at.end < a.keys) {
        clear_keys<dim>(ring.tile(j), left);
        clear_keys<dim>(ring.tile(j) + kTileBytes, left);
        end_clearing();
      }
      wgmma_fence();
      multiply_along<dim, kWgmmaRows>(scores, q_tile + own, kHalfBytes, ring.tile(j), kHalfBytes);
      wgmma_commit();
    };
    // Exponentials run beside the product of slopes. The wait for that one is in the next step: ptxas would move it above them here.
    const auto multiply_values = [&](int j) {
      wgmma_fence();
      multiply_along<dim, kWgmmaRows>(slopes, dout_tile + own, kHalfBytes, ring.tile(j) + kTileBytes, kHalfBytes);
      wgmma_commit();
      wgmma_wait<1>();
      keep(scores);
      rows.hide(scores, j * kWgmmaRows);
#pragma unroll
      for (int i = 0; i < kWgmmaRows / 2; ++i) scores[i] = exp2_fast(fmaf(scores[i], slope, -lse[i / 2 % 2]));
    };
    const auto add_keys = [&](int j) {
      wgmma_wait<0>();
      keep(slopes);
#pragma unroll
      for (int i = 0; i < kWgmmaRows / 2; ++i) scores[i] *= slopes[i] - delta[i / 2 % 2];
      round_weights(weights, scores);
      wgmma_fence();
      add_across<dim>(sums, weights, ring.tile(j), kHalfBytes);
      wgmma_commit();
    };
    if (at.tiles > 0) {
      barrier_wait(ready, 0);
      multiply_keys(0);
      multiply_values(0);
      for (int j = 1; j < at.tiles; ++j) {
        add_keys(j - 1);
        multiply_keys(j);
        wgmma_wait<1>();  // the weights' registers are free
        keep(sums);
        ring.release(j - 1);
        multiply_values(j);
      }
      add_keys(at.tiles - 1);
      wgmma_wait<0>();
      keep(sums);
    }
#pragma unroll
    for (int i = 0; i < dim / 2; ++i) sums[i] *= a.scale;
    if (engine_stores) {
      // In the place of the group's rows of q.
      uint32_t results[dim / 16][4];
      round_weights(results, sums);
      named_sync(kOwnBarrier + rows.side, 128);  // the group's products have read them
      store_rows_for_engine(q_tile + own, kHalfBytes, results);
      store_own(rows.side, dim / 64, [&](int half) {
        store_box(&dq_map, {64 * half, 0, static_cast<int>(at.g), (at.first / 64 + rows.side) * laid_out.units.queries, static_cast<int>(at.b)}, q_tile + own + half * kHalfBytes);
      });
    } else {
      store_pairs<dim>(a.size, dq, [&](int half) { return rows.result_at(half); }, [&](int half, int j) { return make_float2(sums[4 * j + 2 * half], sums[4 * j + 2 * half + 1]); });
    }
  }
#endif
}

template <int dim>
void launch_gradient(const Context& context, const CUtensorMap (&maps)[5], const Attention& a, const BackwardRows& rows, const Floats& dq) {
  const auto blocks = static_cast<unsigned>(a.batch * a.groups * (rows.padded / kWgmmaRows));
  launch(context, {blocks, kWgmmaThreads, size_t{(2 + 2 * kStages<dim>) * kWgmmaTileBytes<dim>} + 1024}, attention_query_gradient_wgmma_kernel<dim>, maps[0], maps[1], maps[2],
         maps[3], maps[4], a, rows, dq, by_engine(a, dq));
}

}  // namespace

void attention_query_gradient_wgmma(const Context& context, const Attention& a, const BackwardRows& rows, const Rows<bf16>& k, const Rows<bf16>& v, const Floats& dq) {
  const CUtensorMap q_map = encode_queries(a, rows.q, rows.stride);
  const CUtensorMap maps[5] = {q_map, encode_queries(a, rows.dout, rows.stride), encode_keys(a, k), encode_keys(a, v),
                               by_engine(a, dq) ? encode_queries(a, static_cast<const bf16*>(dq.data), a.size) : q_map};
  if (a.size <= 64) launch_gradient<64>(context, maps, a, rows, dq);
  else launch_gradient<128>(context, maps, a, rows, dq);
}

}  // namespace trefoil::cuda
