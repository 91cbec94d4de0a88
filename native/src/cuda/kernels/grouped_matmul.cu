// Products over rows sorted by expert. Group sizes stay on the device: grids are sized for the worst split of the rows.
#include <algorithm>

#include "index_check.h"
#include "multiply.h"

namespace trefoil::cuda {

namespace {

// x [R, K] (any number of rows, with row_index), w [E, N, K] or [E, K, N], offsets [E + 1] -> y [R, N]
struct Forward {
  Matrix x, w;
  Product p;
  explicit Forward(const TrefoilLaunch& launch) {
    const TrefoilView &from = launch.inputs[0], &weights = launch.inputs[1], &to = launch.outputs[0];
    const bool transpose = launch.attributes[0] != 0;
    x = {from.data, from.dtype, to.shape[0], from.shape[1], 1, true};
    w = {weights.data, weights.dtype, weights.shape[1], weights.shape[2], weights.shape[0], transpose};
    if (launch.input_count > 3 && launch.inputs[3].data) {
      x.index = data<const int32_t>(launch.inputs[3]);
      x.stored_rows = from.shape[0];
    }
    p.m = side("grouped_matmul", to.shape[0]);
    p.n = side("grouped_matmul", to.shape[1]);
    p.k = side("grouped_matmul", from.shape[1]);
    p.count = side("grouped_matmul", weights.shape[0]);
    side("grouped_matmul", from.shape[0]);
    p.schedule = Schedule::row_groups;
    p.offsets = data<const int32_t>(launch.inputs[2]);
    p.c = Floats(to);
  }
};

void grouped_matmul(const Context& context, Workspace& workspace, const TrefoilLaunch& launch) {
  const Forward forward(launch);
  if (workspace.running()) {
    check_offsets(context, Checked::grouped_matmul_offsets, forward.p.offsets, forward.p.count, forward.p.m);
    if (forward.x.index) check_index(context, Checked::grouped_matmul_row_index, forward.x.index, forward.p.m, 0, forward.x.stored_rows);
  }
  multiply(context, workspace, forward.x, forward.w, forward.p);
}

// a [R, M], b [R, N], offsets [E + 1] -> w [E, M, N]
struct WeightGrad {
  Matrix a, b;
  Product p;
  explicit WeightGrad(const TrefoilLaunch& launch) {
    const TrefoilView &left = launch.inputs[0], &right = launch.inputs[1], &to = launch.outputs[0];
    // Rows to contract over: as many as an index lists, else as many as are stored. An absent input has rank 0.
    int64_t rows = left.shape[0];
    for (int input = 4; input > 2; --input)
      if (launch.input_count > input && launch.inputs[input].rank == 1) rows = launch.inputs[input].shape[0];
    a = {left.data, left.dtype, rows, left.shape[1], 1, false};
    b = {right.data, right.dtype, rows, right.shape[1], 1, false};
    const int32_t* indices[2] = {optional_input<const int32_t>(launch, 3), optional_input<const int32_t>(launch, 4)};
    if (indices[0]) a.index = indices[0], a.stored_rows = left.shape[0];
    if (indices[1]) b.index = indices[1], b.stored_rows = right.shape[0];
    if ((!a.index && left.shape[0] < rows) || (!b.index && right.shape[0] < rows))
      fail(TREFOIL_INVALID_ARGUMENT, "grouped_matmul_weight_grad: a has %lld rows and b %lld; without an index each needs %lld",
           static_cast<long long>(left.shape[0]), static_cast<long long>(right.shape[0]), static_cast<long long>(rows));
    p.m = side("grouped_matmul_weight_grad", to.shape[1]);
    p.n = side("grouped_matmul_weight_grad", to.shape[2]);
    p.k = side("grouped_matmul_weight_grad", rows);
    p.count = side("grouped_matmul_weight_grad", to.shape[0]);
    side("grouped_matmul_weight_grad", std::max(left.shape[0], right.shape[0]));
    p.schedule = Schedule::depth_groups;
    p.offsets = data<const int32_t>(launch.inputs[2]);
    p.c = Floats(to);
    p.c_step = to.shape[1] * to.shape[2];
  }
};

void grouped_matmul_weight_grad(const Context& context, Workspace& workspace, const TrefoilLaunch& launch) {
  const WeightGrad grad(launch);
  if (workspace.running()) {
    check_offsets(context, Checked::grouped_matmul_weight_grad_offsets, grad.p.offsets, grad.p.count, grad.p.k);
    if (grad.a.index) check_index(context, Checked::grouped_matmul_weight_grad_a_index, grad.a.index, grad.p.k, 0, grad.a.stored_rows);
    if (grad.b.index) check_index(context, Checked::grouped_matmul_weight_grad_b_index, grad.b.index, grad.p.k, 0, grad.b.stored_rows);
  }
  multiply(context, workspace, grad.a, grad.b, grad.p);
}

}  // namespace

extern const KernelEntry grouped_matmul_kernels[];
const KernelEntry grouped_matmul_kernels[] = {with_workspace<grouped_matmul>("grouped_matmul"),
                                              with_workspace<grouped_matmul_weight_grad>("grouped_matmul_weight_grad"),
                                              {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
