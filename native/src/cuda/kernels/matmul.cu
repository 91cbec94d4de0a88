// matmul with its epilogue. Few rows go to a kernel that streams b once, the rest to the tiled products.
#include "gemv.h"
#include "multiply.h"

namespace trefoil::cuda {

namespace {

// The launch as a product. `residual` may be unknown while the workspace is measured.
struct Matmul {
  Matrix a, b;
  Product p;

  Matmul(const TrefoilLaunch& launch, bool fold) {
    const TrefoilView &left = launch.inputs[0], &right = launch.inputs[1];
    const bool transpose_a = launch.attributes[0] != 0, transpose_b = launch.attributes[1] != 0;
    a = {left.data, left.dtype, left.shape[left.rank - 2], left.shape[left.rank - 1], 1, !transpose_a};
    b = {right.data, right.dtype, right.shape[right.rank - 2], right.shape[right.rank - 1], 1, transpose_b};
    int64_t batch = 1;
    for (int i = 0; i + 2 < left.rank; ++i) batch *= left.shape[i];
    b.constant = launch.constant_inputs >> 1 & 1;
    const bool shared_b = right.rank == 2 && left.rank > 2;
    if (shared_b && !transpose_a && fold) {
      a.rows *= batch;
      batch = 1;
    }
    a.count = batch;
    b.count = shared_b ? 1 : batch;
    const int64_t m = transpose_a ? a.columns : a.rows, k = transpose_a ? a.rows : a.columns, n = transpose_b ? b.rows : b.columns;
    const int64_t kb = transpose_b ? b.columns : b.rows;
    if (k != kb)
      fail(TREFOIL_INVALID_ARGUMENT, "matmul: a has k = %lld and b has k = %lld; they must be equal", static_cast<long long>(k), static_cast<long long>(kb));
    p.m = side("matmul", m);
    p.n = side("matmul", n);
    p.k = side("matmul", k);
    p.count = side("matmul", batch);
    p.c = Floats(launch.outputs[0]);
    p.c_step = m * n;
    p.epilogue.alpha = static_cast<float>(launch.attributes[2]);
    p.epilogue.activation = static_cast<Activation>(static_cast<int>(launch.attributes[3]));
  }

  void run(const Context& context, Workspace& workspace) const {
    if (p.m == 0 || p.n == 0 || p.count == 0) return;
    if (suits_gemv(p)) gemv(context, workspace, a, b, p);
    else multiply(context, workspace, a, b, p);
  }
};

size_t matmul_workspace(const Context& context, const TrefoilLaunch& launch) {
  // Whether a residual is there, and so whether rows fold, is not known yet.
  Workspace folded, apart;
  Matmul(launch, true).run(context, folded);
  Matmul(launch, false).run(context, apart);
  return folded.peak() > apart.peak() ? folded.peak() : apart.peak();
}

void matmul(const Context& context, const TrefoilLaunch& launch) {
  const TrefoilView& c = launch.outputs[0];
  const Floats residual = optional_floats(launch.inputs, launch.input_count, 3);
  // A residual without the leading dimensions is added to every matrix of the batch, which then stays a batch.
  const bool fold = !residual || elements(launch.inputs[3]) == elements(c);
  Matmul product(launch, fold);
  Product& p = product.p;
  p.epilogue.bias = optional_input<const float>(launch, 2);
  p.epilogue.residual = residual;
  p.residual_step = fold ? p.c_step : 0;
  p.epilogue.preactivation = optional_output<float>(launch, 1);
  Workspace workspace(launch);
  product.run(context, workspace);
}

}  // namespace

extern const KernelEntry matmul_kernels[];
const KernelEntry matmul_kernels[] = {{"matmul", matmul, matmul_workspace}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
