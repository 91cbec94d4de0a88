// RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) and LayerNorm (Ba et al. 2016, arXiv 1607.06450) over the last dimension.
// Gradients of weight and bias: every team sums its own rows, then column_sums adds the teams' sums in order.
#include "column_sums.h"
#include "hopper.h"
#include "kernel.h"
#include "rows.h"

namespace trefoil::cuda {

namespace {

template <bool wide, int vectors>
__global__ void __launch_bounds__(kMostRowThreads) rms_norm_kernel(Floats x, const float* weight, Floats y, float* rstd, int64_t rows, int64_t n, float epsilon) {
  using Group = Team<wide>;
  let_next_start();
  wait_for_previous();
  const RowValues<wide, vectors> scale(weight, n);
  for (int64_t row = Group::first(); row < rows; row += Group::count()) {
    const RowValues<wide, vectors> values(x.from(row * n), n);
    float squares = 0;
    each<wide, vectors>(n, [&](int, int64_t, float v) { squares += v * v; }, values);
    const float r = 1.0f / sqrtf(Group::sum(squares) / static_cast<float>(n) + epsilon);
    if (rstd && Group::rank() == 0) rstd[row] = r;
    if (y) map<wide, vectors>(y.from(row * n), n, [&](int64_t, float v, float w) { return v * r * w; }, values, scale);
  }
}

template <bool wide, int vectors>
__global__ void __launch_bounds__(kMostRowThreads) layer_norm_kernel(Floats x, const float* weight, const float* bias, Floats y, float* mean, float* rstd, int64_t rows, int64_t n,
                                  float epsilon) {
  using Group = Team<wide>;
  for (int64_t row = Group::first(); row < rows; row += Group::count()) {
    const RowValues<wide, vectors> values(x.from(row * n), n);
    float total = 0, squares = 0;
    each<wide, vectors>(n, [&](int, int64_t, float v) { total += v; }, values);
    const float centre = Group::sum(total) / static_cast<float>(n);
    each<wide, vectors>(n, [&](int, int64_t, float v) { squares += (v - centre) * (v - centre); }, values);
    const float r = 1.0f / sqrtf(Group::sum(squares) / static_cast<float>(n) + epsilon);
    if (Group::rank() == 0) {
      if (mean) mean[row] = centre;
      if (rstd) rstd[row] = r;
    }
    if (!y) continue;
    map<wide, vectors>(y.from(row * n), n, [&](int64_t i, float v) {
      v = (v - centre) * r;
      if (weight) v *= weight[i];
      return bias ? v + bias[i] : v;
    }, values);
  }
}

// A team's sums over its rows: in registers where the row is, else in its own stretch of the workspace.
template <bool wide, int vectors>
struct Accumulator {
  float* memory;
  float values[vectors ? 4 * vectors : 1];
  __device__ __forceinline__ Accumulator(float* to, int64_t n) : memory(to) {
    for (float& value : values) value = 0;
    if (to && vectors == 0) each<wide, 0>(n, [to](int, int64_t i) { to[i] = 0; });
  }
  __device__ __forceinline__ void add(int slot, int64_t i, float x) {
    if (!memory) return;
    if constexpr (vectors > 0)
      values[slot] += x;
    else
      memory[i] += x;
  }
  __device__ __forceinline__ void finish(int64_t n) {
    if (memory && vectors > 0)
      each<wide, vectors>(n, [&](int slot, int64_t i) { memory[i] = values[slot]; });
  }
};

// partial [teams, 2, n]: Σ dy z, Σ dy. centred: LayerNorm, with mean; else RMSNorm.
template <bool wide, int vectors, bool centred>
__global__ void __launch_bounds__(wide ? kMostRowThreads : 256) norm_grad_kernel(Floats dy, Floats x, const float* weight, const float* mean, const float* rstd, Floats dx, float* partial,
                                 bool with_bias, int64_t rows, int64_t n) {
  using Group = Team<wide>;
  float* sums = partial ? partial + Group::first() * 2 * n : nullptr;
  Accumulator<wide, vectors> dweight(sums, n), dbias(centred && with_bias && sums ? sums + n : nullptr, n);
  for (int64_t row = Group::first(); row < rows; row += Group::count()) {
    const float r = rstd[row], centre = centred ? mean[row] : 0.0f;
    const RowValues<wide, vectors> values(x.from(row * n), n), gradient(dy.from(row * n), n);
    // With z = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - z mean(g z)); RMSNorm has no mean(g).
    float plain = 0, inner = 0;
    each<wide, vectors>(n, [&](int slot, int64_t i, float v, float d) {
      const float z = (v - centre) * r, g = weight ? d * weight[i] : d;
      plain += g;
      inner += g * z;
      dweight.add(slot, i, d * z);
      dbias.add(slot, i, d);
    }, values, gradient);
    if (!dx) continue;
    if (centred) plain = Group::sum(plain) / static_cast<float>(n);
    inner = Group::sum(inner) / static_cast<float>(n);
    map<wide, vectors>(dx.from(row * n), n, [&](int64_t i, float v, float d) {
      const float z = (v - centre) * r, g = weight ? d * weight[i] : d;
      return r * ((centred ? g - plain : g) - z * inner);
    }, values, gradient);
  }
  dweight.finish(n);
  dbias.finish(n);
}

void rms_norm(const Context& context, const TrefoilLaunch& args) {
  const int64_t rows = row_count(args.inputs[0]), n = last_dimension(args.inputs[0]);
  if (rows == 0) return;
  const RowPlan plan = plan_rows(context, rows, n);
  with_row_shape(plan, [&](auto wide, auto vectors) {
    launch(context, early(plan.shape()), rms_norm_kernel<wide(), vectors()>, Floats(args.inputs[0]), data<float>(args.inputs[1]),
           Floats(args.outputs[0]), optional_output<float>(args, 1), rows, n, static_cast<float>(args.attributes[0]));
  });
}

void layer_norm(const Context& context, const TrefoilLaunch& args) {
  const int64_t rows = row_count(args.inputs[0]), n = last_dimension(args.inputs[0]);
  if (rows == 0) return;
  const RowPlan plan = plan_rows(context, rows, n);
  with_row_shape(plan, [&](auto wide, auto vectors) {
    launch(context, plan.shape(), layer_norm_kernel<wide(), vectors()>, Floats(args.inputs[0]), data<float>(args.inputs[1]),
           data<float>(args.inputs[2]), Floats(args.outputs[0]), optional_output<float>(args, 1), optional_output<float>(args, 2), rows, n,
           static_cast<float>(args.attributes[0]));
  });
}

// As many threads as registers allow (64 and 96 to one where a row is kept), not more: every team leaves sums that must be added.
template <bool centred>
RowPlan gradient_plan(const Context& context, const TrefoilView& x) { return plan_rows(context, row_count(x), last_dimension(x), centred ? 640 : 1024); }

template <bool centred>
void norm_grad(const Context& context, const TrefoilLaunch& args) {
  const int64_t rows = row_count(args.inputs[1]), n = last_dimension(args.inputs[1]);
  const float* mean = centred ? data<float>(args.inputs[3]) : nullptr;
  const float* rstd = data<float>(args.inputs[centred ? 4 : 3]);
  float *dweight = optional_output<float>(args, 1), *dbias = centred ? optional_output<float>(args, 2) : nullptr;
  if (n == 0) return;
  const RowPlan plan = gradient_plan<centred>(context, args.inputs[1]);
  float* partial = dweight || dbias ? static_cast<float*>(args.workspace) : nullptr;
  if (rows > 0)
    with_row_shape(plan, [&](auto wide, auto vectors) {
      launch(context, plan.shape(), norm_grad_kernel<wide(), vectors(), centred>, Floats(args.inputs[0]), Floats(args.inputs[1]),
             data<float>(args.inputs[2]), mean, rstd, Floats(args.outputs[0]), partial, dbias != nullptr, rows, n);
    });
  const int64_t teams = rows > 0 ? plan.team_count() : 0;
  if (dweight) column_sums(context, partial, teams, 2 * n, n, dweight);
  if (dbias) column_sums(context, partial + n, teams, 2 * n, n, dbias);
}

template <bool centred>
size_t norm_grad_workspace(const Context& context, const TrefoilLaunch& args) {
  const int64_t n = last_dimension(args.inputs[1]);
  if (row_count(args.inputs[1]) == 0 || n == 0) return sizeof(float);
  return static_cast<size_t>(gradient_plan<centred>(context, args.inputs[1]).team_count() * 2 * n) * sizeof(float);
}

}  // namespace

extern const KernelEntry norm_kernels[] = {{"rms_norm", rms_norm, nullptr},
                                           {"rms_norm_grad", norm_grad<false>, norm_grad_workspace<false>},
                                           {"layer_norm", layer_norm, nullptr},
                                           {"layer_norm_grad", norm_grad<true>, norm_grad_workspace<true>},
                                           {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
