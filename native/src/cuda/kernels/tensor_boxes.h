// What the copy engine (TMA) is told of tensors of bf16: boxes of rows of 128 bytes, swizzled as wgmma.h describes them.
#pragma once
#include "bf16.h"
#include "tensor_map.h"

namespace trefoil::cuda {

// Sizes fastest first, strides of the others in elements; zeros arrive for what lies outside. False: the driver has no such map.
template <int rank>
bool encode_boxes(CUtensorMap& map, const bf16* data, const int64_t (&sizes)[rank], const int64_t (&strides)[rank - 1], const int (&box)[rank]) {
  static const EncodeTensorMap encode = find_encode_tensor_map();
  if (!encode) return false;
  cuuint64_t size[rank], stride[rank - 1];
  cuuint32_t shape[rank], step[rank];
  for (int i = 0; i < rank; ++i) {
    if (sizes[i] <= 0 || sizes[i] > INT32_MAX) return false;
    size[i] = static_cast<cuuint64_t>(sizes[i]);
    shape[i] = static_cast<cuuint32_t>(box[i]);
    step[i] = 1;
    if (i > 0) stride[i - 1] = static_cast<cuuint64_t>(strides[i - 1]) * sizeof(bf16);
  }
  return encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, rank, const_cast<bf16*>(data), size, stride, shape, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace trefoil::cuda
