// out = softmax(scale q kᵀ) v by wgmma, for sm_90a: the design of flash attention 3 (Shah et al. 2024, arXiv 2407.08608). A warp group
// multiplies q with the next keys and its last weights with their values at once, and makes the next weights while the second product is
// under way; the two groups take turns, so that one multiplies while the other is at its exponentials. It is right on the emulator and has
// never run on a GPU, so it is used only where TREFOIL_CUDA_WGMMA=1.
#include "attention_forward_bf16.h"
#include "attention_wgmma.h"

namespace trefoil::cuda {

namespace {

template <int dim>
constexpr int kStages = dim == 128 ? 2 : 4;

#if defined(TREFOIL_HOPPER)

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

// A warp group's rows of q as bf16 in shared memory; zeros past the last row and the head's elements.
template <int dim>
__device__ __forceinline__ void load_own_queries(const GroupRows& rows, const Floats& q, unsigned char* tile) {
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x) % 128; i < 64 * dim / 8; i += 128) {
    const int row = rows.side * 64 + i / (dim / 8), chunk = i % (dim / 8);
    store_for_engine(tile + chunk / 8 * kHalfBytes + chunk_of_128(row, chunk % 8),
                     row < rows.at.valid ? query_chunk(rows.a, q, rows.at.b, rows.at.g, rows.at.first + row, chunk * 8) : uint4{});
  }
  engine_fence();
  named_sync(kOwnBarrier + rows.side, 128);
}

#endif

template <int dim>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    attention_forward_wgmma_kernel(const __grid_constant__ CUtensorMap k_map, const __grid_constant__ CUtensorMap v_map, Attention a, Floats q, Floats out, float* lse) {
#if defined(TREFOIL_HOPPER)
  constexpr int kTileBytes = kWgmmaTileBytes<dim>;
  TREFOIL_SHARED(barriers, uint64_t[4 * kStages<dim>]);
  TREFOIL_SHARED(at, RowPlace);
  unsigned char* q_tile = aligned_tiles();
  const Ring<kStages<dim>, kTileBytes> keys{q_tile + kTileBytes, barriers}, values{keys.tiles + kStages<dim> * kTileBytes, barriers + 2 * kStages<dim>};
  if (threadIdx.x == 0) {
    at = find_rows(a);
    keys.init();
    values.init();
    barrier_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    give_registers<24>();
    if (threadIdx.x == 0 && at.tiles > 0) {
      copy_keys<dim>(keys.tile(0), &k_map, at.b, at.g, 0, keys.claim(0));
      for (int j = 0; j < at.tiles; ++j) {
        if (j + 1 < at.tiles) copy_keys<dim>(keys.tile(j + 1), &k_map, at.b, at.g, (j + 1) * kWgmmaRows, keys.claim(j + 1));
        copy_keys<dim>(values.tile(j), &v_map, at.b, at.g, j * kWgmmaRows, values.claim(j));
      }
    }
  } else {
    take_registers<240>();
    const GroupRows rows(a, at);
    const float slope = a.scale * kLog2E;
    Softmax softmax;
    float scores[kWgmmaRows / 2], sums[dim / 2];
    uint32_t weights[kWgmmaRows / 16][4];
    set_zero(scores);
    set_zero(sums);
    const auto multiply_keys = [&](int j) {
      wgmma_fence();
      multiply_along<dim, kWgmmaRows>(scores, q_tile + rows.side * 64 * 128, kHalfBytes, keys.tile(j), kHalfBytes);
      wgmma_commit();
    };
    const auto add_values = [&](int j) {
      wgmma_fence();
      add_across<dim>(sums, weights, values.tile(j), kHalfBytes);
      wgmma_commit();
    };
    if (at.tiles > 0) {
      load_own_queries<dim>(rows, q, q_tile);
      keys.wait(0);
      multiply_keys(0);
      wgmma_wait<0>();
      keep(scores);
      keys.release(0);
      rows.hide(scores, 0);
      softmax.soften(scores, slope);
      round_weights(weights, scores);
      if (rows.side == 1 && at.tiles > 1) named_arrive(kTurnBarrier, 256);  // the first turn is that of side 0
      for (int j = 1; j < at.tiles; ++j) {
        keys.wait(j);
        named_sync(kTurnBarrier + rows.side, 256);
        multiply_keys(j);
        values.wait(j - 1);
        add_values(j - 1);
        if (rows.side == 0 || j + 1 < at.tiles) named_arrive(kTurnBarrier + 1 - rows.side, 256);
        wgmma_wait<1>();
        keep(scores);
        keys.release(j);
        rows.hide(scores, j * kWgmmaRows);
        softmax.soften(scores, slope);
        wgmma_wait<0>();
        keep(sums);
        values.release(j - 1);
        softmax.correct(sums);
        round_weights(weights, scores);
      }
      const int last = at.tiles - 1, left = at.end - last * kWgmmaRows;
      values.wait(last);
      if (left < kWgmmaRows && at.end < a.keys) {
        clear_keys<dim>(values.tile(last), left);
        end_clearing();
      }
      add_values(last);
      wgmma_wait<0>();
      keep(sums);
    }
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float all = quad_reduce(softmax.total[half], Add{});
      factor[half] = all == 0 ? 0.0f : 1.0f / all;
      if (lse && rows.pair == 0 && rows.row(half) < at.valid)
        lse[a.statistic_at(at.b, at.g, at.first + rows.row(half))] = all == 0 ? -INFINITY : fmaf(softmax.top[half], a.scale, logf(all));
    }
    store_pairs<dim>(a.size, out, [&](int half) { return rows.result_at(half); },
                     [&](int half, int j) { return make_float2(sums[4 * j + 2 * half] * factor[half], sums[4 * j + 2 * half + 1] * factor[half]); });
  }
#endif
}

template <int dim>
void launch_attention(const Context& context, const CUtensorMap& k_map, const CUtensorMap& v_map, const Attention& a, const Floats& q, const Floats& out, float* lse) {
  const auto blocks = static_cast<unsigned>(a.batch * a.groups * ceil_divide(a.rows, kWgmmaRows));
  launch(context, {blocks, kWgmmaThreads, size_t{(1 + 2 * kStages<dim>) * kWgmmaTileBytes<dim>} + 1024}, attention_forward_wgmma_kernel<dim>, k_map, v_map, a, q, out, lse);
}

}  // namespace

bool attention_forward_wgmma(const Context& context, const Attention& a, const Floats& q, const Rows<bf16>& k, const Rows<bf16>& v, const Floats& out, float* lse) {
  if (!suits_wgmma(context, a)) return false;
  const CUtensorMap k_map = encode_keys(a, k), v_map = encode_keys(a, v);
  if (a.size <= 64) launch_attention<64>(context, k_map, v_map, a, q, out, lse);
  else launch_attention<128>(context, k_map, v_map, a, q, out, lse);
  return true;
}

}  // namespace trefoil::cuda
