// Rotary position embedding (Su et al. 2021, arXiv 2104.09864): rotates pairs of each head by the angle of the token's position.
#include "rows.h"

namespace trefoil::cpu::TREFOIL_ISA {

static void rotate_halves(const float* x, float* y, const float* cosine, const float* sine, int64_t half, float sign) {
  for_each_vector(half, [&](int64_t i, auto lanes) {
    Vec u = lanes.load(x + i), v = lanes.load(x + half + i);
    Vec c = lanes.load(cosine + i), s = lanes.load(sine + i) * splat(sign);
    lanes.store(y + i, fnma(v, s, u * c));
    lanes.store(y + half + i, fma(u, s, v * c));
  });
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

extern const KernelEntry rope_kernels[];
const KernelEntry rope_kernels[] = {{"rope", rope, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
