// softmax, log_softmax and logsumexp over the last dimension, shifted by the row maximum.
#include "rows.h"

namespace trefoil::cpu::TREFOIL_ISA {

static void softmax(Context& context, const TrefoilLaunch& launch) {
  const float* x = data<float>(launch.inputs[0]);
  float* y = data<float>(launch.outputs[0]);
  int64_t n = last_dimension(launch.inputs[0]);
  for_each_row(context, row_count(launch.inputs[0]), n, [&](int64_t row) {
    const float* from = x + row * n;
    float* to = y + row * n;
    Vec shift = splat(largest(from, n));
    float total = sum_over(n, [&](int64_t i, auto lanes) {
      Vec e = exp(lanes.load(from + i) - shift);
      lanes.store(to + i, e);
      return e;
    });
    Vec scale = splat(1.0f / total);
    for_each_vector(n, [&](int64_t i, auto lanes) { lanes.store(to + i, lanes.load(to + i) * scale); });
  });
}

static void softmax_grad(Context& context, const TrefoilLaunch& launch) {
  const float* y = data<float>(launch.inputs[0]);
  const float* dy = data<float>(launch.inputs[1]);
  float* dx = data<float>(launch.outputs[0]);
  int64_t n = last_dimension(launch.inputs[0]);
  for_each_row(context, row_count(launch.inputs[0]), n, [&](int64_t row) {
    const float *p = y + row * n, *g = dy + row * n;
    float* to = dx + row * n;
    Vec inner = splat(sum_over(n, [&](int64_t i, auto lanes) { return lanes.load(p + i) * lanes.load(g + i); }));
    for_each_vector(n, [&](int64_t i, auto lanes) { lanes.store(to + i, lanes.load(p + i) * (lanes.load(g + i) - inner)); });
  });
}

static float sum_of_exponentials(const float* x, int64_t n, float shift) {
  return sum_over(n, [&](int64_t i, auto lanes) { return exp(lanes.load(x + i) - splat(shift)); });
}

static void log_softmax(Context& context, const TrefoilLaunch& launch) {
  const float* x = data<float>(launch.inputs[0]);
  float* y = data<float>(launch.outputs[0]);
  int64_t n = last_dimension(launch.inputs[0]);
  for_each_row(context, row_count(launch.inputs[0]), n, [&](int64_t row) {
    const float* from = x + row * n;
    float* to = y + row * n;
    float shift = largest(from, n);
    Vec log_total = splat(::logf(sum_of_exponentials(from, n, shift)));
    for_each_vector(n, [&](int64_t i, auto lanes) { lanes.store(to + i, lanes.load(from + i) - splat(shift) - log_total); });
  });
}

static void log_softmax_grad(Context& context, const TrefoilLaunch& launch) {
  const float* y = data<float>(launch.inputs[0]);
  const float* dy = data<float>(launch.inputs[1]);
  float* dx = data<float>(launch.outputs[0]);
  int64_t n = last_dimension(launch.inputs[0]);
  for_each_row(context, row_count(launch.inputs[0]), n, [&](int64_t row) {
    const float *log_p = y + row * n, *g = dy + row * n;
    float* to = dx + row * n;
    Vec total = splat(sum_over(n, [&](int64_t i, auto lanes) { return lanes.load(g + i); }));
    for_each_vector(n, [&](int64_t i, auto lanes) {
      lanes.store(to + i, fnma(exp(lanes.load(log_p + i)), total, lanes.load(g + i)));
    });
  });
}

static void logsumexp(Context& context, const TrefoilLaunch& launch) {
  const float* x = data<float>(launch.inputs[0]);
  float* y = data<float>(launch.outputs[0]);
  int64_t n = last_dimension(launch.inputs[0]);
  for_each_row(context, row_count(launch.inputs[0]), n, [&](int64_t row) {
    float top = largest(x + row * n, n);
    // A row of -inf, or one with +inf, has no finite shift: it needs none.
    float shift = ::fabsf(top) < HUGE_VALF ? top : 0.0f;
    y[row] = shift + ::logf(sum_of_exponentials(x + row * n, n, shift));
  });
}

extern const KernelEntry softmax_kernels[];
const KernelEntry softmax_kernels[] = {{"softmax", softmax, nullptr},
                                       {"softmax_grad", softmax_grad, nullptr},
                                       {"log_softmax", log_softmax, nullptr},
                                       {"log_softmax_grad", log_softmax_grad, nullptr},
                                       {"logsumexp", logsumexp, nullptr},
                                       {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
