#include "gemm.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

size_t products_bytes(int64_t count) { return (static_cast<size_t>(count) * sizeof(Gemm) + 63) / 64 * 64; }

// Offsets must rise from 0 to rows: everything after reads memory by them.
void check_offsets(const char* op, const int32_t* offsets, int64_t groups, int64_t rows) {
  for (int64_t e = 0; e <= groups; ++e) {
    int64_t low = e == 0 ? 0 : offsets[e - 1], high = e == 0 ? 0 : rows;
    if (e == groups) low = rows;
    if (offsets[e] < low || offsets[e] > high)
      fail(TREFOIL_INDEX_OUT_OF_RANGE, "%s: offsets[%lld] is %d; it must be in [%lld, %lld], offsets rising from 0 to the number of rows", op,
           static_cast<long long>(e), offsets[e], static_cast<long long>(low), static_cast<long long>(high));
  }
}

void check_index(const char* op, const char* name, const int32_t* index, int64_t count, int64_t bound) {
  for (int64_t r = 0; r < count; ++r)
    if (index[r] < 0 || index[r] >= bound)
      fail(TREFOIL_INDEX_OUT_OF_RANGE, "%s: %s[%lld] is %d; it must be in [0, %lld)", op, name, static_cast<long long>(r), index[r],
           static_cast<long long>(bound));
}

const int32_t* optional_index(const TrefoilLaunch& launch, int input) {
  return launch.input_count > input ? data<const int32_t>(launch.inputs[input]) : nullptr;
}

const int32_t kSomeRow = 0;  // marks an operand that is read through an index, before the index is there

// x [R, K] (or any number of rows, with row_index), w [E, N, K] or [E, K, N], offsets [E + 1]
struct Groups {
  int64_t count;
  Gemm product;  // of a group with every row
};

Groups read_forward(const TrefoilLaunch& launch) {
  const TrefoilView& x = launch.inputs[0];
  const TrefoilView& w = launch.inputs[1];
  const TrefoilView& y = launch.outputs[0];
  Groups groups{};
  groups.count = w.shape[0];
  Gemm& g = groups.product;
  bool transpose_w = launch.attributes[0] != 0;
  g.m = y.shape[0];
  g.n = y.shape[1];
  g.k = x.shape[1];
  g.a = {x.data, g.k, false, x.dtype == TREFOIL_BF16, nullptr};
  g.b = {w.data, transpose_w ? g.k : g.n, transpose_w, w.dtype == TREFOIL_BF16, nullptr};
  g.c_stride = g.n;
  return groups;
}

size_t grouped_matmul_workspace(const TrefoilLaunch& launch) {
  Groups groups = read_forward(launch);
  Gemm& g = groups.product;
  size_t plain = gemm_workspace(g, groups.count, groups.count * g.k);
  g.a.rows = &kSomeRow;
  size_t indexed = gemm_workspace(g, groups.count, groups.count * g.k);
  return products_bytes(groups.count) + (plain > indexed ? plain : indexed);
}

void grouped_matmul(Context& context, const TrefoilLaunch& launch) {
  Groups groups = read_forward(launch);
  const int32_t* offsets = data<const int32_t>(launch.inputs[2]);
  const int32_t* row_index = optional_index(launch, 3);
  float* y = data<float>(launch.outputs[0]);
  check_offsets("grouped_matmul", offsets, groups.count, groups.product.m);
  if (row_index) check_index("grouped_matmul", "row_index", row_index, groups.product.m, launch.inputs[0].shape[0]);
  Gemm* products = static_cast<Gemm*>(launch.workspace);
  for (int64_t e = 0; e < groups.count; ++e) {
    Gemm g = groups.product;
    int64_t first = offsets[e];
    g.m = offsets[e + 1] - first;
    if (row_index) g.a.rows = row_index + first;
    else g.a.data = static_cast<const char*>(g.a.data) + first * g.k * (g.a.bf16 ? 2 : 4);
    g.b.data = static_cast<const char*>(g.b.data) + e * g.k * g.n * (g.b.bf16 ? 2 : 4);
    g.c = y + first * g.n;
    products[e] = g;
  }
  gemm(context, products, groups.count, static_cast<char*>(launch.workspace) + products_bytes(groups.count));
}

