// Rotary position embedding (Su et al. 2021, arXiv 2104.09864): rotates pairs of each head by the angle of the token's position.
#include <algorithm>

#include "convert.h"
#include "rows.h"

namespace trefoil::cpu::TREFOIL_ISA {

static void rotate(const float* u, const float* v, float* to_u, float* to_v, const float* cosine, const float* sine, int64_t pairs, float sign) {
  for_each_vector(pairs, [&](int64_t i, auto lanes) {
    Vec a = lanes.load(u + i), b = lanes.load(v + i);
    Vec c = lanes.load(cosine + i), s = lanes.load(sine + i) * splat(sign);
    lanes.store(to_u + i, fnma(b, s, a * c));
    lanes.store(to_v + i, fma(a, s, b * c));
  });
}

static void rotate_halves(const float* x, float* y, const float* cosine, const float* sine, int64_t half, float sign) {
  rotate(x, x + half, y, y + half, cosine, sine, half, sign);
}

static void rotate_halves_to_bf16(const float* x, void* y, int64_t at, const float* cosine, const float* sine, int64_t half) {
  constexpr int64_t kPairs = 64;
  float u[kPairs], v[kPairs];
  for (int64_t i = 0; i < half; i += kPairs) {
    const int64_t pairs = std::min(kPairs, half - i);
    rotate(x + i, x + half + i, u, v, cosine + i, sine + i, pairs, 1);
    narrow(TREFOIL_BF16, u, y, at + i, pairs);
    narrow(TREFOIL_BF16, v, y, at + half + i, pairs);
  }
}

static void rotate_neighbours(const float* x, float* y, const float* cosine, const float* sine, int64_t half, float sign) {
  for (int64_t i = 0; i < half; ++i) {
    float u = x[2 * i], v = x[2 * i + 1], c = cosine[i], s = sine[i] * sign;
    y[2 * i] = u * c - v * s;
    y[2 * i + 1] = v * c + u * s;
  }
}

static void rope(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView& view = launch.inputs[0];
  const float* x = data<float>(view);
  const float* cosine = data<float>(launch.inputs[1]);
  const float* sine = data<float>(launch.inputs[2]);
  const int32_t* positions = data<int32_t>(launch.inputs[3]);
  float* y = data<float>(launch.outputs[0]);
  int64_t tokens = view.shape[0] * view.shape[1], heads = view.shape[2], size = view.shape[3], half = size / 2;
  int64_t limit = launch.inputs[1].shape[0];
  float sign = launch.attributes[0] != 0 ? -1.0f : 1.0f;
  bool interleaved = launch.attributes[1] != 0;
  for (int64_t token = 0; token < tokens; ++token)
    if (positions[token] < 0 || positions[token] >= limit)
      fail(TREFOIL_INDEX_OUT_OF_RANGE, "rope: position %d at [%lld, %lld] is outside [0, %lld), the rows of cos and sin", positions[token],
           static_cast<long long>(token / view.shape[1]), static_cast<long long>(token % view.shape[1]), static_cast<long long>(limit));
  for_each_row(context, tokens, heads * size, [&](int64_t token) {
    const float *c = cosine + positions[token] * half, *s = sine + positions[token] * half;
    for (int64_t head = 0; head < heads; ++head) {
      int64_t at = (token * heads + head) * size;
      if (interleaved)
        rotate_neighbours(x + at, y + at, c, s, half, sign);
      else
        rotate_halves(x + at, y + at, c, s, half, sign);
    }
  });
}

// Queries, keys and values of each token stand one after another: queries and keys are rotated, keys and values go to their caches.
static void rope_to_cache(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &projected = launch.inputs[0], &keys = launch.inputs[4], &values = launch.inputs[5];
  const float *x = data<float>(projected), *cosine = data<float>(launch.inputs[1]), *sine = data<float>(launch.inputs[2]);
  const int32_t *positions = data<int32_t>(launch.inputs[3]), *start = data<int32_t>(launch.inputs[6]);
  float* query = data<float>(launch.outputs[0]);
  if (elements(projected) == 0) return;
  int64_t batch = projected.shape[0], length = projected.shape[1], width = projected.shape[2];
  int64_t capacity = keys.shape[1], groups = keys.shape[2], size = keys.shape[3], half = size / 2, limit = launch.inputs[1].shape[0];
  int64_t heads = size > 0 ? width / size - 2 * groups : 0;
  if (heads < 0 || (heads + 2 * groups) * size != width || keys.shape[0] != batch || elements(values) != elements(keys) || values.dtype != keys.dtype ||
      elements(launch.inputs[3]) != batch * length || elements(launch.inputs[6]) != batch || launch.inputs[1].shape[1] != half ||
      (keys.dtype != TREFOIL_F32 && keys.dtype != TREFOIL_BF16))
    fail(TREFOIL_INVALID_ARGUMENT, "rope_to_cache_: rows, table, positions and caches do not fit each other");
  for (int64_t token = 0; token < batch * length; ++token)
    if (positions[token] < 0 || positions[token] >= limit)
      fail(TREFOIL_INDEX_OUT_OF_RANGE, "rope_to_cache_: position %d at [%lld, %lld] is outside [0, %lld), the rows of cos and sin", positions[token],
           static_cast<long long>(token / length), static_cast<long long>(token % length), static_cast<long long>(limit));
  for (int64_t b = 0; b < batch; ++b)
    if (start[b] < 0 || start[b] + length > capacity)
      fail(TREFOIL_INDEX_OUT_OF_RANGE,
           "rope_to_cache_: start %d of row %lld leaves no room for %lld rows in a cache of %lld; it must be in [0, %lld]", start[b],
           static_cast<long long>(b), static_cast<long long>(length), static_cast<long long>(capacity), static_cast<long long>(capacity - length));
  for_each_row(context, batch * length, width, [&](int64_t token) {
    const float *c = cosine + positions[token] * half, *s = sine + positions[token] * half, *from = x + token * width;
    for (int64_t head = 0; head < heads && query; ++head) rotate_halves(from + head * size, query + (token * heads + head) * size, c, s, half, 1);
    int64_t b = token / length, to = (b * capacity + start[b] + token % length) * groups * size;
    const float *key = from + heads * size, *value = key + groups * size;
    if (keys.dtype == TREFOIL_F32) {
      for (int64_t g = 0; g < groups; ++g) rotate_halves(key + g * size, data<float>(keys) + to + g * size, c, s, half, 1);
      memcpy(data<float>(values) + to, value, static_cast<size_t>(groups * size) * sizeof(float));
    } else {
      for (int64_t g = 0; g < groups; ++g) rotate_halves_to_bf16(key + g * size, keys.data, to + g * size, c, s, half);
      narrow(values.dtype, value, values.data, to, groups * size);
    }
  });
}

extern const KernelEntry rope_kernels[];
const KernelEntry rope_kernels[] = {{"rope", rope, nullptr}, {"rope_to_cache_", rope_to_cache, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
