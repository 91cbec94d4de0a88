#include "gemv.h"

namespace trefoil::cuda {

namespace {

constexpr int kWarps = 8;
constexpr int kColumns = 4;  // of C to a block where b is stored [n, k]

// x [rows, k] in f32 from a stored either way round, in either type.
template <class T>
__global__ void __launch_bounds__(256) widen_rows(const T* a, float* x, int64_t total, int rows, int k, bool by_depth) {
  for (int64_t i = first_index(); i < total; i += index_stride()) {
    const int64_t product = i / (static_cast<int64_t>(rows) * k);
    const int row = static_cast<int>(i / k % rows), step = static_cast<int>(i % k);
    x[i] = widen(a[product * rows * k + (by_depth ? static_cast<int64_t>(row) * k + step : static_cast<int64_t>(step) * rows + row)]);
  }
}

__device__ __forceinline__ void store_element(const Product& p, int product, int row, int column, float sum) {
  const int64_t within = static_cast<int64_t>(row) * p.n + column;
  if (p.splits > 1) {
    p.partials[((static_cast<int64_t>(blockIdx.z) * p.count + product) * p.m) * p.n + within] = sum;
  } else {
    const int64_t at = product * p.c_step + within;
    p.c.store(at, finish(p.epilogue, sum, column, at, product * p.residual_step + within));
  }
}

// b [n, k]: a block takes four columns of C; its warps share k. Rows that are not there repeat the last one, so that nothing is decided between
// the loads.
template <class T, int rows>
__global__ void __launch_bounds__(kWarps * 32, 2) gemv_by_depth(const float* x, const T* b, int64_t b_step, Product p, bool vectors) {
  constexpr int kWidth = kVectorWidth<T>;
  TREFOIL_SHARED(parts, float[kWarps][rows * kColumns]);
  const int product = static_cast<int>(blockIdx.y), column = static_cast<int>(blockIdx.x) * kColumns;
  x += static_cast<int64_t>(product) * p.m * p.k;
  b += product * b_step;
  const T* line[kColumns];
#pragma unroll
  for (int j = 0; j < kColumns; ++j) line[j] = b + static_cast<int64_t>(column + j < p.n ? column + j : column) * p.k;
  float sums[rows][kColumns] = {};
  if (vectors) {
#pragma unroll(rows == 1 ? 2 : 1)
    for (int k = static_cast<int>(threadIdx.x) * kWidth; k < p.k; k += kWarps * 32 * kWidth) {
      Vector<kWidth> weights[kColumns];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) weights[j] = load_vector<kWidth>(line[j] + k);
#pragma unroll
      for (int part = 0; part < kWidth; part += 4) {
#pragma unroll
        for (int i = 0; i < rows; ++i) {
          const Vector<4> at = load_vector<4>(x + (min(i, p.m - 1) * p.k + k + part));
#pragma unroll
          for (int step = 0; step < 4; ++step)
#pragma unroll
            for (int j = 0; j < kColumns; ++j) sums[i][j] = fmaf(at[step], weights[j][part + step], sums[i][j]);
        }
      }
    }
  } else {
#pragma unroll 1
    for (int k = static_cast<int>(threadIdx.x); k < p.k; k += kWarps * 32) {
      float weights[kColumns];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) weights[j] = widen(line[j][k]);
#pragma unroll
      for (int i = 0; i < rows; ++i) {
        const float at = x[min(i, p.m - 1) * p.k + k];
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sums[i][j] = fmaf(at, weights[j], sums[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < rows; ++i)
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const float sum = warp_sum(sums[i][j]);
      if (lane_index() == 0) parts[warp_index()][i * kColumns + j] = sum;
    }
  __syncthreads();
  const int slot = static_cast<int>(threadIdx.x), row = slot / kColumns, at = column + slot % kColumns;
  if (slot >= rows * kColumns || row >= p.m || at >= p.n) return;
  float sum = parts[0][slot];
  for (int warp = 1; warp < kWarps; ++warp) sum += parts[warp][slot];
  store_element(p, product, row, at, sum);
}

// b [k, n]: lanes take neighbouring columns, warps share the part of k that blockIdx.z has.
template <class T, int rows>
__global__ void __launch_bounds__(kWarps * 32, 2) gemv_by_columns(const float* x, const T* b, int64_t b_step, Product p, bool vectors) {
  constexpr int kWidth = kVectorWidth<T>, kSpan = 32 * kWidth;
  TREFOIL_SHARED(parts, float[kWarps][kSpan]);
  const int product = static_cast<int>(blockIdx.y), column = static_cast<int>(blockIdx.x) * kSpan, lane = lane_index(), warp = warp_index();
  x += static_cast<int64_t>(product) * p.m * p.k;
  b += product * b_step + column;
  const int per_split = (p.k + p.splits - 1) / p.splits, first = static_cast<int>(blockIdx.z) * per_split;
  const int last = min(first + per_split, p.k);
  // Column j of this thread: neighbours where b is read in vectors, else 32 apart.
  auto offset = [&](int j) { return vectors ? lane * kWidth + j : lane + 32 * j; };
  float sums[rows][kWidth] = {};
  constexpr int kTogether = rows == 8 ? 2 : 4;  // rows of b that are asked for before the first is used
  for (int k = first + warp; k < last; k += kTogether * kWarps) {
    if (vectors && column + lane * kWidth >= p.n) break;
    Vector<kWidth> weights[kTogether];
#pragma unroll
    for (int t = 0; t < kTogether; ++t) {
      const T* line = b + static_cast<int64_t>(min(k + t * kWarps, last - 1)) * p.n;
      if (vectors) {
        weights[t] = load_vector<kWidth>(line + lane * kWidth);
      } else {
#pragma unroll
        for (int j = 0; j < kWidth; ++j) weights[t][j] = column + lane + 32 * j < p.n ? widen(line[lane + 32 * j]) : 0.0f;
      }
    }
#pragma unroll
    for (int t = 0; t < kTogether; ++t) {
      if (k + t * kWarps >= last) break;
#pragma unroll
      for (int i = 0; i < rows; ++i) {
        const float at = x[min(i, p.m - 1) * p.k + k + t * kWarps];
#pragma unroll
        for (int j = 0; j < kWidth; ++j) sums[i][j] = fmaf(at, weights[t][j], sums[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    if (i >= p.m) break;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kWidth; ++j) parts[warp][offset(j)] = sums[i][j];
    __syncthreads();
    for (int at = static_cast<int>(threadIdx.x); at < kSpan && column + at < p.n; at += kWarps * 32) {
      float sum = parts[0][at];
      for (int from = 1; from < kWarps; ++from) sum += parts[from][at];
      store_element(p, product, i, column + at, sum);
    }
  }
}

template <class T, int rows>
void run(const Context& context, const float* x, const Matrix& b, const Product& p) {
  constexpr int kWidth = kVectorWidth<T>;
  const int64_t step = b.count > 1 ? b.rows * b.columns : 0;
  const T* weights = static_cast<const T*>(b.data);
  const bool vectors = b.columns % kWidth == 0;
  const unsigned count = static_cast<unsigned>(p.count);
  if (b.by_depth)
    launch(context, {dim3(static_cast<unsigned>(ceil_divide(p.n, kColumns)), count), kWarps * 32}, gemv_by_depth<T, rows>, x, weights, step, p, vectors);
  else
    launch(context, {dim3(static_cast<unsigned>(ceil_divide(p.n, 32 * kWidth)), count, static_cast<unsigned>(p.splits)), kWarps * 32},
           gemv_by_columns<T, rows>, x, weights, step, p, vectors);
}

template <class T>
void run_rows(const Context& context, const float* x, const Matrix& b, const Product& p) {
  if (p.m == 1) run<T, 1>(context, x, b, p);
  else if (p.m == 2) run<T, 2>(context, x, b, p);
  else if (p.m <= 4) run<T, 4>(context, x, b, p);
  else run<T, 8>(context, x, b, p);
}

}  // namespace

void gemv(const Context& context, Workspace& workspace, const Matrix& a, const Matrix& b, Product p) {
  const size_t mark = workspace.mark();
  const int64_t total = int64_t{p.count} * p.m * p.k;
  // A row of x is read in vectors of four where rows of b are.
  const bool as_is = a.by_depth && a.dtype == TREFOIL_F32;
  float* widened = as_is ? nullptr : workspace.take<float>(total);
  if (!b.by_depth) {
    // Blocks enough for the device, each with eight steps of k to a warp at least.
    const int64_t blocks = ceil_divide(p.n, 32 * (b.dtype == TREFOIL_BF16 ? 8 : 4)) * p.count, wanted = ceil_divide(264, blocks), most = p.k / 64;
    p.splits = static_cast<int>(wanted < most ? wanted : most);
    if (p.splits < 1) p.splits = 1;
    p.partials = workspace.take<float>(partial_elements(p));
  }
  if (workspace.running()) {
    const float* x = as_is ? static_cast<const float*>(a.data) : widened;
    if (!as_is && total > 0) {
      const dim3 grid = context.grid(total, 256);
      if (a.dtype == TREFOIL_BF16)
        launch(context, {grid, 256}, widen_rows<bf16>, static_cast<const bf16*>(a.data), widened, total, p.m, p.k, a.by_depth);
      else
        launch(context, {grid, 256}, widen_rows<float>, static_cast<const float*>(a.data), widened, total, p.m, p.k, a.by_depth);
    }
    if (b.dtype == TREFOIL_BF16) run_rows<bf16>(context, x, b, p);
    else run_rows<float>(context, x, b, p);
    if (p.splits > 1) add_splits(context, p);
  }
  workspace.release_to(mark);
}

}  // namespace trefoil::cuda
