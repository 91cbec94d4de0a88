// Rotary position embedding (Su et al. 2021, arXiv 2104.09864): rotates pairs of each head by the angle of the token's position.
#include "divisor.h"
#include "floats.h"
#include "index_check.h"

namespace trefoil::cuda {

namespace {

struct RopeShape {
  Divisor per_head, heads;  // items
  int64_t half, limit, items, length;
  float sign;
};

__device__ __forceinline__ void rotate(float u, float v, float c, float s, float& to_u, float& to_v) {
  const float turned = u * c - v * s;
  to_v = v * c + u * s;
  to_u = turned;
}

constexpr int kRopeBlocks = 5;  // 48 registers to a thread

// An item is `width` neighbouring pairs of a head; of interleaved ones, one.
template <int width, bool interleaved, class X, class Y>
__global__ void __launch_bounds__(kLoopThreads, kRopeBlocks) rope_kernel(const X* x, const float* cosine, const float* sine, const int32_t* positions, Y* y,
                                                                         RopeShape shape, ErrorRecord* errors) {
  for (int64_t item = first_index(); item < shape.items; item += index_stride()) {
    const Divided of_head = shape.per_head.divide(item);
    const int64_t token = shape.heads.divide(of_head.quotient).quotient, i = of_head.remainder * width, at = of_head.quotient * 2 * shape.half;
    const int32_t position = positions[token];
    // On their way before the position is there.
    Vector<width> u, v;
    if constexpr (interleaved) {
      const float2 pair = load2(x + at + 2 * i);
      u[0] = pair.x, v[0] = pair.y;
    } else {
      u = load_vector<width>(x + at + i), v = load_vector<width>(x + at + shape.half + i);
    }
    // A wrong position is reported, and the token turned by the first one: a way past what follows would have the loads above wait for it.
    const int64_t row = index_in_range(errors, Checked::rope_position, position, token, 0, shape.limit, shape.length) ? position : 0;
    const Vector<width> c = load_vector<width>(cosine + row * shape.half + i), s = load_vector<width>(sine + row * shape.half + i);
#pragma unroll
    for (int k = 0; k < width; ++k) rotate(u[k], v[k], c[k], s[k] * shape.sign, u[k], v[k]);
    if constexpr (interleaved) {
      store2(y + at + 2 * i, make_float2(u[0], v[0]));
    } else {
      store_vector(y + at + i, u);
      store_vector(y + at + shape.half + i, v);
    }
  }
}

void rope(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView& x = args.inputs[0];
  const int64_t half = x.shape[3] / 2, pairs = elements(x) / 2;
  if (pairs == 0) return;
  const bool interleaved = args.attributes[1] != 0;
  if (args.inputs[1].shape[0] == 0) return check_index(context, Checked::rope_position, data<int32_t>(args.inputs[3]), elements(args.inputs[3]), 0, 0);
  with_floats(x, args.outputs[0], [&]<class X, class Y>(X* from, Y* to) {
    constexpr int kWidth = kVectorWidth<Y>;
    const int width = !interleaved && half % kWidth == 0 ? kWidth : 1;
    const RopeShape shape{Divisor(half / width), Divisor(x.shape[2]), half, args.inputs[1].shape[0], pairs / width, x.shape[1], args.attributes[0] != 0 ? -1.0f : 1.0f};
    const auto kernel = interleaved ? rope_kernel<1, true, X, Y> : width > 1 ? rope_kernel<kWidth, false, X, Y> : rope_kernel<1, false, X, Y>;
    launch(context, {context.grid(shape.items, kLoopThreads, kRopeBlocks), kLoopThreads}, kernel, from, data<float>(args.inputs[1]), data<float>(args.inputs[2]),
           data<int32_t>(args.inputs[3]), to, shape, context.errors);
  });
}

}  // namespace

extern const KernelEntry rope_kernels[] = {{"rope", rope, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
