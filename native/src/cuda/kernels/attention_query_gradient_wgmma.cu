// dq of attention by wgmma, for sm_90a: 128 rows of q and dout stay in shared memory, tiles of 128 keys and their values pass by. The two
// warp groups go on by themselves: one multiplies while the other is at its exponentials. It is right on the emulator and has never run on
// a GPU, so it is used only where TREFOIL_CUDA_WGMMA=1.
#include "attention_backward_wgmma.h"

namespace trefoil::cuda {

namespace {

template <int dim>
constexpr int kStages = dim == 128 ? 2 : 4;

template <int dim>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    attention_query_gradient_wgmma_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap dout_map, const __grid_constant__ CUtensorMap k_map,
                                          const __grid_constant__ CUtensorMap v_map, Attention a, BackwardRows laid_out, Floats dq) {
#if defined(TREFOIL_HOPPER)
  constexpr int kTileBytes = kWgmmaTileBytes<dim>;
  TREFOIL_SHARED(barriers, uint64_t[2 * kStages<dim>]);
  TREFOIL_SHARED(ready, uint64_t[1]);
  TREFOIL_SHARED(at, RowPlace);
  unsigned char *q_tile = aligned_tiles(), *dout_tile = q_tile + kTileBytes;
  const Ring<kStages<dim>, 2 * kTileBytes> ring{dout_tile + kTileBytes, barriers};  // keys, then values
  start_block(at, ring, ready, [&] { return find_rows(a); });
  if (threadIdx.x < 128) {
    give_registers<24>();
    if (threadIdx.x == 0 && at.tiles > 0) {
      const int head = static_cast<int>(at.b * a.groups + at.g), first = static_cast<int>(at.first);
      barrier_expect(ready, 2 * kTileBytes);
      copy_rows<dim, kWgmmaRows>(q_tile, &q_map, head, first, ready);
      copy_rows<dim, kWgmmaRows>(dout_tile, &dout_map, head, first, ready);
      for (int j = 0; j < at.tiles; ++j) {
        uint64_t* full = ring.claim(j);
        copy_keys<dim>(ring.tile(j), &k_map, at.b, at.g, j * kWgmmaRows, full);
        copy_keys<dim>(ring.tile(j) + kTileBytes, &v_map, at.b, at.g, j * kWgmmaRows, full);
      }
    }
  } else {
    take_registers<240>();
    const GroupRows rows(a, at);
    const float slope = a.scale * kLog2E;
    float lse[2], delta[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool there = rows.row(half) < at.valid;
      const int64_t statistic = (at.b * a.groups + at.g) * laid_out.padded + at.first + rows.row(half);
      lse[half] = there ? laid_out.lse[statistic] : INFINITY;
      delta[half] = there ? laid_out.delta[statistic] : 0.0f;
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
    store_pairs<dim>(a.size, dq, [&](int half) { return rows.result_at(half); },
                     [&](int half, int j) { return make_float2(sums[4 * j + 2 * half] * a.scale, sums[4 * j + 2 * half + 1] * a.scale); });
  }
#endif
}

template <int dim>
void launch_gradient(const Context& context, const CUtensorMap (&maps)[4], const Attention& a, const BackwardRows& rows, const Floats& dq) {
  const auto blocks = static_cast<unsigned>(a.batch * a.groups * ceil_divide(a.rows, kWgmmaRows));
  launch(context, {blocks, kWgmmaThreads, size_t{(2 + 2 * kStages<dim>) * kWgmmaTileBytes<dim>} + 1024}, attention_query_gradient_wgmma_kernel<dim>, maps[0], maps[1], maps[2],
         maps[3], a, rows, dq);
}

}  // namespace

bool attention_query_gradient_wgmma(const Context& context, const Attention& a, const BackwardRows& rows, const Rows<bf16>& k, const Rows<bf16>& v, const Floats& dq) {
  if (!dq || !suits_wgmma(context, a)) return false;
  const CUtensorMap maps[4] = {encode_rows(a, rows, rows.q, k.stride, kWgmmaRows), encode_rows(a, rows, rows.dout, k.stride, kWgmmaRows), encode_keys(a, k), encode_keys(a, v)};
  if (a.size <= 64) launch_gradient<64>(context, maps, a, rows, dq);
  else launch_gradient<128>(context, maps, a, rows, dq);
  return true;
}

}  // namespace trefoil::cuda
