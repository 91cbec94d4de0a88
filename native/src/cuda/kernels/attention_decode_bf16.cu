// Attention of a few rows over many keys (decoding): bound by reading keys and values once. Keys are cut into parts, a block to each;
// its four warps walk tiles of 16 keys of their own, as they are stored (f32 or bf16), several copies ahead. Parts meet in order.
#include <algorithm>

#include "attention_bf16.h"
#include "attention_tile.h"
#include "hopper.h"

namespace trefoil::cuda {

namespace {

constexpr int kKeys = 16, kRows = 16, kWarps = kAttentionThreads / kWarp;

// A warp's tile of 16 keys or values as stored, and its fragments of B.
template <int dim, class T, bool values>
struct KeyTile;

template <int dim, bool values>
struct KeyTile<dim, bf16, values> {
  static constexpr int kElements = kKeys * dim;
  static __device__ __forceinline__ void copy(bf16* tile, const bf16* from, int step, int valid, int columns) {
    AttentionTile<dim>::template copy<kKeys, kWarp>(tile, from, step, valid, columns, lane_index());
  }
  static __device__ __forceinline__ void fragment(uint32_t (&to)[4], const bf16* tile, int column) {
    if constexpr (values) AttentionTile<dim>::right_transposed(to, tile, 0, column);
    else AttentionTile<dim>::right(to, tile, 0, column);
  }
};

template <int dim, bool values>
struct KeyTile<dim, float, values> {
  static constexpr int kPitch = dim + (values ? 4 : 8);  // lanes of a load in different banks
  static constexpr int kElements = kKeys * kPitch;
  static __device__ __forceinline__ void copy(float* tile, const float* from, int step, int valid, int columns) {
#pragma unroll
    for (int i = 0; i < kKeys * dim / 4 / kWarp; ++i) {
      const int at = lane_index() + i * kWarp, row = at / (dim / 4), column = at % (dim / 4) * 4;
      const bool there = row < valid && column < columns;
      copy_async_16(tile + row * kPitch + column, there ? from + row * step + column : from, there);
    }
  }
  static __device__ __forceinline__ void fragment(uint32_t (&to)[4], const float* tile, int column) {
    const int group = lane_index() / 4, pair = lane_index() % 4 * 2;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int along_n = group + i / 2 * 8, along_k = pair + i % 2 * 8;
      if constexpr (values) {
        const float* at = tile + along_k * kPitch + column + along_n;
        to[i] = pack_bf16(at[0], at[kPitch]);
      } else {
        const float2 x = *reinterpret_cast<const float2*>(tile + along_n * kPitch + column + along_k);
        to[i] = pack_bf16(x.x, x.y);
      }
    }
  }
};

// Bytes under way are what hides the latency of memory; f32 stages are twice as large.
template <class T>
constexpr int kCopyStages = sizeof(T) == 2 ? 3 : 2;

// What a part of the keys leaves for every row: sums [dim], then the largest score (in units of log 2) and the total.
__device__ __forceinline__ int64_t part_at(const Attention& a, int64_t part, int64_t head, int64_t row) {
  return ((part * a.batch * a.groups + head) * a.rows + row) * (a.size + 2);
}

__device__ __forceinline__ void store_row(const Attention& a, int64_t head, int64_t row, float top, float total, float* lse) {
  if (lse) lse[a.statistic_at(head / a.groups, head % a.groups, row)] = total == 0 ? -INFINITY : top * kLn2 + logf(total);
}

template <int dim, class T>
__global__ void __launch_bounds__(kAttentionThreads) decode_kernel(Attention a, Floats q, Rows<T> k, Rows<T> v, int parts, float* partial, Floats out, float* lse, ErrorRecord* errors) {
  using Keys = KeyTile<dim, T, false>;
  using Values = KeyTile<dim, T, true>;
  let_next_start();
  wait_for_previous();
  constexpr int kStages = kCopyStages<T>, kStage = Keys::kElements + Values::kElements;
  T* stages = dynamic_shared<T>() + warp_index() * kStages * kStage;
  const int64_t head = blockIdx.x, b = head / a.groups, g = head - b * a.groups, n = a.length(b);
  const int rows = static_cast<int>(a.rows), part = static_cast<int>(blockIdx.y);
  if (a.key_lengths && g == 0 && part == 0 && threadIdx.x == 0) index_in_range(errors, Checked::attention_key_lengths, a.key_lengths[b], b, 0, a.keys + 1);
  // Whole rounds of the four warps to a part.
  constexpr int kRound = kKeys * kWarps;
  const int length = static_cast<int>((n + static_cast<int64_t>(parts) * kRound - 1) / (static_cast<int64_t>(parts) * kRound)) * kRound;
  const int64_t begin = static_cast<int64_t>(part) * length;
  const int end = static_cast<int>(begin + length < n ? begin + length : n), start = static_cast<int>(begin) + warp_index() * kKeys;
  const int stride = static_cast<int>(k.stride), key_step = static_cast<int>(a.groups) * stride;
  const int64_t keys_at = (b * a.keys * a.groups + g) * stride;

  auto copy_keys = [&](int step) {
    const int from = start + step * kRound;
    if (from < end) {
      T* to = stages + step % kStages * kStage;
      Keys::copy(to, k.data + keys_at + static_cast<int64_t>(from) * key_step, key_step, end - from, stride);
      Values::copy(to + Keys::kElements, v.data + keys_at + static_cast<int64_t>(from) * key_step, key_step, end - from, stride);
    }
    copy_async_commit();
  };
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) copy_keys(step);

