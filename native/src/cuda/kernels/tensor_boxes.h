// What the copy engine (TMA) is told of tensors of bf16 or f32: boxes of rows of 128 bytes, swizzled as wgmma.h describes them.
#pragma once
#include "error.h"
#include "floats.h"
#include "tensor_map.h"
#include "trefoil/backend.h"

namespace trefoil::cuda {

// Sizes fastest first, strides of the others in elements; zeros arrive for what lies outside. What the driver refuses is an error: another
// kernel in its place would go unnoticed.
template <int rank>
CUtensorMap encode_boxes(const Floats& data, const int64_t (&sizes)[rank], const int64_t (&strides)[rank - 1], const int (&box)[rank]) {
  static const EncodeTensorMap encode = find_encode_tensor_map();
  if (!encode) fail(TREFOIL_INTERNAL, "TREFOIL_CUDA_WGMMA=1 needs a driver that describes tensors to the copy engine (12.0 or newer): update it, or leave the setting out");
  CUtensorMap map;
  cuuint64_t size[rank], stride[rank - 1];
  cuuint32_t shape[rank], step[rank];
  for (int i = 0; i < rank; ++i) {
    size[i] = static_cast<cuuint64_t>(sizes[i]);
    shape[i] = static_cast<cuuint32_t>(box[i]);
    step[i] = 1;
    if (i > 0) stride[i - 1] = static_cast<cuuint64_t>(strides[i - 1]) * (data.half ? 2 : 4);
  }
  const auto result = encode(&map, data.half ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32, rank, data.data, size, stride, shape, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    fail(TREFOIL_INTERNAL, "the driver refuses a tensor of %lld x %lld x … for the copy engine (error %d): TREFOIL_CUDA_WGMMA=0 goes without it", static_cast<long long>(sizes[0]),
         static_cast<long long>(sizes[1]), static_cast<int>(result));
  return map;
}

}  // namespace trefoil::cuda
