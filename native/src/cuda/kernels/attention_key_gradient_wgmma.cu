// dk and dv of attention by wgmma, for sm_90a: 128 keys and their values stay in shared memory, tiles of 64 rows of q and dout pass by. Rows
// of the products are keys: scores come out transposed, which is how dk and dv take them. It is right on the emulator and has never run on a
// GPU, so it is used only where TREFOIL_CUDA_WGMMA=1.
#include "attention_backward_wgmma.h"

namespace trefoil::cuda {

namespace {

constexpr int kKeys = kWgmmaRows, kRows = 64, kStages = 4;
template <int dim>
constexpr int kRowBytes = kRows * dim * static_cast<int>(sizeof(bf16));

template <int dim>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    attention_key_gradient_wgmma_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap dout_map, const __grid_constant__ CUtensorMap k_map,
                                        const __grid_constant__ CUtensorMap v_map, const __grid_constant__ CUtensorMap dk_map, const __grid_constant__ CUtensorMap dv_map, Attention a,
                                        BackwardRows laid_out, KeyResults results) {
#if defined(TREFOIL_HOPPER)
  constexpr int kTileBytes = kWgmmaTileBytes<dim>, kRowHalf = kRows * 128, kStatisticBytes = kRows * static_cast<int>(sizeof(float));
  TREFOIL_SHARED(barriers, uint64_t[2 * kStages]);
  TREFOIL_SHARED(ready, uint64_t[1]);
  TREFOIL_SHARED(at, KeyPlace);
  TREFOIL_SHARED(statistics, float4[kStages][2][kRows / 4]);  // lse, then delta
  unsigned char *k_tile = aligned_tiles(), *v_tile = k_tile + kTileBytes;
  const Ring<kStages, 2 * kRowBytes<dim>> ring{v_tile + kTileBytes, barriers};  // q, then dout
  start_block(at, ring, ready, [&] {
    const auto key_tiles = static_cast<unsigned>((a.keys + kKeys - 1) / kKeys);
    return find_keys<kRows>(a, laid_out.units, blockIdx.x / key_tiles, blockIdx.x % key_tiles);
  }, q_map, dout_map, k_map, v_map);
  if (threadIdx.x < 128) {
    give_registers<24>();
    if (threadIdx.x == 0 && at.tiles > 0) {
      barrier_expect(ready, 2 * kTileBytes);
      copy_keys<dim>(k_tile, &k_map, at.b, at.g, static_cast<int>(at.first), ready);
      copy_keys<dim>(v_tile, &v_map, at.b, at.g, static_cast<int>(at.first), ready);
      const int head = static_cast<int>(at.b * a.groups + at.g);
      for (int j = 0; j < at.tiles; ++j) {
        const int from = at.begin + j * kRows;
        const int64_t statistic = head * laid_out.padded + from;
        uint64_t* full = ring.claim(j, 2 * row_bytes<dim, kRows>(laid_out.units) + 2 * kStatisticBytes);
        copy_rows<dim, kRows>(ring.tile(j), &q_map, laid_out.units, at.b, at.g, from, full);
        copy_rows<dim, kRows>(ring.tile(j) + kRowBytes<dim>, &dout_map, laid_out.units, at.b, at.g, from, full);
        copy_bytes(statistics[j % kStages][0], laid_out.lse + statistic, kStatisticBytes, full);
        copy_bytes(statistics[j % kStages][1], laid_out.delta + statistic, kStatisticBytes, full);
      }
    }
  } else {
    take_registers<240>();
    const GroupKeys<kRows> keys(a, at, laid_out.units);
    const float slope = a.scale * kLog2E;
    float scores[kRows / 2], slopes[kRows / 2], dk_sums[dim / 2], dv_sums[dim / 2];
    uint32_t weights[kRows / 16][4], slope_weights[kRows / 16][4];
    set_zero(dk_sums);
    set_zero(dv_sums);
    if (at.tiles > 0) {
      barrier_wait(ready, 0);
      if (at.valid < at.stored) {  // values alone: scores of such keys are hidden
        clear_keys<dim>(v_tile, at.valid);
        end_clearing();
      }
      clear_empty(ring.tiles, 2 * kStages * kRowBytes<dim>, laid_out.units);
    }
    const int own = keys.side * 64 * 128;
    const auto multiply_queries = [&](int j) {
      ring.wait(j);
      wgmma_fence();
      multiply_along<dim, kRows>(scores, k_tile + own, kHalfBytes, ring.tile(j), kRowHalf);
      wgmma_commit();
    };
    const auto make_weights = [&](int j) {
      wgmma_fence();
      multiply_along<dim, kRows>(slopes, v_tile + own, kHalfBytes, ring.tile(j) + kRowBytes<dim>, kRowHalf);
      wgmma_commit();
      wgmma_wait<1>();
      keep(scores);
      keys.hide(scores, at.begin + j * kRows);
      keys.weigh(scores, reinterpret_cast<const float*>(statistics[j % kStages][0]), slope);
      round_weights(weights, scores);
    };
    const auto add_up = [&](int j) {
      wgmma_wait<0>();  // the slopes are there
      keep(slopes);
      wgmma_fence();
      add_across<dim>(dv_sums, weights, ring.tile(j) + kRowBytes<dim>, kRowHalf);
      wgmma_commit();
      keys.pass_softmax(slopes, scores, reinterpret_cast<const float*>(statistics[j % kStages][1]));
      round_weights(slope_weights, slopes);
      wgmma_fence();
      add_across<dim>(dk_sums, slope_weights, ring.tile(j), kRowHalf);
      wgmma_commit();
    };
    // dk goes on beside the next scores. Once in a step nothing is under way, or ptxas would run products one by one (C7514).
    if (at.tiles > 0) {
      multiply_queries(0);
      make_weights(0);
      for (int j = 1; j < at.tiles; ++j) {
        add_up(j - 1);
        multiply_queries(j);
        wgmma_wait<1>();
        keep(dv_sums);
        keep(dk_sums);
        ring.release(j - 1);
        make_weights(j);
      }
      add_up(at.tiles - 1);
      wgmma_wait<0>();
      keep(dv_sums);
      keep(dk_sums);
    }
    keys.template store<dim>(results, &dk_map, &dv_map, k_tile, v_tile, dk_sums, dv_sums);
  }
#endif
}

template <int dim>
void launch_gradients(const Context& context, const CUtensorMap (&maps)[6], const Attention& a, const BackwardRows& rows, const KeyResults& results) {
  const auto blocks = static_cast<unsigned>(a.batch * a.groups * ceil_divide(a.keys, kKeys));
  launch(context, {blocks, kWgmmaThreads, size_t{2 * kWgmmaTileBytes<dim> + 2 * kStages * kRowBytes<dim>} + 1024}, attention_key_gradient_wgmma_kernel<dim>, maps[0], maps[1],
         maps[2], maps[3], maps[4], maps[5], a, rows, results);
}

}  // namespace

void attention_key_gradient_wgmma(const Context& context, const Attention& a, const BackwardRows& rows, const Rows<bf16>& k, const Rows<bf16>& v, const Floats& dk,
                                  const Floats& dv) {
  const KeyResults results(a, dk, dv);
  const CUtensorMap k_map = encode_keys(a, k);
  const CUtensorMap maps[6] = {encode_queries(a, rows.q, rows.stride), encode_queries(a, rows.dout, rows.stride), k_map, encode_keys(a, v), encode_key_results(a, results, dk, k_map),
                               encode_key_results(a, results, dv, k_map)};
  if (a.size <= 64) launch_gradients<64>(context, maps, a, rows, results);
  else launch_gradients<128>(context, maps, a, rows, results);
}

}  // namespace trefoil::cuda
