// What the gradients of attention by wgmma share: q and dout as BackwardRows lays them out, as the copy engine (TMA) is told of them.
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

#endif

}  // namespace trefoil::cuda
