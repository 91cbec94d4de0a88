#include "multiply.h"

#include <algorithm>

#include "cublaslt.h"
#include "divisor.h"
#include "gemm_wgmma.h"

namespace trefoil::cuda {

namespace {

// to [rows, stride] = from [rows, columns] converted; columns past the last become zero. An item is 16 bytes of the result.
template <class From, class To>
__global__ void __launch_bounds__(kLoopThreads, kLoopBlocks) pack_rows(const From* from, To* to, int64_t items, Divisor per_row, int64_t columns, const int32_t* index,
                                                                       int64_t stored, bool vectors) {
  constexpr int width = kVectorWidth<To>;
  for (int64_t i = first_index(); i < items; i += index_stride()) {
    const Divided at = per_row.divide(i);
    const int64_t column = at.remainder * width, source = index ? index[at.quotient] : at.quotient, left = columns - column;
    Vector<width> x{};
    if (source >= 0 && source < stored) {
      const From* row = from + source * columns + column;
      if (vectors) {
        x = load_vector<width>(row);
      } else {
#pragma unroll
        for (int k = 0; k < width; ++k)
          if (k < left) x[k] = widen(row[k]);
      }
    }
    store_vector(to + i * width, x);
  }
}

template <class From, class To>
void launch_pack(const Context& context, const Matrix& m, To* to, int64_t stride, bool resolve_index) {
  const bool indexed = resolve_index && m.index;
  const int64_t rows = (indexed ? m.rows : m.index ? m.stored_rows : m.rows) * m.count;
  if (rows * stride == 0) return;
  constexpr int64_t kWidth = kVectorWidth<To>;
  const int64_t items = rows * stride / kWidth;
  launch(context, {context.grid(items, kLoopThreads, kLoopBlocks), kLoopThreads}, pack_rows<From, To>, static_cast<const From*>(m.data), to, items, Divisor(stride / kWidth),
         m.columns, indexed ? m.index : nullptr, indexed ? m.stored_rows : rows, m.columns % kWidth == 0);
}

constexpr int kAddBlocks = 4;  // 64 registers to a thread

// c = the parts in order, then the epilogue. An item is `width` neighbouring columns of a row.
template <int width>
__global__ void __launch_bounds__(kLoopThreads, kAddBlocks) add_partials(const __grid_constant__ Product p, Divisor columns, Divisor rows, int64_t items) {
  const int64_t total = items * width;
  for (int64_t item = first_index(); item < items; item += index_stride()) {
    const Divided of_row = columns.divide(item), of_product = rows.divide(of_row.quotient);
    const int row = static_cast<int>(of_product.remainder), column = static_cast<int>(of_row.remainder) * width;
    const int64_t product = of_product.quotient, within = placed_row(p.placement, row) * p.n + column, at = product * p.c_step + within;
    Vector<width> sum = load_vector<width>(p.partials + item * width), residual{};
    if (p.epilogue.residual) residual = p.epilogue.residual.load_vector<width>(product * p.residual_step + within);
    for (int part = 1; part < p.splits; ++part) {
      const Vector<width> more = load_vector<width>(p.partials + part * total + item * width);
#pragma unroll
      for (int k = 0; k < width; ++k) sum[k] += more[k];
    }
#pragma unroll
    for (int k = 0; k < width; ++k) {
      sum[k] = finish_product(p.epilogue, sum[k], column + k, at + k);
      if (p.epilogue.residual) sum[k] += residual[k];
    }
    p.c.store_vector(at, sum);
  }
}

// Plain products of some size go to cuBLASLt where it is there; false: they do not. The library adds a residual that is stored as C is; any other
// epilogue passes over C once more.
bool multiply_by_library(const Context& context, Workspace& workspace, const Rows<bf16>& a, bool a_by_depth, const Rows<bf16>& b, bool b_by_depth, Product p) {
  const Epilogue& e = p.epilogue;
  const int64_t size = int64_t{p.m} * p.n;
  const bool scaled = !e.bias && !e.preactivation && e.activation == Activation::none;
  const bool added = scaled && e.residual && e.residual.half == p.c.half && (p.count == 1 || p.residual_step == size);
  const bool plain = p.schedule == Schedule::batch && p.placement.columns == 0 && !a.index && !b.index && (p.count == 1 || p.c_step == size) &&
                     (!p.c || added || e.residual.data != p.c.data);  // C as its own residual would be lost
  if (!context.cublaslt || !plain || p.m < 32 || p.n < 32 || p.k == 0) return false;
  // At a multiple of 256 bytes, which is more than planned memory promises.
  auto scratch = reinterpret_cast<uintptr_t>(workspace.take<char>(static_cast<int64_t>(Cublaslt::kWorkspaceBytes) + 192));
  scratch = (scratch + 255) / 256 * 256;
  // What an epilogue still has to pass over stays f32. Whether there is one is not known while the workspace is measured.
  float* sums = p.c.half ? workspace.take<float>(p.count * size) : nullptr;
  if (!workspace.running()) return false;  // our own kernel's needs count too: the library may have no algorithm
  const bool finished = added || (scaled && !e.residual);
  const Floats c = finished || !sums ? p.c : Floats(sums);
  context.note_other();
  if (!context.cublaslt->multiply(context.stream, {a.data, a.stride, a.step, a_by_depth}, {b.data, b.stride, b.step, b_by_depth}, p.m, p.n, p.k, p.count,
                                  finished ? e.alpha : 1.0f, added ? e.residual.data : nullptr, c.data, c.half, reinterpret_cast<void*>(scratch)))
    return false;
  if (!finished) {
    p.splits = 1;
    p.partials = static_cast<float*>(c.data);  // C itself where it is f32: every element is read and written by one thread
    add_splits(context, p);
  }
  return true;
}

template <class T>
void multiply_as(const Context& context, Workspace& workspace, const Matrix& a, const Matrix& b, Product p) {
  const size_t mark = workspace.mark();
  const bool large = fills_large_tiles(p);
  const int cluster = sizeof(T) == 2 ? choose_cluster(context, p) : 1;
  p.splits = cluster > 1 ? cluster : choose_splits(p, large ? 128 : 64, 32);
  // An index is resolved while tiles are loaded where it names rows of C; beforehand where it names steps of k, or where the copy engine
  // loads the tiles.
  const bool by_engine = sizeof(T) == 2 && context.wgmma;
  const Rows<T> left = as_rows<T>(context, workspace, a, !a.by_depth || by_engine), right = as_rows<T>(context, workspace, b, !b.by_depth);
  p.constant_b = b.constant && right.data == b.data;
  bool done = false;
  if constexpr (sizeof(T) == 2) {
    const size_t before = workspace.mark();
    done = multiply_by_library(context, workspace, left, a.by_depth, right, b.by_depth, p);
    workspace.release_to(before);
  }
  if constexpr (sizeof(T) == 2)
    if (cluster > 1) {
      if (workspace.running() && !done) gemm_rows_in_clusters(context, left, a.by_depth, right, b.by_depth, p);
      return workspace.release_to(mark);
    }
  p.partials = workspace.take<float>(partial_elements(p));
  if constexpr (sizeof(T) == 2)
    if (workspace.running() && !done && gemm_wgmma(context, left, a.by_depth, right, b.by_depth, p)) {
      if (p.splits > 1) add_splits(context, p);
      done = true;
    }
  if (workspace.running() && !done) {
    gemm_rows(context, left, a.by_depth, right, b.by_depth, p, large);
    if (p.splits > 1) add_splits(context, p);
  }
  workspace.release_to(mark);
}

}  // namespace

template <class T>
Rows<T> as_rows(const Context& context, Workspace& workspace, const Matrix& m, bool resolve_index) {
  constexpr int64_t kWidth = 16 / sizeof(T);
  constexpr int32_t dtype = sizeof(T) == 4 ? TREFOIL_F32 : TREFOIL_BF16;
  const int64_t stored = m.index ? m.stored_rows : m.rows;
  Rows<T> rows;
  // f32 rows of odd lengths are read word by word; bf16 ones could not be copied asynchronously.
  const bool as_is = m.dtype == dtype && !(m.index && resolve_index) && (sizeof(T) == 4 || m.columns % kWidth == 0);
  rows.stride = as_is ? m.columns : ceil_divide(m.columns, kWidth) * kWidth;
  rows.aligned = rows.stride % kWidth == 0;
  if (as_is) {
    rows.data = static_cast<const T*>(m.data);
  } else {
    const int64_t kept = m.index && resolve_index ? m.rows : stored;
    T* packed = workspace.take<T>(kept * m.count * rows.stride);
    rows.data = packed;
    if (workspace.running()) {
      if (m.dtype == TREFOIL_BF16) launch_pack<bf16, T>(context, m, packed, rows.stride, resolve_index);
      else launch_pack<float, T>(context, m, packed, rows.stride, resolve_index);
    }
  }
  if (m.index && !resolve_index) {
    rows.index = m.index;
    rows.stored = static_cast<int>(m.stored_rows);
  }
  rows.step = m.count > 1 ? m.rows * rows.stride : 0;
  return rows;
}
template Rows<float> as_rows<float>(const Context&, Workspace&, const Matrix&, bool);
template Rows<bf16> as_rows<bf16>(const Context&, Workspace&, const Matrix&, bool);

bool fills_large_tiles(const Product& p) {
  const int64_t products = p.schedule == Schedule::row_groups ? 1 : p.count;
  return p.n > 64 && p.m > 64 && ceil_divide(p.m, 128) * ceil_divide(p.n, 128) * products >= kFullWave / 2;
}

int choose_splits(const Product& p, int side, int depth) {
  if (p.schedule != Schedule::batch) return 1;
  const int64_t tiles = ceil_divide(p.m, side) * ceil_divide(p.n, side) * p.count;
  if (tiles == 0 || tiles >= kFullWave) return 1;
  const int64_t most = p.k / (8 * depth), wanted = 2 * kFullWave / tiles;
  const int64_t splits = wanted < most ? wanted : most;
  return static_cast<int>(splits < 1 ? 1 : splits > 64 ? 64 : splits);
}

int choose_cluster(const Context& context, const Product& p) {
  if (!context.clusters || context.wgmma || p.schedule != Schedule::batch || p.m > kClusterRows) return 1;
  const int64_t tiles = ceil_divide(p.n, kClusterColumns) * p.count, most = p.k / 256;
  const int64_t parts = std::min({tiles > 0 ? 2 * kFullWave / tiles : 1, most, int64_t{kMostInCluster}});
  return static_cast<int>(parts < 1 ? 1 : parts);
}

void add_splits(const Context& context, const Product& p) {
  const bool four = p.n % 4 == 0;
  const int64_t columns = four ? p.n / 4 : p.n, items = int64_t{p.count} * p.m * columns;
  launch(context, {context.grid(items, kLoopThreads, kAddBlocks), kLoopThreads}, four ? add_partials<4> : add_partials<1>, p, Divisor(columns), Divisor(p.m), items);
}

void multiply(const Context& context, Workspace& workspace, const Matrix& a, const Matrix& b, Product p) {
  if (p.m == 0 || p.n == 0 || p.count == 0) return;
  if (context.precision == Precision::bf16) multiply_as<bf16>(context, workspace, a, b, p);
  else multiply_as<float>(context, workspace, a, b, p);
}

}  // namespace trefoil::cuda
