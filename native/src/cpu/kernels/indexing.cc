// Gathers and scatters by i32 indices. Indices are checked before anything is written; sums run in the order of the source.
#include "convert.h"
#include "indices.h"
#include "partial.h"
#include "work_split.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

void gather_rows(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &table = launch.inputs[0], &y = launch.outputs[0];
  if (!y.data || elements(y) == 0) return;
  int64_t count = elements(launch.inputs[1]), width = elements(y) / count, bound = table.shape[0];
  if (width * bound != elements(table)) fail(TREFOIL_INVALID_ARGUMENT, "gather_rows: rows of the table and the output differ in length");
  const int32_t* index = data<int32_t>(launch.inputs[1]);
  check_indices("gather_rows", "index", index, count, -1, bound);
  parallel_ranges(context, count, rows_per_task(width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* to = data<float>(y) + i * width;
      if (index[i] < 0)
        memset(to, 0, static_cast<size_t>(width) * 4);
      else
        widen(table.dtype, table.data, index[i] * width, to, width);
    }
  });
}

// Where the sources of each row of the result stand in `source`: [begin[row], begin[row + 1]), in order of N. Rows of index -1
// are left out. Returns how many sources the row with the most has.
int64_t sort_by_row(const int32_t* index, int64_t count, int64_t bound, int32_t* begin, int32_t* source) {
  memset(begin, 0, static_cast<size_t>(bound + 2) * sizeof(int32_t));
  for (int64_t i = 0; i < count; ++i) ++begin[index[i] + 2];  // -1 counts in begin[1], which is cleared
  begin[1] = 0;
  int32_t most = 0;
  for (int64_t row = 2; row < bound + 2; ++row) {
    most = begin[row] > most ? begin[row] : most;
    begin[row] += begin[row - 1];
  }
  // begin[row + 1] is now where row starts; filling moves it to where the row ends.
  for (int64_t i = 0; i < count; ++i)
    if (index[i] >= 0) source[begin[index[i] + 1]++] = static_cast<int32_t>(i);
  begin[0] = 0;
  return most;
}

// to = the rows `source` of `from`, added in their order.
void add_rows(float* to, const float* from, const int32_t* source, int64_t count, int64_t width) {
  constexpr int64_t kTogether = 4 * Vec::width;
  int64_t d = 0;
  for (; d + kTogether <= width; d += kTogether) {
    Vec total[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
    for (int64_t i = 0; i < count; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) total[v] = total[v] + load(from + source[i] * width + d + v * Vec::width);
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) store(to + d + v * Vec::width, total[v]);
  }
  for (; d < width; d += Vec::width) {
    int lanes = lanes_left(width, d);
    Vec total = splat(0.0f);
    for (int64_t i = 0; i < count; ++i) total = total + load_part(from + source[i] * width + d, lanes);
    store_part(to + d, total, lanes);
  }
}

void add_row(float* to, const float* from, int64_t n) {
  for (int64_t i = 0; i < n; i += Vec::width) {
    int lanes = lanes_left(n, i);
    store_part(to + i, load_part(to + i, lanes) + load_part(from + i, lanes), lanes);
  }
}

// Every sum is made by one task in the order of N: tasks own rows of the result, or columns where one row takes most sources.
void scatter_add_rows(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &rows = launch.inputs[0], &y = launch.outputs[0];
  if (!y.data || elements(y) == 0) return;
  int64_t count = elements(launch.inputs[1]), bound = y.shape[0], width = elements(y) / bound;
  if (count * width != elements(rows)) fail(TREFOIL_INVALID_ARGUMENT, "scatter_add_rows: rows, index and output do not fit each other");
  const int32_t* index = data<int32_t>(launch.inputs[1]);
  check_indices("scatter_add_rows", "index", index, count, -1, bound);
  const float* from = data<float>(rows);
  float* to = data<float>(y);
  int32_t* begin = static_cast<int32_t*>(context.scratch(0, static_cast<size_t>(bound + 2 + count) * sizeof(int32_t)));
  int32_t* source = begin + bound + 2;
  int64_t most = sort_by_row(index, count, bound, begin, source);
  if (most <= 64 || most * 8 <= count) {
    parallel_ranges(context, bound, rows_per_task(width * (1 + count / bound)), [&](int64_t first, int64_t end) {
      for (int64_t row = first; row < end; ++row)
        add_rows(to + row * width, from, source + begin[row], begin[row + 1] - begin[row], width);
    });
    return;
  }
  parallel_ranges(context, elements(y), 65536, [&](int64_t first, int64_t end) { memset(to + first, 0, static_cast<size_t>(end - first) * 4); });
  // Two cache lines at least; small inputs stay whole.
  int64_t slab = count * width <= 16384 ? width : ceil_divide(ceil_divide(width, 16), 32) * 32;
  parallel_ranges(context, width, slab, [&](int64_t first, int64_t end) {
    for (int64_t i = 0; i < count; ++i)
      if (index[i] >= 0) add_row(to + index[i] * width + first, from + i * width + first, end - first);
  });
}

void gather_last(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &x = launch.inputs[0], &y = launch.outputs[0];
  if (!y.data || elements(y) == 0) return;
  int64_t kept = last_dimension(y), rows = row_count(y), width = last_dimension(x);
  if (row_count(x) != rows || elements(launch.inputs[1]) != rows * kept)
    fail(TREFOIL_INVALID_ARGUMENT, "gather_last: x, index and output do not fit each other");
  const int32_t* index = data<int32_t>(launch.inputs[1]);
  check_indices("gather_last", "index", index, rows * kept, -1, width);
  parallel_ranges(context, rows, rows_per_task(kept * 8), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t k = r * kept; k < (r + 1) * kept; ++k) data<float>(y)[k] = index[k] < 0 ? 0.0f : data<float>(x)[r * width + index[k]];
  });
}

void scatter_last(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &values = launch.inputs[0], &y = launch.outputs[0];
  if (!y.data || elements(y) == 0) return;
  int64_t width = last_dimension(y), rows = row_count(y), kept = elements(values) / rows;
  if (kept * rows != elements(values) || elements(launch.inputs[1]) != rows * kept)
    fail(TREFOIL_INVALID_ARGUMENT, "scatter_last: values, index and output do not fit each other");
  const int32_t* index = data<int32_t>(launch.inputs[1]);
  check_indices("scatter_last", "index", index, rows * kept, -1, width);
  parallel_ranges(context, rows, rows_per_task(width + kept * 8), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* to = data<float>(y) + r * width;
      memset(to, 0, static_cast<size_t>(width) * 4);
      for (int64_t k = r * kept; k < (r + 1) * kept; ++k)
        if (index[k] >= 0) to[index[k]] += data<float>(values)[k];
    }
  });
}

void iota(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView& y = launch.outputs[0];
  if (!y.data) return;
  parallel_ranges(context, elements(y), 65536, [&](int64_t begin, int64_t end) {
    if (y.dtype == TREFOIL_F32)
      for (int64_t i = begin; i < end; ++i) data<float>(y)[i] = static_cast<float>(i);
    else
      for (int64_t i = begin; i < end; ++i) data<int32_t>(y)[i] = static_cast<int32_t>(i);
  });
}

}  // namespace

extern const KernelEntry indexing_kernels[];
const KernelEntry indexing_kernels[] = {{"gather_rows", gather_rows, nullptr},   {"scatter_add_rows", scatter_add_rows, nullptr},
                                        {"gather_last", gather_last, nullptr},   {"scatter_last", scatter_last, nullptr},
                                        {"iota", iota, nullptr},                 {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
