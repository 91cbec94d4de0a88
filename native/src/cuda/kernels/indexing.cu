// Gathers and scatters by i32 indices. Sums run in the order of the source.
#include "floats.h"
#include "workspace.h"

namespace trefoil::cuda {

namespace {

// blockDim.x threads take a row, blockDim.y rows a block. The index of the next row is asked for before this one is copied.
template <int width, class Table, class Y>
__global__ void __launch_bounds__(256) gather_rows_kernel(const Table* table, const int32_t* index, Y* y, int64_t rows, int columns, int64_t bound,
                                                          ErrorRecord* errors) {
  constexpr int kTogether = width == 8 ? 2 : 4;  // vectors that a thread asks for before it stores the first
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y;
  int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  int32_t next = row < rows ? index[row] : -1;
  for (; row < rows; row += step) {
    const int32_t from = next;
    if (row + step < rows) next = index[row + step];
    const bool valid = index_in_range(errors, Checked::gather_rows_index, from, row, -1, bound) && from >= 0;
    const Floats to = Floats(y).from(row * columns);
    const int apart = static_cast<int>(blockDim.x) * width;
    int column = static_cast<int>(threadIdx.x) * width;
    if (!valid) {
      for (; column < columns; column += apart) to.store_vector(column, Vector<width>{});
      continue;
    }
    const Table* source = table + from * static_cast<int64_t>(columns);
    for (; column < columns; column += kTogether * apart) {
      Vector<width> values[kTogether];
#pragma unroll
      for (int k = 0; k < kTogether; ++k) values[k] = load_vector<width>(source + (column + k * apart < columns ? column + k * apart : column));
#pragma unroll
      for (int k = 0; k < kTogether; ++k)
        if (column + k * apart < columns) to.store_vector(column + k * apart, values[k]);
    }
  }
}

void gather_rows(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView &table = args.inputs[0], &y = args.outputs[0];
  if (!y.data || elements(y) == 0) return;
  const int64_t rows = elements(args.inputs[1]), columns = elements(y) / rows, bound = table.shape[0];
  if (columns * bound != elements(table)) fail(TREFOIL_INVALID_ARGUMENT, "gather_rows: rows of the table and the output differ in length");
  if (columns > INT32_MAX / 2) fail(TREFOIL_INVALID_ARGUMENT, "gather_rows: rows of 2^30 elements or more");
  const int width = columns % 8 == 0 ? 8 : 1;
  unsigned threads = 1;  // to a row
  while (threads < 256 && threads * static_cast<unsigned>(width) < columns) threads *= 2;
  with_floats(table, y, [&]<class Table, class Y>(Table* from, Y* to) {
    launch(context, {context.grid(rows, 256 / threads), dim3(threads, 256 / threads)}, width == 8 ? gather_rows_kernel<8, Table, Y> : gather_rows_kernel<1, Table, Y>,
           from, data<int32_t>(args.inputs[1]), to, rows, static_cast<int>(columns), bound, context.errors);
  });
}

// uses[v] = how many of the indices are v.
__global__ void count_uses_kernel(const int32_t* index, int64_t count, int64_t bound, int32_t* uses, ErrorRecord* errors) {
  for (int64_t i = first_index(); i < count; i += index_stride())
    if (index_in_range(errors, Checked::scatter_add_rows_index, index[i], i, -1, bound) && index[i] >= 0) atomicAdd(uses + index[i], 1);
}

// A place in the list for the uses of each row that has at most a warp of them, 0 for others. Which place depends on the order of the blocks, but only
// the place does.
__global__ void reserve_uses_kernel(const int32_t* uses, int64_t bound, int32_t* places, int32_t* taken) {
  for (int64_t v = first_index(); v < bound; v += index_stride()) places[v] = uses[v] > 0 && uses[v] <= kWarp ? atomicAdd(taken, uses[v]) : 0;
}

// places[v] moves past the row's uses, which the list then holds in some order.
__global__ void list_uses_kernel(const int32_t* index, int64_t count, int64_t bound, const int32_t* uses, int32_t* places, int32_t* list) {
  for (int64_t i = first_index(); i < count; i += index_stride()) {
    const int32_t v = index[i];
    if (v >= 0 && v < bound && uses[v] <= kWarp) list[atomicAdd(places + v, 1)] = static_cast<int32_t>(i);
  }
}

// Lane i gets the i-th smallest of the lanes' numbers, which differ (but for INT32_MAX: those come last).
__device__ int32_t sorted_lanes(int32_t own) {
  int32_t result = INT32_MAX;
  int rank = 0;
  for (int other = 0; other < kWarp; ++other) rank += __shfl_sync(kFullWarp, own, other) < own;
  for (int other = 0; other < kWarp; ++other) {
    const int32_t value = __shfl_sync(kFullWarp, own, other);
    if (__shfl_sync(kFullWarp, rank, other) == lane_index()) result = value;
  }
  return result;
}

template <class T>
struct Scatter {
  const T* rows;
  const int32_t* index;
  int64_t count;
  const int32_t *uses, *places, *list;
  Floats y;
  int64_t bound, width;
};

// One block per row of the result. Sums are made in the order of N: the few uses of a row are sorted within each warp, and four are asked for
// before the first is added; of many, the warp walks all indices, 32 at a time, until it has met them.
template <int vector, class T>
__global__ void __launch_bounds__(256, 4) scatter_add_rows_kernel(Scatter<T> s) {
  constexpr int kTogether = 4;
  const int lane = lane_index();
  for (int64_t v = blockIdx.x; v < s.bound; v += gridDim.x) {
    const int32_t used = s.uses[v], place = s.places[v];
    const bool listed = used <= kWarp;
    const int32_t uses = listed && used > 0 ? sorted_lanes(lane < used ? s.list[place - used + lane] : INT32_MAX) : 0;
    for (int64_t base = static_cast<int64_t>(warp_index()) * kWarp * vector; base < s.width; base += static_cast<int64_t>(blockDim.x) * vector) {
      const int64_t own = base + lane * vector, column = own < s.width ? own : 0;  // all lanes go along
      Vector<vector> sum = {};
      if (listed) {
        for (int first = 0; first < used; first += kTogether) {
          const T* from[kTogether];
          Vector<vector> values[kTogether];
#pragma unroll
          for (int k = 0; k < kTogether; ++k) from[k] = s.rows + __shfl_sync(kFullWarp, uses, first + k < used ? first + k : first) * s.width + column;
#pragma unroll
          for (int k = 0; k < kTogether; ++k) values[k] = load_vector<vector>(from[k]);
#pragma unroll
          for (int k = 0; k < kTogether; ++k)
#pragma unroll
            for (int i = 0; i < vector; ++i) sum[i] = first + k < used ? sum[i] + values[k][i] : sum[i];
        }
      } else {
        int32_t met = 0;
        for (int64_t at = 0; met < used && at < s.count; at += kWarp) {
          uint32_t matches = __ballot_sync(kFullWarp, at + lane < s.count && s.index[at + lane] == v);
          for (; matches; matches &= matches - 1, ++met) {
            const Vector<vector> values = load_vector<vector>(s.rows + (at + __ffs(static_cast<int>(matches)) - 1) * s.width + column);
#pragma unroll
            for (int i = 0; i < vector; ++i) sum[i] += values[i];
          }
        }
      }
      if (own < s.width) s.y.store_vector(v * s.width + column, sum);
    }
  }
}

void scatter_add_rows(const Context& context, Workspace& workspace, const TrefoilLaunch& args) {
  const TrefoilView &rows = args.inputs[0], &y = args.outputs[0];
  const int64_t count = elements(args.inputs[1]), bound = y.shape[0];
  if (count > INT32_MAX) fail(TREFOIL_INVALID_ARGUMENT, "scatter_add_rows: 2^31 rows or more");
  auto* uses = workspace.take<int32_t>(bound + 1);  // and, last, how much of the list is taken
  int32_t *places = workspace.take<int32_t>(bound), *list = workspace.take<int32_t>(count);
  if (!workspace.running() || !y.data || elements(y) == 0) return;
  const int64_t width = elements(y) / bound;
  if (count * width != elements(rows)) fail(TREFOIL_INVALID_ARGUMENT, "scatter_add_rows: rows, index and output do not fit each other");
  const auto* index = data<int32_t>(args.inputs[1]);
  zero_memory(context, uses, static_cast<size_t>(bound + 1) * sizeof(int32_t));
  if (count > 0) {
    launch(context, {context.grid(count, 256), 256}, count_uses_kernel, index, count, bound, uses, context.errors);
    launch(context, {context.grid(bound, 256), 256}, reserve_uses_kernel, uses, bound, places, uses + bound);
    launch(context, {context.grid(count, 256), 256}, list_uses_kernel, index, count, bound, uses, places, list);
  }
  const bool vector = width % 8 == 0;
  const int64_t lanes = width / (vector ? 8 : 1);
  const unsigned threads = lanes > 128 ? 256 : lanes > 64 ? 128 : 32;
  with_floats(rows, [&]<class T>(T* from) {
    launch(context, {context.grid(bound, 1, 16), threads}, vector ? scatter_add_rows_kernel<8, T> : scatter_add_rows_kernel<1, T>,
           Scatter<T>{from, index, count, uses, places, list, Floats(y), bound, width});
  });
}

__global__ void gather_last_kernel(const float* x, const int32_t* index, float* y, int64_t count, int64_t kept, int64_t width, ErrorRecord* errors) {
  for (int64_t i = first_index(); i < count; i += index_stride()) {
    const int64_t from = index[i];
    const bool valid = index_in_range(errors, Checked::gather_last_index, from, i, -1, width) && from >= 0;
    y[i] = valid ? x[i / kept * width + from] : 0.0f;
  }
}

void gather_last(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView &x = args.inputs[0], &y = args.outputs[0];
  if (!y.data || elements(y) == 0) return;
  const int64_t kept = last_dimension(y), rows = row_count(y), width = last_dimension(x);
  if (row_count(x) != rows || elements(args.inputs[1]) != rows * kept)
    fail(TREFOIL_INVALID_ARGUMENT, "gather_last: x, index and output do not fit each other");
  launch(context, {context.grid(rows * kept, 256), 256}, gather_last_kernel, data<float>(x), data<int32_t>(args.inputs[1]), data<float>(y), rows * kept,
         kept, width, context.errors);
}

// A warp per row: zeros, then the values one after another, as repeats add up in order.
__global__ void scatter_last_kernel(const float* values, const int32_t* index, float* y, int64_t rows, int64_t kept, int64_t width, ErrorRecord* errors) {
  const int lane = lane_index();
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kWarp);
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + warp_index(); row < rows; row += warps) {
    float* to = y + row * width;
    for (int64_t i = lane; i < width; i += kWarp) to[i] = 0;
    __syncwarp();
    for (int64_t base = 0; base < kept; base += kWarp) {
      const int64_t k = row * kept + base + lane;
      const int32_t at = base + lane < kept ? index[k] : -1;
      const bool valid = index_in_range(errors, Checked::scatter_last_index, at, k, -1, width) && at >= 0;
      const int in_chunk = kept - base < kWarp ? static_cast<int>(kept - base) : kWarp;
      for (int turn = 0; turn < in_chunk; ++turn) {
        if (turn == lane && valid) to[at] += values[k];
        __syncwarp();
      }
    }
  }
}

