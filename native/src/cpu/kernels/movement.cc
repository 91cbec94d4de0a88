// Moves elements without computing: copy and dtype conversion, concat, slice, pad, the KV-cache write. transpose: transpose.h.
#include "convert.h"
#include "transpose.h"
#include "work_split.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

constexpr int64_t kTaskBytes = 262144;

void copy_bytes(Context& context, void* to, const void* from, int64_t bytes) {
  if (to == from) return;
  parallel_ranges(context, bytes, kTaskBytes, [&](int64_t begin, int64_t end) {
    memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin, static_cast<size_t>(end - begin));
  });
}

// `rows` pieces of `bytes`, each with its own stride on both sides; from == nullptr writes zeros.
void copy_rows(Context& context, char* to, int64_t to_stride, const char* from, int64_t from_stride, int64_t bytes, int64_t rows) {
  if (bytes == 0 || rows == 0) return;
  parallel_ranges(context, rows, rows_per_task(bytes, kTaskBytes), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (from)
        memcpy(to + r * to_stride, from + r * from_stride, static_cast<size_t>(bytes));
      else
        memset(to + r * to_stride, 0, static_cast<size_t>(bytes));
    }
  });
}

void copy(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &x = launch.inputs[0], &y = launch.outputs[0];
  int64_t count = elements(y);
  if (!y.data || count == 0) return;
  if (elements(x) != count) fail(TREFOIL_INVALID_ARGUMENT, "copy: the operands differ in element count");
  if (x.dtype == y.dtype) return copy_bytes(context, y.data, x.data, count * element_bytes(x.dtype));
  constexpr int64_t block = 1024;
  element_bytes(x.dtype), element_bytes(y.dtype);
  parallel_ranges(context, count, 32 * block, [&](int64_t begin, int64_t end) {
    float values[block];
    for (int64_t i = begin; i < end; i += block) {
      int64_t n = end - i < block ? end - i : block;
      if (y.dtype == TREFOIL_F32) {
        widen(x.dtype, x.data, i, static_cast<float*>(y.data) + i, n);
      } else if (x.dtype == TREFOIL_F32) {
        narrow(y.dtype, static_cast<const float*>(x.data) + i, y.data, i, n);
      } else {
        widen(x.dtype, x.data, i, values, n);
        narrow(y.dtype, values, y.data, i, n);
      }
    }
  });
}

// A tensor seen from one axis: [outer, axis, inner].
struct AxisView {
  int64_t outer = 1, axis = 1, inner_bytes;
};
AxisView along(const TrefoilView& view, int axis) {
  AxisView result;
  result.inner_bytes = element_bytes(view.dtype);
  result.axis = view.shape[axis];
  for (int d = 0; d < axis; ++d) result.outer *= view.shape[d];
  for (int d = axis + 1; d < view.rank; ++d) result.inner_bytes *= view.shape[d];
  return result;
}
int checked_axis(const char* op, const TrefoilLaunch& launch, int32_t rank) {
  double axis = launch.attributes[0];
  if (!(axis >= 0 && axis < rank)) fail(TREFOIL_INVALID_ARGUMENT, "%s: axis %g is outside [0, %d)", op, axis, rank);
  return static_cast<int>(axis);
}

void concat(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView& y = launch.outputs[0];
  if (!y.data || elements(y) == 0) return;
  int axis = checked_axis("concat", launch, y.rank);
  AxisView target = along(y, axis);
  int64_t start = 0;
  for (int i = 0; i < launch.input_count; ++i) {
    const TrefoilView& x = launch.inputs[i];
    if (x.rank != y.rank || x.dtype != y.dtype) fail(TREFOIL_INVALID_ARGUMENT, "concat: input %d differs in rank or dtype from the output", i);
    AxisView source = along(x, axis);
    if (source.outer != target.outer || source.inner_bytes != target.inner_bytes || start + source.axis > target.axis)
      fail(TREFOIL_INVALID_ARGUMENT, "concat: input %d does not fit the output", i);
    int64_t bytes = source.axis * source.inner_bytes;
    copy_rows(context, data<char>(y) + start * target.inner_bytes, target.axis * target.inner_bytes, data<char>(x), bytes, bytes, target.outer);
    start += source.axis;
  }
}

