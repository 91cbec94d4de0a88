// softmax, log_softmax and logsumexp over the last dimension, shifted by the row maximum.
#include "kernel.h"
#include "rows.h"

namespace trefoil::cuda {

namespace {

template <bool wide, int vectors>
__global__ void __launch_bounds__(kMostThreads) softmax_kernel(const float* x, float* y, int64_t rows, int64_t n, bool logarithm) {
  using Group = Team<wide>;
  for (int64_t row = Group::first(); row < rows; row += Group::count()) {
    const RowValues<wide, vectors> values(x + row * n, n);
    float top = -INFINITY, total = 0;
    each<wide, vectors>(n, [&](int, int64_t, float v) { top = fmaxf(top, v); }, values);
    top = Group::max(top);
    each<wide, vectors>(n, [&](int, int64_t, float v) { total += expf(v - top); }, values);
    total = Group::sum(total);
    const float scale = 1.0f / total, log_total = logf(total);
    if (logarithm)
      map<wide, vectors>(y + row * n, n, [&](int64_t, float v) { return v - top - log_total; }, values);
    else
      map<wide, vectors>(y + row * n, n, [&](int64_t, float v) { return expf(v - top) * scale; }, values);
  }
}

template <bool wide, int vectors>
__global__ void __launch_bounds__(kMostRowThreads) softmax_grad_kernel(const float* y, const float* dy, float* dx, int64_t rows, int64_t n, bool logarithm) {
  using Group = Team<wide>;
  for (int64_t row = Group::first(); row < rows; row += Group::count()) {
    const RowValues<wide, vectors> out(y + row * n, n), gradient(dy + row * n, n);
    float inner = 0;
    each<wide, vectors>(n, [&](int, int64_t, float p, float g) { inner += logarithm ? g : p * g; }, out, gradient);
    inner = Group::sum(inner);
    if (logarithm)
      map<wide, vectors>(dx + row * n, n, [&](int64_t, float p, float g) { return g - expf(p) * inner; }, out, gradient);
    else
      map<wide, vectors>(dx + row * n, n, [&](int64_t, float p, float g) { return p * (g - inner); }, out, gradient);
  }
}

template <bool wide, int vectors>
__global__ void __launch_bounds__(kMostThreads) logsumexp_kernel(const float* x, float* y, int64_t rows, int64_t n) {
  using Group = Team<wide>;
  for (int64_t row = Group::first(); row < rows; row += Group::count()) {
    const RowValues<wide, vectors> values(x + row * n, n);
    float top = -INFINITY, total = 0;
    each<wide, vectors>(n, [&](int, int64_t, float v) { top = fmaxf(top, v); }, values);
    top = Group::max(top);
    // A row of -inf, or one with +inf, has no finite shift: it needs none.
    const float shift = fabsf(top) < INFINITY ? top : 0.0f;
    each<wide, vectors>(n, [&](int, int64_t, float v) { total += expf(v - shift); }, values);
    total = Group::sum(total);
    if (Group::rank() == 0) y[row] = shift + logf(total);
  }
}

template <bool logarithm>
void softmax(const Context& context, const TrefoilLaunch& args) {
  const int64_t rows = row_count(args.inputs[0]), n = last_dimension(args.inputs[0]);
  if (rows == 0 || n == 0) return;
  const RowPlan plan = plan_rows(context, rows, n, 2048, kMostThreads);
  with_row_shape(plan, [&](auto wide, auto vectors) {
    launch(context, plan.shape(), softmax_kernel<wide(), vectors()>, data<float>(args.inputs[0]), data<float>(args.outputs[0]), rows, n, logarithm);
  });
}

template <bool logarithm>
void softmax_grad(const Context& context, const TrefoilLaunch& args) {
  const int64_t rows = row_count(args.inputs[0]), n = last_dimension(args.inputs[0]);
  if (rows == 0 || n == 0) return;
  const RowPlan plan = plan_rows(context, rows, n);
  with_row_shape(plan, [&](auto wide, auto vectors) {
    launch(context, plan.shape(), softmax_grad_kernel<wide(), vectors()>, data<float>(args.inputs[0]), data<float>(args.inputs[1]),
           data<float>(args.outputs[0]), rows, n, logarithm);
  });
}

void logsumexp(const Context& context, const TrefoilLaunch& args) {
  const int64_t rows = row_count(args.inputs[0]), n = last_dimension(args.inputs[0]);
  if (rows == 0) return;
  const RowPlan plan = plan_rows(context, rows, n, 2048, kMostThreads);
  with_row_shape(plan, [&](auto wide, auto vectors) {
    launch(context, plan.shape(), logsumexp_kernel<wide(), vectors()>, data<float>(args.inputs[0]), data<float>(args.outputs[0]), rows, n);
  });
}

}  // namespace

extern const KernelEntry softmax_kernels[] = {{"softmax", softmax<false>, nullptr},          {"softmax_grad", softmax_grad<false>, nullptr},
                                              {"log_softmax", softmax<true>, nullptr},       {"log_softmax_grad", softmax_grad<true>, nullptr},
                                              {"logsumexp", logsumexp, nullptr},             {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
