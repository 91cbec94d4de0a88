// Gathers and scatters by i32 indices. Indices are checked before anything is written; sums run in the order of the source.
#include "convert.h"
#include "indices.h"
#include "simd.h"
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

void add_row(float* to, const float* from, int64_t n) {
  int64_t i = 0;
  for (; i + Vec::width <= n; i += Vec::width) store(to + i, load(to + i) + load(from + i));
  for (; i < n; ++i) to[i] += from[i];
}

// Tasks own columns of the result, so that every sum is made by one task in the order of N.
void scatter_add_rows(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &rows = launch.inputs[0], &y = launch.outputs[0];
  if (!y.data || elements(y) == 0) return;
  int64_t count = elements(launch.inputs[1]), bound = y.shape[0], width = elements(y) / bound;
  if (count * width != elements(rows)) fail(TREFOIL_INVALID_ARGUMENT, "scatter_add_rows: rows, index and output do not fit each other");
  const int32_t* index = data<int32_t>(launch.inputs[1]);
  check_indices("scatter_add_rows", "index", index, count, -1, bound);
  const float* from = data<float>(rows);
  float* to = data<float>(y);
  parallel_ranges(context, elements(y), 65536, [&](int64_t begin, int64_t end) { memset(to + begin, 0, static_cast<size_t>(end - begin) * 4); });
  // Two cache lines at least; small inputs stay whole.
  int64_t slab = count * width <= 16384 ? width : ceil_divide(ceil_divide(width, 16), 32) * 32;
  parallel_ranges(context, width, slab, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < count; ++i)
      if (index[i] >= 0) add_row(to + index[i] * width + begin, from + i * width + begin, end - begin);
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
