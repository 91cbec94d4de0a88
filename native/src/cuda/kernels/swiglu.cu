// SwiGLU on rows [gate, up] of 2F (Shazeer 2020, arXiv 2002.05202): silu(gate) * up.
#include "floats.h"

namespace trefoil::cuda {

namespace {

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

__device__ __forceinline__ void gradients(float gate, float up, float dy, float& dgate, float& dup) {
  const float s = 1.0f / (1.0f + expf(-gate)), value = gate * s;
  // d silu / d gate = s (1 + gate (1 - s)) = s + silu (1 - s)
  dgate = dy * up * (s + value * (1.0f - s));
  dup = dy * value;
}

// Items are one element, or (vector) four neighbours; f counts items per row.
template <bool vector, class X, class Y>
__global__ void swiglu_kernel(const X* x, Y* y, int64_t items, int64_t f) {
  for (int64_t item = first_index(); item < items; item += index_stride()) {
    const int64_t row = item / f, column = item - row * f;
    if constexpr (vector) {
      const float4 gate = load4(x + (row * 2 * f + column) * 4), up = load4(x + (row * 2 * f + f + column) * 4);
      store4(y + item * 4, make_float4(silu(gate.x) * up.x, silu(gate.y) * up.y, silu(gate.z) * up.z, silu(gate.w) * up.w));
    } else {
      y[item] = narrow<Y>(silu(widen(x[row * 2 * f + column])) * widen(x[row * 2 * f + f + column]));
    }
  }
}

template <bool vector, class X, class Dx>
__global__ void swiglu_grad_kernel(const X* x, Floats dy, Dx* dx, int64_t items, int64_t f) {
  for (int64_t item = first_index(); item < items; item += index_stride()) {
    const int64_t row = item / f, column = item - row * f, gate_at = row * 2 * f + column, up_at = gate_at + f;
    if constexpr (vector) {
      const float4 gate = load4(x + gate_at * 4), up = load4(x + up_at * 4), d = dy.load4(item * 4);
      float4 dgate, dup;
      gradients(gate.x, up.x, d.x, dgate.x, dup.x);
      gradients(gate.y, up.y, d.y, dgate.y, dup.y);
      gradients(gate.z, up.z, d.z, dgate.z, dup.z);
      gradients(gate.w, up.w, d.w, dgate.w, dup.w);
      store4(dx + gate_at * 4, dgate);
      store4(dx + up_at * 4, dup);
    } else {
      float dgate, dup;
      gradients(widen(x[gate_at]), widen(x[up_at]), dy.load(item), dgate, dup);
      dx[gate_at] = narrow<Dx>(dgate);
      dx[up_at] = narrow<Dx>(dup);
    }
  }
}

void swiglu(const Context& context, const TrefoilLaunch& args) {
  const int64_t count = elements(args.outputs[0]), f = last_dimension(args.outputs[0]);
  if (count == 0) return;
  with_floats(args.inputs[0], args.outputs[0], [&]<class X, class Y>(X* x, Y* y) {
    if (f % 4 == 0)
      launch(context, {context.grid(count / 4, 256), 256}, swiglu_kernel<true, X, Y>, x, y, count / 4, f / 4);
    else
      launch(context, {context.grid(count, 256), 256}, swiglu_kernel<false, X, Y>, x, y, count, f);
  });
}

void swiglu_grad(const Context& context, const TrefoilLaunch& args) {
  const int64_t count = elements(args.inputs[1]), f = last_dimension(args.inputs[1]);
  if (count == 0) return;
  const Floats dy(args.inputs[1]);
  with_floats(args.inputs[0], args.outputs[0], [&]<class X, class Dx>(X* x, Dx* dx) {
    if (f % 4 == 0)
      launch(context, {context.grid(count / 4, 256), 256}, swiglu_grad_kernel<true, X, Dx>, x, dy, dx, count / 4, f / 4);
    else
      launch(context, {context.grid(count, 256), 256}, swiglu_grad_kernel<false, X, Dx>, x, dy, dx, count, f);
  });
}

}  // namespace

extern const KernelEntry swiglu_kernels[] = {{"swiglu", swiglu, nullptr}, {"swiglu_grad", swiglu_grad, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
