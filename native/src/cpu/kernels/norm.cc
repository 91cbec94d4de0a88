// RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) and LayerNorm (Ba et al. 2016, arXiv 1607.06450) over the last dimension.
#include "rows.h"

namespace trefoil::cpu::TREFOIL_ISA {

static void rms_norm(Context& context, const TrefoilLaunch& launch) {
  const float* x = data<float>(launch.inputs[0]);
  const float* weight = data<float>(launch.inputs[1]);
  float* y = data<float>(launch.outputs[0]);
  float* rstd = launch.output_count > 1 ? data<float>(launch.outputs[1]) : nullptr;
  int64_t n = last_dimension(launch.inputs[0]);
  float epsilon = static_cast<float>(launch.attributes[0]);
  bool streamed = streams_past_caches(y, n, elements(launch.inputs[0]));
  for_each_row(context, row_count(launch.inputs[0]), n, [&](int64_t row) {
    const float* from = x + row * n;
    float* to = y + row * n;
    float squares = sum_over(n, [&](int64_t i, auto lanes) {
      Vec v = lanes.load(from + i);
      return v * v;
    });
    float r = 1.0f / ::sqrtf(squares / static_cast<float>(n) + epsilon);
    if (rstd) rstd[row] = r;
    if (!y) return;  // a gradient needs the statistics alone
    for_each_vector(n, streamed, [&](int64_t i, auto lanes) {
      lanes.store(to + i, lanes.load(from + i) * splat(r) * lanes.load(weight + i));
    });
  });
}

static void layer_norm(Context& context, const TrefoilLaunch& launch) {
  const float* x = data<float>(launch.inputs[0]);
  const float* weight = data<float>(launch.inputs[1]);
  const float* bias = data<float>(launch.inputs[2]);
  float* y = data<float>(launch.outputs[0]);
  float* mean = launch.output_count > 1 ? data<float>(launch.outputs[1]) : nullptr;
  float* rstd = launch.output_count > 2 ? data<float>(launch.outputs[2]) : nullptr;
  int64_t n = last_dimension(launch.inputs[0]);
  float epsilon = static_cast<float>(launch.attributes[0]);
  for_each_row(context, row_count(launch.inputs[0]), n, [&](int64_t row) {
    const float* from = x + row * n;
    float* to = y + row * n;
    float centre = sum_over(n, [&](int64_t i, auto lanes) { return lanes.load(from + i); }) / static_cast<float>(n);
    float squares = sum_over(n, [&](int64_t i, auto lanes) {
      Vec v = lanes.load(from + i) - splat(centre);
      return v * v;
    });
    float r = 1.0f / ::sqrtf(squares / static_cast<float>(n) + epsilon);
    if (mean) mean[row] = centre;
    if (rstd) rstd[row] = r;
    if (!y) return;
    for_each_vector(n, [&](int64_t i, auto lanes) {
      Vec value = (lanes.load(from + i) - splat(centre)) * splat(r);
      if (weight) value = value * lanes.load(weight + i);
      if (bias) value = value + lanes.load(bias + i);
      lanes.store(to + i, value);
    });
  });
}

// Rows per partial sum of the weight gradients: enough that the partial sums are few against the rows they sum, and a fixed
// function of the shape, so that the order of additions does not depend on the threads.
static RowTasks gradient_tasks(const TrefoilView& x) {
  RowTasks tasks(row_count(x), last_dimension(x));
  int64_t least = (tasks.rows + 63) / 64;
  if (least < 16) least = 16;
  if (tasks.rows_per_task < least) tasks.rows_per_task = least;
  tasks.count = (tasks.rows + tasks.rows_per_task - 1) / tasks.rows_per_task;
  return tasks;
}

// partial [tasks, n] -> total [n]
static void add_partial_sums(const float* partial, int64_t tasks, int64_t stride, int64_t n, float* total) {
  for_each_vector(n, [&](int64_t i, auto lanes) {
    Vec s = splat(0.0f);
    for (int64_t task = 0; task < tasks; ++task) s = s + lanes.load(partial + task * stride + i);
    lanes.store(total + i, s);
  });
}

static size_t rms_norm_grad_workspace(const TrefoilLaunch& launch) {
  return static_cast<size_t>(gradient_tasks(launch.inputs[1]).count * last_dimension(launch.inputs[1])) * sizeof(float);
}

static void rms_norm_grad(Context& context, const TrefoilLaunch& launch) {
  const float* dy = data<float>(launch.inputs[0]);
  const float* x = data<float>(launch.inputs[1]);
  const float* weight = data<float>(launch.inputs[2]);
  const float* rstd = data<float>(launch.inputs[3]);
  float* dx = data<float>(launch.outputs[0]);
  float* dweight = launch.output_count > 1 ? data<float>(launch.outputs[1]) : nullptr;
  float* partial = static_cast<float*>(launch.workspace);
  int64_t n = last_dimension(launch.inputs[1]);
  RowTasks tasks = gradient_tasks(launch.inputs[1]);
  context.parallel(tasks.count, [&](int64_t task) {
    float* dw = partial + task * n;
    if (dweight && n > 0) memset(dw, 0, static_cast<size_t>(n) * sizeof(float));
    for (int64_t row = tasks.begin(task); row < tasks.end(task); ++row) {
      const float *from = x + row * n, *gradient = dy + row * n;
      Vec r = splat(rstd[row]);
      // With z = x rstd and g = dy weight: dx = rstd (g - z mean(g z)).
      float inner = sum_over(n, [&](int64_t i, auto lanes) {
        return lanes.load(gradient + i) * lanes.load(weight + i) * (lanes.load(from + i) * r);
      });
      Vec mean = splat(inner / static_cast<float>(n));
      for_each_vector(n, [&](int64_t i, auto lanes) {
        Vec z = lanes.load(from + i) * r, d = lanes.load(gradient + i);
        if (dx) lanes.store(dx + row * n + i, r * fnma(z, mean, d * lanes.load(weight + i)));
        if (dweight) lanes.store(dw + i, fma(d, z, lanes.load(dw + i)));
      });
    }
  });
  if (dweight) add_partial_sums(partial, tasks.count, n, n, dweight);
}

static size_t layer_norm_grad_workspace(const TrefoilLaunch& launch) {
  return static_cast<size_t>(gradient_tasks(launch.inputs[1]).count * last_dimension(launch.inputs[1])) * 2 * sizeof(float);
}

static void layer_norm_grad(Context& context, const TrefoilLaunch& launch) {
  const float* dy = data<float>(launch.inputs[0]);
  const float* x = data<float>(launch.inputs[1]);
  const float* weight = data<float>(launch.inputs[2]);
  const float* mean = data<float>(launch.inputs[3]);
  const float* rstd = data<float>(launch.inputs[4]);
  float* dx = data<float>(launch.outputs[0]);
  float* dweight = launch.output_count > 1 ? data<float>(launch.outputs[1]) : nullptr;
  float* dbias = launch.output_count > 2 ? data<float>(launch.outputs[2]) : nullptr;
  float* partial = static_cast<float*>(launch.workspace);
  int64_t n = last_dimension(launch.inputs[1]);
  RowTasks tasks = gradient_tasks(launch.inputs[1]);
  context.parallel(tasks.count, [&](int64_t task) {
    float *dw = partial + task * 2 * n, *db = dw + n;
    if (n > 0) memset(dw, 0, static_cast<size_t>(n) * 2 * sizeof(float));
    for (int64_t row = tasks.begin(task); row < tasks.end(task); ++row) {
      const float *from = x + row * n, *gradient = dy + row * n;
      Vec r = splat(rstd[row]), centre = splat(mean[row]);
      // With z = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - z mean(g z)).
      auto weighted = [&](int64_t i, auto lanes) {
        Vec g = lanes.load(gradient + i);
        return weight ? g * lanes.load(weight + i) : g;
      };
      auto normal = [&](int64_t i, auto lanes) { return (lanes.load(from + i) - centre) * r; };
      float plain = sum_over(n, weighted);
      float inner = sum_over(n, [&](int64_t i, auto lanes) { return weighted(i, lanes) * normal(i, lanes); });
      Vec mean_plain = splat(plain / static_cast<float>(n)), mean_inner = splat(inner / static_cast<float>(n));
      for_each_vector(n, [&](int64_t i, auto lanes) {
        Vec z = normal(i, lanes), d = lanes.load(gradient + i);
        if (dx) lanes.store(dx + row * n + i, r * fnma(z, mean_inner, weighted(i, lanes) - mean_plain));
        if (dweight) lanes.store(dw + i, fma(d, z, lanes.load(dw + i)));
        if (dbias) lanes.store(db + i, d + lanes.load(db + i));
      });
    }
  });
  if (dweight) add_partial_sums(partial, tasks.count, 2 * n, n, dweight);
  if (dbias) add_partial_sums(partial + n, tasks.count, 2 * n, n, dbias);
}

extern const KernelEntry norm_kernels[];
const KernelEntry norm_kernels[] = {{"rms_norm", rms_norm, nullptr},
                                    {"rms_norm_grad", rms_norm_grad, rms_norm_grad_workspace},
                                    {"layer_norm", layer_norm, nullptr},
                                    {"layer_norm_grad", layer_norm_grad, layer_norm_grad_workspace},
                                    {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
