// Operands of f32 or bf16. Kernels that do little but load and store are templates over the type (with_floats); Floats tells them apart
// when a kernel runs, the same way for all threads: for the ends of kernels that are too large to be made once for each.
#pragma once
#include "kernel.h"

namespace trefoil::cuda {

struct Floats {
  void* data = nullptr;
  bool half = false;  // bf16

  Floats() = default;
  __host__ __device__ Floats(const float* f32) : data(const_cast<float*>(f32)) {}
  __host__ __device__ Floats(const bf16* half) : data(const_cast<bf16*>(half)), half(true) {}
  explicit Floats(const TrefoilView& view) : data(view.data), half(view.dtype == TREFOIL_BF16) {}

  __host__ __device__ explicit operator bool() const { return data != nullptr; }
  // The same from element `at` on.
  __host__ __device__ Floats from(int64_t at) const {
    Floats moved = *this;
    moved.data = static_cast<char*>(data) + at * (half ? 2 : 4);
    return moved;
  }

  __device__ __forceinline__ float load(int64_t at) const {
    return half ? widen(static_cast<const bf16*>(data)[at]) : static_cast<const float*>(data)[at];
  }
  __device__ __forceinline__ void store(int64_t at, float x) const {
    if (half) static_cast<bf16*>(data)[at] = narrow<bf16>(x);
    else static_cast<float*>(data)[at] = x;
  }
  // Two neighbours, `at` even.
  __device__ __forceinline__ void store2(int64_t at, float2 x) const {
    if (half) cuda::store2(static_cast<bf16*>(data) + at, x);
    else cuda::store2(static_cast<float*>(data) + at, x);
  }
  // Four neighbours, `at` a multiple of four.
  __device__ __forceinline__ float4 load4(int64_t at) const {
    return half ? cuda::load4(static_cast<const bf16*>(data) + at) : cuda::load4(static_cast<const float*>(data) + at);
  }
  __device__ __forceinline__ void store4(int64_t at, float4 x) const {
    if (half) cuda::store4(static_cast<bf16*>(data) + at, x);
    else cuda::store4(static_cast<float*>(data) + at, x);
  }
  // 1, 4 or 8 neighbours, `at` a multiple of that.
  template <int width>
  __device__ __forceinline__ void store_vector(int64_t at, const Vector<width>& x) const {
    if (half) cuda::store_vector(static_cast<bf16*>(data) + at, x);
    else cuda::store_vector(static_cast<float*>(data) + at, x);
  }
};

inline Floats optional_floats(const TrefoilView* views, int count, int index) { return index < count ? Floats(views[index]) : Floats(); }

// run(pointer) with the operand as float* or bf16*, as it is stored.
template <class Run>
void with_floats(const TrefoilView& view, const Run& run) {
  if (view.dtype == TREFOIL_BF16) run(data<bf16>(view));
  else run(data<float>(view));
}
template <class Run>
void with_floats(const TrefoilView& first, const TrefoilView& second, const Run& run) {
  with_floats(first, [&](auto* x) { with_floats(second, [&](auto* y) { run(x, y); }); });
}

}  // namespace trefoil::cuda