// The part [start, start + part.axis) of `whole` along the axis, checked.
int64_t checked_start(const char* op, const TrefoilLaunch& launch, const AxisView& whole, const AxisView& part) {
  double start = launch.attributes[1];
  if (!(start >= 0 && start + static_cast<double>(part.axis) <= static_cast<double>(whole.axis)) || whole.outer != part.outer ||
      whole.inner_bytes != part.inner_bytes)
    fail(TREFOIL_INVALID_ARGUMENT, "%s: %lld elements from %g do not fit an axis of %lld", op, static_cast<long long>(part.axis), start,
         static_cast<long long>(whole.axis));
  return static_cast<int64_t>(start);
}

void slice(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &x = launch.inputs[0], &y = launch.outputs[0];
  if (!y.data || elements(y) == 0) return;
  int axis = checked_axis("slice", launch, y.rank);
  AxisView whole = along(x, axis), part = along(y, axis);
  int64_t start = checked_start("slice", launch, whole, part);
  copy_rows(context, data<char>(y), part.axis * part.inner_bytes, data<char>(x) + start * whole.inner_bytes, whole.axis * whole.inner_bytes,
            part.axis * part.inner_bytes, part.outer);
}

void pad(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &x = launch.inputs[0], &y = launch.outputs[0];
  if (!y.data || elements(y) == 0) return;
  int axis = checked_axis("pad", launch, y.rank);
  AxisView whole = along(y, axis), part = along(x, axis);
  int64_t start = checked_start("pad", launch, whole, part);
  int64_t row = whole.axis * whole.inner_bytes, before = start * whole.inner_bytes, kept = part.axis * part.inner_bytes;
  copy_rows(context, data<char>(y), row, nullptr, 0, before, whole.outer);
  copy_rows(context, data<char>(y) + before, row, data<char>(x), kept, kept, whole.outer);
  copy_rows(context, data<char>(y) + before + kept, row, nullptr, 0, row - before - kept, whole.outer);
}

void update_rows(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &cache = launch.inputs[0], &rows = launch.inputs[1], &position = launch.inputs[2];
  if (elements(rows) == 0) return;
  int64_t batch = rows.shape[0], capacity = cache.shape[1], length = rows.shape[1], width = elements(rows) / (batch * length);
  if (cache.shape[0] != batch || elements(cache) != batch * capacity * width || elements(position) != batch)
    fail(TREFOIL_INVALID_ARGUMENT, "update_rows_: cache, rows and position do not fit each other");
  if (rows.dtype != cache.dtype && rows.dtype != TREFOIL_F32)
    fail(TREFOIL_INVALID_ARGUMENT, "update_rows_: rows must have the cache's dtype or be f32");
  const int32_t* at = data<int32_t>(position);
  for (int64_t b = 0; b < batch; ++b)
    if (at[b] < 0 || at[b] + length > capacity)
      fail(TREFOIL_INDEX_OUT_OF_RANGE,
           "update_rows_: position %d of row %lld leaves no room for %lld rows in a cache of %lld; positions must be in [0, %lld]", at[b],
           static_cast<long long>(b), static_cast<long long>(length), static_cast<long long>(capacity), static_cast<long long>(capacity - length));
  int64_t size = element_bytes(cache.dtype);
  parallel_ranges(context, batch, rows_per_task(length * width), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      int64_t to = (b * capacity + at[b]) * width, from = b * length * width;
      if (rows.dtype == cache.dtype)
        memcpy(data<char>(cache) + to * size, data<char>(rows) + from * size, static_cast<size_t>(length * width * size));
      else
        narrow(cache.dtype, data<float>(rows) + from, cache.data, to, length * width);
    }
  });
}

}  // namespace

extern const KernelEntry movement_kernels[];
const KernelEntry movement_kernels[] = {
    {"copy", copy, nullptr}, {"transpose", transpose, nullptr},      {"concat", concat, nullptr},  {"slice", slice, nullptr},
    {"pad", pad, nullptr},   {"update_rows_", update_rows, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
