// SwiGLU on rows [gate, up] of 2F (Shazeer 2020, arXiv 2002.05202): silu(gate) * up.
#include "divisor.h"
#include "floats.h"
#include "hopper.h"

namespace trefoil::cuda {

namespace {

__device__ __forceinline__ float silu(float x) { return x * reciprocal_fast(1.0f + expf(-x)); }

__device__ __forceinline__ void gradients(float gate, float up, float dy, float& dgate, float& dup) {
  const float s = reciprocal_fast(1.0f + expf(-gate)), value = gate * s;
  // d silu / d gate = s (1 + gate (1 - s)) = s + silu (1 - s)
  dgate = dy * up * (s + value * (1.0f - s));
  dup = dy * value;
}

// Items are `width` neighbours; f counts items per row.
template <int width, class X, class Y>
__global__ void __launch_bounds__(kLoopThreads, kLoopBlocks) swiglu_kernel(const X* x, Y* y, int64_t items, Divisor f) {
  let_next_start();
  wait_for_previous();
  for (int64_t item = first_index(); item < items; item += index_stride()) {
    const X* at = x + (item + f.divide(item).quotient * f.value) * width;
    const Vector<width> gate = load_vector<width>(at), up = load_vector<width>(at + f.value * width);
    Vector<width> result;
#pragma unroll
    for (int i = 0; i < width; ++i) result[i] = silu(gate[i]) * up[i];
    store_vector(y + item * width, result);
  }
}

template <int width, class X, class Dx>
__global__ void __launch_bounds__(kLoopThreads, kLoopBlocks) swiglu_grad_kernel(const X* x, Floats dy, Dx* dx, int64_t items, Divisor f) {
  for (int64_t item = first_index(); item < items; item += index_stride()) {
    const int64_t gate_at = (item + f.divide(item).quotient * f.value) * width, up_at = gate_at + f.value * width;
    const Vector<width> gate = load_vector<width>(x + gate_at), up = load_vector<width>(x + up_at), d = dy.load_vector<width>(item * width);
    Vector<width> dgate, dup;
#pragma unroll
    for (int i = 0; i < width; ++i) gradients(gate[i], up[i], d[i], dgate[i], dup[i]);
    store_vector(dx + gate_at, dgate);
    store_vector(dx + up_at, dup);
  }
}

// run(std::integral_constant<int, width>): as many neighbours to an item as results and rows of f allow.
template <class Result, class Run>
void with_width(int64_t f, const Run& run) {
  if (f % kVectorWidth<Result> == 0) run(std::integral_constant<int, kVectorWidth<Result>>{});
  else run(std::integral_constant<int, 1>{});
}

void swiglu(const Context& context, const TrefoilLaunch& args) {
  const int64_t count = elements(args.outputs[0]), f = last_dimension(args.outputs[0]);
  if (count == 0) return;
  with_floats(args.inputs[0], args.outputs[0], [&]<class X, class Y>(X* x, Y* y) {
    with_width<Y>(f, [&](auto width) {
      launch(context, early({context.grid(count / width, kLoopThreads, kLoopBlocks), kLoopThreads}), swiglu_kernel<width(), X, Y>, x, y, count / width, Divisor(f / width));
    });
  });
}

void swiglu_grad(const Context& context, const TrefoilLaunch& args) {
  const int64_t count = elements(args.inputs[1]), f = last_dimension(args.inputs[1]);
  if (count == 0) return;
  const Floats dy(args.inputs[1]);
  with_floats(args.inputs[0], args.outputs[0], [&]<class X, class Dx>(X* x, Dx* dx) {
    with_width<Dx>(f, [&](auto width) {
      launch(context, {context.grid(count / width, kLoopThreads, kLoopBlocks), kLoopThreads}, swiglu_grad_kernel<width(), X, Dx>, x, dy, dx, count / width, Divisor(f / width));
    });
  });
}

}  // namespace

extern const KernelEntry swiglu_kernels[] = {{"swiglu", swiglu, nullptr}, {"swiglu_grad", swiglu_grad, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
