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

struct CacheShape {
  int64_t batch, length, heads, groups, half, capacity, limit;
};

// Queries, keys and values of each token stand one after another: queries and keys are rotated, keys and values go to their caches. Each block
// looks at all positions before it writes: with a bad one nothing changes. An item is one pair, or (vector) four.
template <bool vector>
__global__ void __launch_bounds__(256) rope_to_cache_kernel(Floats x, const float* cosine, const float* sine, const int32_t* positions, const int32_t* start, Floats query,
                                                            Floats keys, Floats values, CacheShape shape, ErrorRecord* errors) {
  const int64_t tokens = shape.batch * shape.length, all = shape.heads + 2 * shape.groups, size = 2 * shape.half;
  bool bad = errors->set != 0;
  for (int64_t token = threadIdx.x; token < tokens; token += blockDim.x)
    bad |= !index_in_range(errors, Checked::rope_to_cache_position, positions[token], token, 0, shape.limit, shape.length);
  for (int64_t b = threadIdx.x; b < shape.batch; b += blockDim.x)
    bad |= !index_in_range(errors, Checked::rope_to_cache_start, start[b], b, 0, shape.capacity - shape.length + 1);
  if (__syncthreads_or(bad)) return;
  constexpr int kPairs = vector ? 4 : 1;
  const int64_t per_head = shape.half / kPairs, items = tokens * all * per_head;
  for (int64_t item = first_index(); item < items; item += index_stride()) {
    const int64_t row = item / per_head, token = row / all, head = row - token * all, i = (item - row * per_head) * kPairs;
    const bool is_query = head < shape.heads, is_value = head >= shape.heads + shape.groups;
    const int64_t b = token / shape.length, cached = (b * shape.capacity + start[b] + (token - b * shape.length)) * shape.groups;
    const Floats to = is_query ? query : is_value ? values : keys;
    if (!to) continue;
    const int64_t at = (is_query ? token * shape.heads + head : cached + head - shape.heads - (is_value ? shape.groups : 0)) * size + i, from = row * size + i;
    const float *c = cosine + positions[token] * shape.half + i, *s = sine + positions[token] * shape.half + i;
    if constexpr (vector) {
      float4 u = x.load4(from), v = x.load4(from + shape.half);
      if (!is_value) {
        const float4 cc = load4(c), ss = load4(s), p = u, q = v;
        rotate(p.x, q.x, cc.x, ss.x, u.x, v.x);
        rotate(p.y, q.y, cc.y, ss.y, u.y, v.y);
        rotate(p.z, q.z, cc.z, ss.z, u.z, v.z);
        rotate(p.w, q.w, cc.w, ss.w, u.w, v.w);
      }
      to.store4(at, u);
      to.store4(at + shape.half, v);
    } else {
      float u = x.load(from), v = x.load(from + shape.half);
      if (!is_value) rotate(u, v, *c, *s, u, v);
      to.store(at, u);
      to.store(at + shape.half, v);
    }
  }
}

void rope_to_cache(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView &x = args.inputs[0], &keys = args.inputs[4], &values = args.inputs[5];
  if (elements(x) == 0) return;
  CacheShape shape{x.shape[0], x.shape[1], 0, keys.shape[2], keys.shape[3] / 2, keys.shape[1], args.inputs[1].shape[0]};
  const int64_t size = keys.shape[3];
  shape.heads = size > 0 ? x.shape[2] / size - 2 * shape.groups : 0;
  if (shape.heads < 0 || (shape.heads + 2 * shape.groups) * size != x.shape[2] || keys.shape[0] != shape.batch || elements(values) != elements(keys) ||
      values.dtype != keys.dtype || elements(args.inputs[3]) != shape.batch * shape.length || elements(args.inputs[6]) != shape.batch || args.inputs[1].shape[1] != shape.half)
    fail(TREFOIL_INVALID_ARGUMENT, "rope_to_cache_: rows, table, positions and caches do not fit each other");
  const bool vector = shape.half % 4 == 0;
  launch(context, {context.grid(elements(x) / (vector ? 8 : 2), 256), 256}, vector ? rope_to_cache_kernel<true> : rope_to_cache_kernel<false>, Floats(x),
         data<float>(args.inputs[1]), data<float>(args.inputs[2]), data<int32_t>(args.inputs[3]), data<int32_t>(args.inputs[6]), Floats(args.outputs[0]), Floats(keys),
         Floats(values), shape, context.errors);
}

}  // namespace

extern const KernelEntry rope_kernels[] = {{"rope", rope, nullptr}, {"rope_to_cache_", rope_to_cache, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