// a [R, M], b [R, N], offsets [E + 1] -> w [E, M, N]
Groups read_weight_grad(const TrefoilLaunch& launch) {
  const TrefoilView& a = launch.inputs[0];
  const TrefoilView& b = launch.inputs[1];
  const TrefoilView& w = launch.outputs[0];
  Groups groups{};
  groups.count = w.shape[0];
  Gemm& g = groups.product;
  g.m = w.shape[1];
  g.n = w.shape[2];
  g.a = {a.data, g.m, true, a.dtype == TREFOIL_BF16, nullptr};
  g.b = {b.data, g.n, false, b.dtype == TREFOIL_BF16, nullptr};
  g.c_stride = g.n;
  return groups;
}

// Rows to contract over: as many as an index lists, else as many as are stored. An absent input has rank 0.
int64_t contracted_rows(const TrefoilLaunch& launch) {
  for (int input = 3; input < 5; ++input)
    if (launch.input_count > input && launch.inputs[input].rank == 1) return launch.inputs[input].shape[0];
  return launch.inputs[0].shape[0];
}

size_t grouped_weight_grad_workspace(const TrefoilLaunch& launch) {
  Groups groups = read_weight_grad(launch);
  Gemm& g = groups.product;
  g.k = contracted_rows(launch);
  // Whether b is read through an index, which rules some methods out, is not known yet.
  size_t plain = gemm_workspace(g, groups.count, g.k);
  g.a.rows = g.b.rows = &kSomeRow;
  size_t indexed = gemm_workspace(g, groups.count, g.k);
  return products_bytes(groups.count) + (plain > indexed ? plain : indexed);
}

void grouped_matmul_weight_grad(Context& context, const TrefoilLaunch& launch) {
  Groups groups = read_weight_grad(launch);
  const int32_t* offsets = data<const int32_t>(launch.inputs[2]);
  const int32_t* a_index = optional_index(launch, 3);
  const int32_t* b_index = optional_index(launch, 4);
  float* w = data<float>(launch.outputs[0]);
  const int64_t rows = contracted_rows(launch), a_rows = launch.inputs[0].shape[0], b_rows = launch.inputs[1].shape[0];
  check_offsets("grouped_matmul_weight_grad", offsets, groups.count, rows);
  if (a_index) check_index("grouped_matmul_weight_grad", "a_index", a_index, rows, a_rows);
  if (b_index) check_index("grouped_matmul_weight_grad", "b_index", b_index, rows, b_rows);
  if ((!a_index && a_rows < rows) || (!b_index && b_rows < rows))
    fail(TREFOIL_INVALID_ARGUMENT, "grouped_matmul_weight_grad: a has %lld rows and b %lld; without an index each needs %lld",
         static_cast<long long>(a_rows), static_cast<long long>(b_rows), static_cast<long long>(rows));
  Gemm* products = static_cast<Gemm*>(launch.workspace);
  for (int64_t e = 0; e < groups.count; ++e) {
    Gemm g = groups.product;
    int64_t first = offsets[e];
    g.k = offsets[e + 1] - first;
    if (a_index) g.a.rows = a_index + first;
    else g.a.data = static_cast<const char*>(g.a.data) + first * g.m * (g.a.bf16 ? 2 : 4);
    if (b_index) g.b.rows = b_index + first;
    else g.b.data = static_cast<const char*>(g.b.data) + first * g.n * (g.b.bf16 ? 2 : 4);
    g.c = w + e * g.m * g.n;
    products[e] = g;
  }
  gemm(context, products, groups.count, static_cast<char*>(launch.workspace) + products_bytes(groups.count));
}

}  // namespace

extern const KernelEntry grouped_matmul_kernels[];
const KernelEntry grouped_matmul_kernels[] = {
    {"grouped_matmul", grouped_matmul, grouped_matmul_workspace},
    {"grouped_matmul_weight_grad", grouped_matmul_weight_grad, grouped_weight_grad_workspace},
    {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
