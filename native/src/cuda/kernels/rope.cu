// Rotary position embedding (Su et al. 2021, arXiv 2104.09864): rotates pairs of each head by the angle of the token's position.
#include "divisor.h"
#include "floats.h"
#include "hopper.h"
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
  const bool interleaved = args.attributes[1] != 0;
  if (const int64_t limit = args.inputs[1].shape[0]; pairs == 0 || limit == 0)
    return check_index(context, Checked::rope_position, data<int32_t>(args.inputs[3]), elements(args.inputs[3]), 0, limit);
  with_floats(x, args.outputs[0], [&]<class X, class Y>(X* from, Y* to) {
    constexpr int kWidth = kVectorWidth<Y>;
    const int width = !interleaved && half % kWidth == 0 ? kWidth : 1;
    const RopeShape shape{Divisor(half / width), Divisor(x.shape[2]), half, args.inputs[1].shape[0], pairs / width, x.shape[1], args.attributes[0] != 0 ? -1.0f : 1.0f};
    const auto kernel = interleaved ? rope_kernel<1, true, X, Y> : width > 1 ? rope_kernel<kWidth, false, X, Y> : rope_kernel<1, false, X, Y>;
    launch(context, {context.grid(shape.items, kLoopThreads, kRopeBlocks), kLoopThreads}, kernel, from, data<float>(args.inputs[1]), data<float>(args.inputs[2]),
           data<int32_t>(args.inputs[3]), to, shape, context.errors);
  });
}

struct CacheShape {
  int64_t batch, heads, groups, half, capacity, limit;
  Divisor length, all;  // tokens of a sequence; heads of a token, of queries, keys and values
};

// Queries, keys and values of each token stand one after another: queries and keys are rotated, keys and values go to their caches. Each block
// looks at all positions before it writes: with a bad one nothing changes. An item is one pair, or (vector) four.
template <bool vector>
__global__ void __launch_bounds__(256) rope_to_cache_kernel(Floats x, const float* cosine, const float* sine, const int32_t* positions, const int32_t* start, Floats query,
                                                            Floats keys, Floats values, CacheShape shape, Divisor per_head, ErrorRecord* errors) {
  let_next_start();
  wait_for_previous();
  const int64_t tokens = shape.batch * shape.length.value, size = 2 * shape.half;
  bool bad = errors->set != 0;
  for (int64_t token = threadIdx.x; token < tokens; token += blockDim.x)
    bad |= !index_in_range(errors, Checked::rope_to_cache_position, positions[token], token, 0, shape.limit, shape.length.value);
  for (int64_t b = threadIdx.x; b < shape.batch; b += blockDim.x)
    bad |= !index_in_range(errors, Checked::rope_to_cache_start, start[b], b, 0, shape.capacity - shape.length.value + 1);
  if (__syncthreads_or(bad)) return;
  constexpr int kPairs = vector ? 4 : 1;
  const int64_t items = tokens * shape.all.value * per_head.value;
  for (int64_t item = first_index(); item < items; item += index_stride()) {
    const auto [row, part] = per_head.divide(item);
    const auto [token, head] = shape.all.divide(row);
    const auto [b, step] = shape.length.divide(token);
    const bool is_query = head < shape.heads, is_value = head >= shape.heads + shape.groups;
    const int64_t i = part * kPairs, cached = (b * shape.capacity + start[b] + step) * shape.groups;
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
  CacheShape shape{x.shape[0], 0, keys.shape[2], keys.shape[3] / 2, keys.shape[1], args.inputs[1].shape[0], Divisor(x.shape[1]), {}};
  const int64_t size = keys.shape[3];
  shape.heads = size > 0 ? x.shape[2] / size - 2 * shape.groups : 0;
  if (shape.heads < 0 || (shape.heads + 2 * shape.groups) * size != x.shape[2] || keys.shape[0] != shape.batch || elements(values) != elements(keys) ||
      values.dtype != keys.dtype || elements(args.inputs[3]) != shape.batch * shape.length.value || elements(args.inputs[6]) != shape.batch || args.inputs[1].shape[1] != shape.half)
    fail(TREFOIL_INVALID_ARGUMENT, "rope_to_cache_: rows, table, positions and caches do not fit each other");
  shape.all = Divisor(shape.heads + 2 * shape.groups);
  const bool vector = shape.half % 4 == 0;
  launch(context, early({context.grid(elements(x) / (vector ? 8 : 2), 256), 256}), vector ? rope_to_cache_kernel<true> : rope_to_cache_kernel<false>, Floats(x),
         data<float>(args.inputs[1]), data<float>(args.inputs[2]), data<int32_t>(args.inputs[3]), data<int32_t>(args.inputs[6]), Floats(args.outputs[0]), Floats(keys),
         Floats(values), shape, Divisor(shape.half / (vector ? 4 : 1)), context.errors);
}

}  // namespace

extern const KernelEntry rope_kernels[] = {{"rope", rope, nullptr}, {"rope_to_cache_", rope_to_cache, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