  const int group = lane_index() / 4, pair = lane_index() % 4 * 2;
  uint32_t queries[dim / 16][4];
  int row_end[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = group + 8 * half;
    row_end[half] = row < rows ? static_cast<int>(a.limit(n, row / a.shared_heads)) : 0;
    if (row_end[half] > end) row_end[half] = end;
    const bool there = row < rows;
    const Floats from = q.from(there ? a.row_at(b, g, row) : 0);
#pragma unroll
    for (int d = 0; d < dim / 8; ++d) {
      const int column = 8 * d + pair;
      const float low = there && column < a.size ? from.load(column) : 0.0f, high = there && column + 1 < a.size ? from.load(column + 1) : 0.0f;
      queries[d / 2][d % 2 * 2 + half] = pack_bf16(low, high);
    }
  }
  const float slope = a.scale * kLog2E;
  float sums[dim / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, total[2] = {};
  for (int step = 0; start + step * kRound < end; ++step) {
    copy_async_wait<kStages - 2>();
    __syncwarp();  // the tile has arrived for every lane, and the stage that is filled next has been read
    copy_keys(step + kStages - 1);
    const T *k_tile = stages + step % kStages * kStage, *v_tile = k_tile + Keys::kElements;
    float scores[2][4] = {};
#pragma unroll
    for (int d = 0; d < dim; d += 16) {
      uint32_t right[4];
      Keys::fragment(right, k_tile, d);
      const uint32_t low[2] = {right[0], right[1]}, high[2] = {right[2], right[3]};
      mma_bf16(scores[0], queries[d / 16], low);
      mma_bf16(scores[1], queries[d / 16], high);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = top[half];
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[j][2 * half + i];
          if (start + step * kRound + 8 * j + pair + i >= row_end[half]) score = -INFINITY;
          most = fmaxf(most, score * slope);
        }
      most = quad_reduce(most, Largest{});
      const float shift = most == -INFINITY ? 0.0f : most, correction = exp2_fast(top[half] - shift);
      top[half] = most;
      total[half] *= correction;
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[j][2 * half + i];
          score = exp2_fast(fmaf(score, slope, -shift));
          total[half] += score;
        }
#pragma unroll
      for (int d = 0; d < dim / 8; ++d) sums[d][2 * half] *= correction, sums[d][2 * half + 1] *= correction;
    }
    uint32_t weights[4];
    round_fragment(weights, scores[0], scores[1]);
#pragma unroll
    for (int d = 0; d < dim; d += 16) {
      uint32_t right[4];
      Values::fragment(right, v_tile, d);
      const uint32_t low[2] = {right[0], right[1]}, high[2] = {right[2], right[3]};
      mma_bf16(sums[d / 8], weights, low);
      mma_bf16(sums[d / 8 + 1], weights, high);
    }
  }
  copy_async_wait<0>();
  __syncthreads();  // all stages have been read: their place now holds what the warps have, [warps][rows][dim], then tops and totals
  constexpr int kPitch = dim + 2;
  float* gathered = dynamic_shared<float>();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float* row = gathered + (warp_index() * kRows + group + 8 * half) * kPitch;
#pragma unroll
    for (int d = 0; d < dim / 8; ++d) *reinterpret_cast<float2*>(row + 8 * d + pair) = make_float2(sums[d][2 * half], sums[d][2 * half + 1]);
    const float all = quad_reduce(total[half], Add{});
    if (pair == 0) row[dim] = top[half], row[dim + 1] = all;
  }
  __syncthreads();
  for (int row = warp_index(); row < rows; row += kWarps) {
    float most = -INFINITY, all = 0, factor[kWarps];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) most = fmaxf(most, gathered[(w * kRows + row) * kPitch + dim]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float* from = gathered + (w * kRows + row) * kPitch;
      factor[w] = most == -INFINITY ? 0.0f : exp2_fast(from[dim] - most);
      all += factor[w] * from[dim + 1];
    }
    const float divisor = parts > 1 || all == 0 ? 1.0f : all;
    const Floats to = parts > 1 ? Floats(partial + part_at(a, part, head, row)) : out.from(a.row_at(b, g, row));
    for (int d = lane_index(); d < a.size; d += kWarp) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += factor[w] * gathered[(w * kRows + row) * kPitch + d];
      to.store(d, sum / divisor);
    }
    if (lane_index() != 0) continue;
    if (parts > 1) to.store(a.size, most), to.store(a.size + 1, all);
    else store_row(a, head, row, most, all, lse);
  }
}