void scatter_last(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView &values = args.inputs[0], &y = args.outputs[0];
  if (!y.data || elements(y) == 0) return;
  const int64_t width = last_dimension(y), rows = row_count(y), kept = elements(values) / rows;
  if (kept * rows != elements(values) || elements(args.inputs[1]) != rows * kept)
    fail(TREFOIL_INVALID_ARGUMENT, "scatter_last: values, index and output do not fit each other");
  launch(context, {context.grid(rows, 4), 128}, scatter_last_kernel, data<float>(values), data<int32_t>(args.inputs[1]), data<float>(y), rows, kept,
         width, context.errors);
}

template <class T>
__global__ void iota_kernel(T* y, int64_t count) {
  for (int64_t i = first_index(); i < count; i += index_stride()) y[i] = static_cast<T>(i);
}

void iota(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView& y = args.outputs[0];
  const int64_t count = elements(y);
  if (!y.data || count == 0) return;
  const Shape shape{context.grid(count, 256), 256};
  if (y.dtype == TREFOIL_F32)
    launch(context, shape, iota_kernel<float>, data<float>(y), count);
  else
    launch(context, shape, iota_kernel<int32_t>, data<int32_t>(y), count);
}

}  // namespace

extern const KernelEntry indexing_kernels[] = {{"gather_rows", gather_rows, nullptr},
                                               with_workspace<scatter_add_rows>("scatter_add_rows"),
                                               {"gather_last", gather_last, nullptr},
                                               {"scatter_last", scatter_last, nullptr},
                                               {"iota", iota, nullptr},
                                               {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
