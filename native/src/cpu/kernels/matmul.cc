#include "gemm.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

// The products of one launch: `count` of them, operand i at a fixed distance from operand i - 1.
struct Batch {
  Gemm first;
  int64_t count, a_step, b_step, c_step;
};

// `fold`: leading dimensions of a may become rows where b has none.
Batch read_launch(const TrefoilLaunch& launch, bool fold) {
  const TrefoilView& a = launch.inputs[0];
  const TrefoilView& b = launch.inputs[1];
  bool transpose_a = launch.attributes[0] != 0, transpose_b = launch.attributes[1] != 0;
  Batch batch{};
  Gemm& g = batch.first;
  int64_t a_rows = a.shape[a.rank - 2], a_columns = a.shape[a.rank - 1], b_rows = b.shape[b.rank - 2], b_columns = b.shape[b.rank - 1];
  g.m = transpose_a ? a_columns : a_rows;
  g.k = transpose_a ? a_rows : a_columns;
  g.n = transpose_b ? b_rows : b_columns;
  g.a = {a.data, a_columns, transpose_a, a.dtype == TREFOIL_BF16, nullptr};
  g.b = {b.data, b_columns, transpose_b, b.dtype == TREFOIL_BF16, nullptr};
  g.c_stride = g.n;
  batch.count = 1;
  for (int i = 0; i + 2 < a.rank; ++i) batch.count *= a.shape[i];
  bool shared_b = b.rank == 2 && a.rank > 2;
  if (shared_b && !transpose_a && fold) {
    g.m *= batch.count;
    batch.count = 1;
  }
  batch.a_step = g.m * g.k;
  batch.b_step = shared_b ? 0 : g.k * g.n;
  batch.c_step = g.m * g.n;
  if (launch.input_count > 2) g.epilogue.bias = data<const float>(launch.inputs[2]);
  g.epilogue.alpha = static_cast<float>(launch.attributes[2]);
  g.epilogue.activation = static_cast<Activation>(static_cast<int>(launch.attributes[3]));
  return batch;
}

size_t products_bytes(int64_t count) { return (static_cast<size_t>(count) * sizeof(Gemm) + 63) / 64 * 64; }

size_t batch_workspace(const Batch& batch) {
  return products_bytes(batch.count) + gemm_workspace(batch.first, batch.count, batch.count * batch.first.k);
}

size_t matmul_workspace(const TrefoilLaunch& launch) {
  // Whether a residual is there, and so whether rows fold, is not known yet.
  size_t folded = batch_workspace(read_launch(launch, true)), apart = batch_workspace(read_launch(launch, false));
  return folded > apart ? folded : apart;
}

void matmul(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView* residual = launch.input_count > 3 && launch.inputs[3].data ? &launch.inputs[3] : nullptr;
  const TrefoilView& a = launch.inputs[0];
  const TrefoilView& b = launch.inputs[1];
  long long ka = a.shape[a.rank - (launch.attributes[0] != 0 ? 2 : 1)], kb = b.shape[b.rank - (launch.attributes[1] != 0 ? 1 : 2)];
  if (ka != kb) fail(TREFOIL_INVALID_ARGUMENT, "matmul: a has k = %lld and b has k = %lld; they must be equal", ka, kb);
  // A residual without the leading dimensions is added to every matrix of the batch, which then stays a batch.
  bool fold = !residual || elements(*residual) == elements(launch.outputs[0]);
  Batch batch = read_launch(launch, fold);
  float* c = data<float>(launch.outputs[0]);
  float* preactivation = launch.output_count > 1 ? data<float>(launch.outputs[1]) : nullptr;
  Gemm* products = static_cast<Gemm*>(launch.workspace);
  for (int64_t i = 0; i < batch.count; ++i) {
    Gemm g = batch.first;
    g.a.data = static_cast<const char*>(g.a.data) + i * batch.a_step * (g.a.bf16 ? 2 : 4);
    g.b.data = static_cast<const char*>(g.b.data) + i * batch.b_step * (g.b.bf16 ? 2 : 4);
    g.c = c + i * batch.c_step;
    if (residual) g.epilogue.residual = data<const float>(*residual) + (fold ? i * batch.c_step : 0);
    if (preactivation) g.epilogue.preactivation = preactivation + i * batch.c_step;
    products[i] = g;
  }
  gemm(context, products, batch.count, static_cast<char*>(launch.workspace) + products_bytes(batch.count));
}

}  // namespace

extern const KernelEntry matmul_kernels[];
const KernelEntry matmul_kernels[] = {{"matmul", matmul, matmul_workspace}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
