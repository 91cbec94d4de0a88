// Keys and values of one key-value head as blocks of rows walk them: a tile of each at a time, the next on its way meanwhile.
#pragma once
#include "attention_bf16.h"
#include "attention_tile.h"

namespace trefoil::cuda {

template <int dim, int tile>
class AttentionKeys {
 public:
  // Keys before `end`; stages: [2][k then v][tile x dim] in shared memory.
  __device__ __forceinline__ AttentionKeys(const Attention& a, const Rows<bf16>& k, const Rows<bf16>& v, int64_t b, int64_t g, int end, bf16* stages)
      : k_(k.data), v_(v.data), at_((b * a.keys * a.groups + g) * k.stride), stages_(stages), stride_(static_cast<int>(k.stride)),
        step_(static_cast<int>(a.groups) * stride_), end_(end) {}
  // The tile that begins at key `from`: to be waited for.
  __device__ __forceinline__ void copy(int from) const {
    if (from < end_) {
      bf16* to = keys(from);
      const int thread = static_cast<int>(threadIdx.x);
      AttentionTile<dim>::template copy<tile>(to, k_ + at_ + static_cast<int64_t>(from) * step_, step_, end_ - from, stride_, thread);
      AttentionTile<dim>::template copy<tile>(to + tile * dim, v_ + at_ + static_cast<int64_t>(from) * step_, step_, end_ - from, stride_, thread);
    }
    copy_async_commit();
  }
  __device__ __forceinline__ bf16* keys(int from) const { return stages_ + from / tile % 2 * 2 * tile * dim; }
  __device__ __forceinline__ const bf16* values(int from) const { return keys(from) + tile * dim; }

 private:
  const bf16 *k_, *v_;
  int64_t at_;
  bf16* stages_;
  int stride_, step_, end_;
};

// Scores of keys from..+8n: what a row (`half` of the fragments) does not see becomes -inf. segments null: `limit` alone decides.
template <int n>
__device__ __forceinline__ void hide_keys(float (&scores)[n][4], int half, int from, int limit, const int32_t* segments, int32_t segment) {
  const int pair = lane_index() % 4 * 2;
#pragma unroll
  for (int j = 0; j < n; ++j)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int key = from + 8 * j + pair + i;
      if (key >= limit || (segments && segments[key] != segment)) scores[j][2 * half + i] = -INFINITY;
    }
}

}  // namespace trefoil::cuda
