// CUDA C++ for kernel files: the toolkit's under nvcc, ours under a plain C++ compiler (the emulator of the tests).
#pragma once
#if defined(TREFOIL_CUDA_EMULATED)
#include "emulation/language.h"
#else
#include <cuda_runtime.h>

#include <cstdint>

namespace trefoil::cuda {

template <class T>
struct SameType {
  using type = T;
};

// Static shared memory: TREFOIL_SHARED(tile, float[32][33]) declares `tile`. Not zeroed.
#define TREFOIL_SHARED(name, ...) __shared__ typename ::trefoil::cuda::SameType<__VA_ARGS__>::type name

// The dynamic shared memory of the launch, 128-byte aligned.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char trefoil_dynamic_shared[];
  return reinterpret_cast<T*>(trefoil_dynamic_shared);
}

}  // namespace trefoil::cuda
#endif
