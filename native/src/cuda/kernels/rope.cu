// Rotary position embedding (Su et al. 2021, arXiv 2104.09864): rotates pairs of each head by the angle of the token's position.
#include "floats.h"

namespace trefoil::cuda {

namespace {

struct RopeShape {
  int64_t heads, half, limit, items, length;
  float sign;
};

__device__ __forceinline__ void rotate(float u, float v, float c, float s, float& to_u, float& to_v) {
  to_u = u * c - v * s;
  to_v = v * c + u * s;
}

// An item is one pair, or (vector, pairs of halves) four neighbouring pairs of a head.
template <bool vector, bool interleaved, class X, class Y>
__global__ void rope_kernel(const X* x, const float* cosine, const float* sine, const int32_t* positions, Y* y, RopeShape shape,
                            ErrorRecord* errors) {
  const int64_t per_head = vector ? shape.half / 4 : shape.half;
  for (int64_t item = first_index(); item < shape.items; item += index_stride()) {
    const int64_t head = item / per_head, token = head / shape.heads;
    const int64_t i = (item - head * per_head) * (vector ? 4 : 1);
    const int64_t position = positions[token];
    if (!index_in_range(errors, Checked::rope_position, position, token, 0, shape.limit, shape.length)) continue;
    const float *c = cosine + position * shape.half + i, *s = sine + position * shape.half + i;
    const int64_t at = head * 2 * shape.half;
    if constexpr (vector) {
      const float4 u = load4(x + at + i), v = load4(x + at + shape.half + i), cc = load4(c);
      float4 ss = load4(s), to_u, to_v;
      ss = make_float4(ss.x * shape.sign, ss.y * shape.sign, ss.z * shape.sign, ss.w * shape.sign);
      rotate(u.x, v.x, cc.x, ss.x, to_u.x, to_v.x);
      rotate(u.y, v.y, cc.y, ss.y, to_u.y, to_v.y);
      rotate(u.z, v.z, cc.z, ss.z, to_u.z, to_v.z);
      rotate(u.w, v.w, cc.w, ss.w, to_u.w, to_v.w);
      store4(y + at + i, to_u);
      store4(y + at + shape.half + i, to_v);
    } else if constexpr (interleaved) {
      const float2 pair = load2(x + at + 2 * i);
      float2 turned;
      rotate(pair.x, pair.y, *c, *s * shape.sign, turned.x, turned.y);
      store2(y + at + 2 * i, turned);
    } else {
      float u, v;
      rotate(widen(x[at + i]), widen(x[at + shape.half + i]), *c, *s * shape.sign, u, v);
      y[at + i] = narrow<Y>(u);
      y[at + shape.half + i] = narrow<Y>(v);
    }
  }
}

void rope(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView& x = args.inputs[0];
  RopeShape shape{x.shape[2], x.shape[3] / 2, args.inputs[1].shape[0], elements(x) / 2, x.shape[1], args.attributes[0] != 0 ? -1.0f : 1.0f};
  if (shape.items == 0) return;
  const bool interleaved = args.attributes[1] != 0, vector = !interleaved && shape.half % 4 == 0;
  if (vector) shape.items /= 4;
  with_floats(x, args.outputs[0], [&]<class X, class Y>(X* from, Y* to) {
    const auto kernel = vector ? rope_kernel<true, false, X, Y> : interleaved ? rope_kernel<false, true, X, Y> : rope_kernel<false, false, X, Y>;
    launch(context, {context.grid(shape.items, 256), 256}, kernel, from, data<float>(args.inputs[1]), data<float>(args.inputs[2]),
           data<int32_t>(args.inputs[3]), to, shape, context.errors);
  });
}

}  // namespace

extern const KernelEntry rope_kernels[] = {{"rope", rope, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