// The parts of a row together: one warp per row.
__global__ void __launch_bounds__(kAttentionThreads) join_kernel(Attention a, int parts, const float* partial, Floats out, float* lse) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kWarps + warp_index(), head = at / a.rows, row = at - head * a.rows;
  if (head >= a.batch * a.groups) return;
  float most = -INFINITY, all = 0;
  for (int part = 0; part < parts; ++part) most = fmaxf(most, partial[part_at(a, part, head, row) + a.size]);
  for (int part = 0; part < parts; ++part) {
    const float* from = partial + part_at(a, part, head, row);
    all += (most == -INFINITY ? 0.0f : exp2_fast(from[a.size] - most)) * from[a.size + 1];
  }
  if (lane_index() == 0) store_row(a, head, row, most, all, lse);
  for (int64_t d = lane_index(); d < a.size; d += kWarp) {
    float sum = 0;
    for (int part = 0; part < parts; ++part) {
      const float* from = partial + part_at(a, part, head, row);
      sum += (most == -INFINITY ? 0.0f : exp2_fast(from[a.size] - most)) * from[d];
    }
    out.store(a.row_at(head / a.groups, head % a.groups, row) + d, all == 0 ? 0.0f : sum / all);
  }
}

// Two blocks to each of 132 multiprocessors; a constant, so that results do not depend on the device. No part below 256 keys.
int choose_parts(const Attention& a) {
  const int64_t heads = a.batch * a.groups, wanted = ceil_divide(264, heads), most = ceil_divide(a.keys, 256);
  const int64_t parts = wanted < most ? wanted : most;
  return static_cast<int>(parts < 1 ? 1 : parts > 64 ? 64 : parts);
}

// Tiles of all warps, or (afterwards) what they have gathered.
template <int dim, class T>
constexpr size_t kDecodeShared = std::max(sizeof(T) * static_cast<size_t>(kWarps * kCopyStages<T> * (KeyTile<dim, T, false>::kElements + KeyTile<dim, T, true>::kElements)),
                                          sizeof(float) * static_cast<size_t>(kWarps * kRows * (dim + 2)));

template <class T>
void decode(const Context& context, Workspace& workspace, const Attention& a, const Rows<T>& k, const Rows<T>& v, const TrefoilLaunch& args) {
  const int parts = choose_parts(a);
  const int64_t heads = a.batch * a.groups;
  auto* partial = workspace.take<float>(parts > 1 ? parts * heads * a.rows * (a.size + 2) : 0);
  if (!workspace.running()) return;
  const Floats out(args.outputs[0]);
  float* lse = optional_output<float>(args, 1);
  with_head(a.size, [&](auto dim) {
    launch(context, early({dim3(static_cast<unsigned>(heads), static_cast<unsigned>(parts)), kAttentionThreads, kDecodeShared<dim(), T>}), decode_kernel<dim(), T>, a,
           Floats(args.inputs[0]), k, v, parts, partial, out, lse, context.errors);
  });
  if (parts > 1)
    launch(context, {static_cast<unsigned>(ceil_divide(heads * a.rows, kWarps)), kAttentionThreads}, join_kernel, a, parts, partial, out, lse);
}

}  // namespace

void attention_decode_bf16(const Context& context, Workspace& workspace, const Attention& a, const TrefoilLaunch& args) {
  const TrefoilView &k = args.inputs[1], &v = args.inputs[2];
  bool fits = false;  // 136 KiB for heads of 128 in f32: more than devices of compute capability 8.6 and 8.9 have
  with_head(a.size, [&](auto dim) { fits = kDecodeShared<dim(), float> <= context.shared_limit; });
  if (k.dtype == TREFOIL_F32 && v.dtype == TREFOIL_F32 && a.size % 4 == 0 && fits) {
    const auto rows = [&](const TrefoilView& view) { return Rows<float>{.data = data<float>(view), .stride = a.size}; };
    decode(context, workspace, a, rows(k), rows(v), args);
  } else {
    const Rows<bf16> keys = key_rows(context, workspace, a, k), values = key_rows(context, workspace, a, v);
    decode(context, workspace, a, keys, values, args);
  }
}

}  // namespace trefoil::cuda
