// Gathers and scatters by i32 indices. Sums run in the order of the source.
#include "floats.h"
#include "workspace.h"

namespace trefoil::cuda {

namespace {

// An item is four elements of a row (vector) or one.
template <bool vector, class Table, class Y>
__global__ void gather_rows_kernel(const Table* table, const int32_t* index, Y* y, int64_t items, int64_t per_row, int64_t bound, ErrorRecord* errors) {
  for (int64_t item = first_index(); item < items; item += index_stride()) {
    const int64_t row = item / per_row, column = item - row * per_row, from = index[row];
    const bool valid = index_in_range(errors, Checked::gather_rows_index, from, row, -1, bound) && from >= 0;
    if constexpr (vector)
      store4(y + item * 4, valid ? load4(table + (from * per_row + column) * 4) : make_float4(0, 0, 0, 0));
    else
      y[item] = narrow<Y>(valid ? widen(table[from * per_row + column]) : 0.0f);
  }
}

void gather_rows(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView &table = args.inputs[0], &y = args.outputs[0];
  if (!y.data || elements(y) == 0) return;
  const int64_t width = elements(y) / elements(args.inputs[1]), bound = table.shape[0];
  if (width * bound != elements(table)) fail(TREFOIL_INVALID_ARGUMENT, "gather_rows: rows of the table and the output differ in length");
  const bool vector = width % 4 == 0;
  const int64_t items = elements(y) / (vector ? 4 : 1);
  with_floats(table, y, [&]<class Table, class Y>(Table* from, Y* to) {
    launch(context, {context.grid(items, 256), 256}, vector ? gather_rows_kernel<true, Table, Y> : gather_rows_kernel<false, Table, Y>, from,
           data<int32_t>(args.inputs[1]), to, items, vector ? width / 4 : width, bound, context.errors);
  });
}

// uses[v] = how many of the indices are v.
__global__ void count_uses_kernel(const int32_t* index, int64_t count, int64_t bound, int32_t* uses, ErrorRecord* errors) {
  for (int64_t i = first_index(); i < count; i += index_stride())
    if (index_in_range(errors, Checked::scatter_add_rows_index, index[i], i, -1, bound) && index[i] >= 0) atomicAdd(uses + index[i], 1);
}

// A place in the list for the uses of each row that has at most a warp of them. Which place depends on the order of the blocks, but only
// the place does.
__global__ void reserve_uses_kernel(const int32_t* uses, int64_t bound, int32_t* places, int32_t* taken) {
  for (int64_t v = first_index(); v < bound; v += index_stride())
    if (uses[v] > 0 && uses[v] <= kWarp) places[v] = atomicAdd(taken, uses[v]);
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

struct Scatter {
  Floats rows;
  const int32_t* index;
  int64_t count;
  const int32_t *uses, *places, *list;
  Floats y;
  int64_t bound, width;
};

// One block per row of the result, a warp to every 128 columns (or 32). Sums are made in the order of N: the few uses of a row are sorted
// within the warp; of many, the warp walks all indices, 32 at a time, until it has met them.
template <int vector>
__global__ void scatter_add_rows_kernel(Scatter s) {
  const int lane = lane_index();
  for (int64_t v = blockIdx.x; v < s.bound; v += gridDim.x) {
    const int32_t used = s.uses[v];
    const bool listed = used <= kWarp;
    const int32_t uses = listed ? sorted_lanes(lane < used ? s.list[s.places[v] - used + lane] : INT32_MAX) : 0;
    for (int64_t column = (static_cast<int64_t>(warp_index()) * kWarp + lane) * vector; column - lane * vector < s.width; column += static_cast<int64_t>(blockDim.x) * vector) {
      float sum[vector] = {};
      const auto add = [&](int64_t row) {
        if (column >= s.width) return;
        if constexpr (vector == 4) {
          const float4 four = s.rows.load4(row * s.width + column);
          sum[0] += four.x, sum[1] += four.y, sum[2] += four.z, sum[3] += four.w;
        } else {
          sum[0] += s.rows.load(row * s.width + column);
        }
      };
      if (listed) {
        for (int i = 0; i < used; ++i) add(__shfl_sync(kFullWarp, uses, i));
      } else {
        int32_t met = 0;
        for (int64_t base = 0; met < used && base < s.count; base += kWarp) {
          uint32_t matches = __ballot_sync(kFullWarp, base + lane < s.count && s.index[base + lane] == v);
          for (; matches; matches &= matches - 1, ++met) add(base + __ffs(static_cast<int>(matches)) - 1);
        }
      }
      if (column >= s.width) continue;
      if constexpr (vector == 4)
        s.y.store4(v * s.width + column, make_float4(sum[0], sum[1], sum[2], sum[3]));
      else
        s.y.store(v * s.width + column, sum[0]);
    }
  }
}

void scatter_add_rows(const Context& context, Workspace& workspace, const TrefoilLaunch& args) {
  const TrefoilView &rows = args.inputs[0], &y = args.outputs[0];
  const int64_t count = elements(args.inputs[1]), bound = y.shape[0];
  auto* uses = workspace.take<int32_t>(bound + 1);  // and, last, how much of the list is taken
  int32_t *places = workspace.take<int32_t>(bound), *list = workspace.take<int32_t>(count);
  if (!workspace.running() || !y.data || elements(y) == 0) return;
  const int64_t width = elements(y) / bound;
  if (count * width != elements(rows)) fail(TREFOIL_INVALID_ARGUMENT, "scatter_add_rows: rows, index and output do not fit each other");
  const auto* index = data<int32_t>(args.inputs[1]);
  platform::fill_zero(context.stream, uses, static_cast<size_t>(bound + 1) * sizeof(int32_t));
  if (count > 0) {
    launch(context, {context.grid(count, 256), 256}, count_uses_kernel, index, count, bound, uses, context.errors);
    launch(context, {context.grid(bound, 256), 256}, reserve_uses_kernel, uses, bound, places, uses + bound);
    launch(context, {context.grid(count, 256), 256}, list_uses_kernel, index, count, bound, uses, places, list);
  }
  const bool vector = width % 4 == 0;
  const unsigned threads = ceil_divide(width, vector ? 4 : 1) > 64 ? 128 : 32;
  launch(context, {context.grid(bound, 1, 16), threads}, vector ? scatter_add_rows_kernel<4> : scatter_add_rows_kernel<1>,
         Scatter{Floats(rows), index, count, uses, places, list, Floats(y), bound, width});
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
