// Elements of any dtype to f32 and back, chosen at run time.
#pragma once
#include "kernel.h"

namespace trefoil::cuda {

__device__ __forceinline__ float load_as_f32(const void* data, int32_t dtype, int64_t i) {
  switch (dtype) {
    case TREFOIL_F32: return static_cast<const float*>(data)[i];
    case TREFOIL_BF16: return widen(static_cast<const bf16*>(data)[i]);
    case TREFOIL_I32: return static_cast<float>(static_cast<const int32_t*>(data)[i]);
    default: return static_cast<float>(static_cast<const uint8_t*>(data)[i]);
  }
}

// Truncates towards zero; what i32 cannot hold goes to its nearest end, NaN to 0.
__device__ __forceinline__ int32_t truncate_to_i32(float x) {
  if (x >= 2147483648.0f) return 0x7fffffff;
  if (x <= -2147483648.0f) return -0x7fffffff - 1;
  return x == x ? static_cast<int32_t>(x) : 0;
}

__device__ __forceinline__ void store_from_f32(void* data, int32_t dtype, int64_t i, float x) {
  switch (dtype) {
    case TREFOIL_F32: static_cast<float*>(data)[i] = x; break;
    case TREFOIL_BF16: static_cast<bf16*>(data)[i] = narrow<bf16>(x); break;
    case TREFOIL_I32: static_cast<int32_t*>(data)[i] = truncate_to_i32(x); break;
    default: {
      const int32_t value = truncate_to_i32(x);
      static_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
    }
  }
}

}  // namespace trefoil::cuda
