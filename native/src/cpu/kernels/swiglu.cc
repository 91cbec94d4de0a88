// SwiGLU on rows [gate, up] of 2F (Shazeer 2020, arXiv 2002.05202): silu(gate) * up.
#include "rows.h"

namespace trefoil::cpu::TREFOIL_ISA {

static void swiglu(Context& context, const TrefoilLaunch& launch) {
  const float* x = data<float>(launch.inputs[0]);
  float* y = data<float>(launch.outputs[0]);
  int64_t f = last_dimension(launch.outputs[0]);
  bool streamed = streams_past_caches(y, f, elements(launch.outputs[0]));
  for_each_row(context, row_count(launch.outputs[0]), 2 * f, [&](int64_t row) {
    const float *gate = x + row * 2 * f, *up = gate + f;
    float* to = y + row * f;
    for_each_vector(f, streamed, [&](int64_t i, auto lanes) {
      Vec g = lanes.load(gate + i);
      lanes.store(to + i, g / (splat(1.0f) + exp(negate(g))) * lanes.load(up + i));
    });
  });
}

static void swiglu_grad(Context& context, const TrefoilLaunch& launch) {
  const float* x = data<float>(launch.inputs[0]);
  const float* dy = data<float>(launch.inputs[1]);
  float* dx = data<float>(launch.outputs[0]);
  int64_t f = last_dimension(launch.inputs[1]);
  bool streamed = streams_past_caches(dx, f, 2 * elements(launch.inputs[1]));
  for_each_row(context, row_count(launch.inputs[1]), 4 * f, [&](int64_t row) {
    const float *gate = x + row * 2 * f, *up = gate + f, *gradient = dy + row * f;
    float *dgate = dx + row * 2 * f, *dup = dgate + f;
    for_each_vector(f, streamed, [&](int64_t i, auto lanes) {
      Vec g = lanes.load(gate + i), d = lanes.load(gradient + i), s = sigmoid(g);
      Vec silu = g * s;
      // d silu / d gate = s (1 + g (1 - s)) = s + silu (1 - s)
      Vec slope = fma(silu, splat(1.0f) - s, s);
      lanes.store(dgate + i, d * lanes.load(up + i) * slope);
      lanes.store(dup + i, d * silu);
    });
  });
}

extern const KernelEntry swiglu_kernels[];
const KernelEntry swiglu_kernels[] = {{"swiglu", swiglu, nullptr}, {"swiglu_grad", swiglu_grad, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
