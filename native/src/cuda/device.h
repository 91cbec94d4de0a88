// What kernels share: vector loads, reductions over warps and blocks, grid-stride loops. All reductions have a fixed order.
#pragma once
#include "bf16.h"
#include "error_record.h"
#include "language.h"

namespace trefoil::cuda {

constexpr uint32_t kFullWarp = 0xffffffffu;
constexpr int kWarp = 32;

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x & 31u); }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x >> 5u); }

// 16 bytes at a time: the address must be a multiple of 16. Data pointers of views are multiples of 64.
__device__ __forceinline__ float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ void store4(float* p, float4 x) { *reinterpret_cast<float4*>(p) = x; }
// Four bf16 from 8 bytes.
__device__ __forceinline__ float4 load4(const bf16* p) {
  uint2 words = *reinterpret_cast<const uint2*>(p);
  return make_float4(__uint_as_float(words.x << 16), __uint_as_float(words.x & 0xffff0000u), __uint_as_float(words.y << 16),
                     __uint_as_float(words.y & 0xffff0000u));
}
__device__ __forceinline__ void store4(bf16* p, float4 x) { *reinterpret_cast<uint2*>(p) = make_uint2(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w)); }
// Two neighbours, from an even place.
__device__ __forceinline__ float2 load2(const float* p) { return *reinterpret_cast<const float2*>(p); }
__device__ __forceinline__ void store2(float* p, float2 x) { *reinterpret_cast<float2*>(p) = x; }
__device__ __forceinline__ float2 load2(const bf16* p) {
  const uint32_t word = *reinterpret_cast<const uint32_t*>(p);
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}
__device__ __forceinline__ void store2(bf16* p, float2 x) { *reinterpret_cast<uint32_t*>(p) = pack_bf16(x.x, x.y); }

// `width` neighbours from a multiple of it, 1, 4 or 8: with 8, 16 bytes of bf16 to a load.
template <int width>
struct Vector {
  float values[width];
  __device__ __forceinline__ float& operator[](int i) { return values[i]; }
  __device__ __forceinline__ float operator[](int i) const { return values[i]; }
};
template <class T>
constexpr int kVectorWidth = 16 / sizeof(T);

template <int width, class T>
__device__ __forceinline__ Vector<width> load_vector(const T* p) {
  Vector<width> v;
  if constexpr (width == 1) {
    v[0] = widen(*p);
  } else if constexpr (width == 8 && sizeof(T) == 2) {
    const uint4 words = *reinterpret_cast<const uint4*>(p);
    const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) v[2 * k] = __uint_as_float(pairs[k] << 16), v[2 * k + 1] = __uint_as_float(pairs[k] & 0xffff0000u);
  } else {
#pragma unroll
    for (int k = 0; k < width; k += 4) {
      const float4 four = load4(p + k);
      v[k] = four.x, v[k + 1] = four.y, v[k + 2] = four.z, v[k + 3] = four.w;
    }
  }
  return v;
}
// One store to global memory, of 16 or 8 bytes: of some assignments the compiler makes four or two.
__device__ __forceinline__ void store_whole(void* p, uint4 x) {
#if defined(__CUDA_ARCH__)
  asm("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
#else
  *static_cast<uint4*>(p) = x;
#endif
}
__device__ __forceinline__ void store_whole(void* p, uint2 x) {
#if defined(__CUDA_ARCH__)
  asm("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(p)), "r"(x.x), "r"(x.y) : "memory");
#else
  *static_cast<uint2*>(p) = x;
#endif
}

// p: in global memory.
template <int width, class T>
__device__ __forceinline__ void store_vector(T* p, const Vector<width>& v) {
  if constexpr (width == 1) {
    *p = narrow<T>(v[0]);
  } else if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int k = 0; k < width; k += 4)
      store_whole(p + k, make_uint4(__float_as_uint(v[k]), __float_as_uint(v[k + 1]), __float_as_uint(v[k + 2]), __float_as_uint(v[k + 3])));
  } else if constexpr (width == 4) {
    store_whole(p, make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3])));
  } else {
    store_whole(p, make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])));
  }
}

// 2^x to about 2^-22 of it; results below 2^-126 are 0.
__device__ __forceinline__ float exp2_fast(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

struct Add {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};
// NaN is ignored, as in softmax.
struct Largest {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// All lanes of the warp get the result. T: float, double, or a 4- or 8-byte integer.
template <class T, class Op>
__device__ __forceinline__ T warp_reduce(T value, Op op) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) value = op(value, __shfl_xor_sync(kFullWarp, value, offset));
  return value;
}
template <class T>
__device__ __forceinline__ T warp_sum(T value) { return warp_reduce(value, Add{}); }
__device__ __forceinline__ float warp_max(float value) { return warp_reduce(value, Largest{}); }

// The sum of this lane's value and those of the lanes before it.
template <class T>
__device__ __forceinline__ T warp_through(T value) {
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const T before = __shfl_up_sync(kFullWarp, value, static_cast<unsigned>(offset));
    if (lane_index() >= offset) value += before;
  }
  return value;
}

// All threads of the block get the result; every thread must call it. blockDim.x is a multiple of 32, the other dimensions are 1.
template <class T, class Op>
__device__ __forceinline__ T block_reduce(T value, T identity, Op op) {
  TREFOIL_SHARED(partial, T[32]);
  value = warp_reduce(value, op);
  __syncthreads();  // the last call's readers are done
  if (lane_index() == 0) partial[warp_index()] = value;
  __syncthreads();
  value = lane_index() < static_cast<int>(blockDim.x >> 5u) ? partial[lane_index()] : identity;
  return warp_reduce(value, op);
}
template <class T>
__device__ __forceinline__ T block_sum(T value) { return block_reduce(value, T(0), Add{}); }
__device__ __forceinline__ float block_max(float value) { return block_reduce(value, -INFINITY, Largest{}); }

// For a one-dimensional grid: i = first_index(); i < count; i += index_stride().
__device__ __forceinline__ int64_t first_index() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t index_stride() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

}  // namespace trefoil::cuda
