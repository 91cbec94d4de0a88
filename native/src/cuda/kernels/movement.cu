// Moves elements without computing: copy and dtype conversion, concat, slice, pad, the KV-cache write. transpose: transpose.cu.
#include "convert.h"
#include "divisor.h"
#include "kernel.h"

namespace trefoil::cuda {

namespace {

__global__ void convert_kernel(const void* x, int32_t x_dtype, void* y, int32_t y_dtype, int64_t count) {
  for (int64_t i = first_index(); i < count; i += index_stride()) store_from_f32(y, y_dtype, i, load_as_f32(x, x_dtype, i));
}
template <class From, class To>
__global__ void convert_vector_kernel(const From* x, To* y, int64_t items) {
  constexpr int width = kVectorWidth<To>;
  for (int64_t item = first_index(); item < items; item += index_stride()) store_vector(y + item * width, load_vector<width>(x + item * width));
}

void copy(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView &x = args.inputs[0], &y = args.outputs[0];
  const int64_t count = elements(y);
  if (!y.data || count == 0) return;
  if (elements(x) != count) fail(TREFOIL_INVALID_ARGUMENT, "copy: the operands differ in element count");
  element_bytes(x.dtype), element_bytes(y.dtype);
  if (x.dtype == y.dtype) {
    if (x.data != y.data) copy_memory(context, y.data, x.data, static_cast<size_t>(count * element_bytes(x.dtype)));
    return;
  }
  const auto convert = [&]<class From, class To>(From* from, To* to) {
    const int64_t items = count / kVectorWidth<To>;
    launch(context, {context.grid(items, 256), 256}, convert_vector_kernel<From, To>, from, to, items);
  };
  if (count % 8 == 0 && x.dtype == TREFOIL_F32 && y.dtype == TREFOIL_BF16) return convert(data<float>(x), data<bf16>(y));
  if (count % 4 == 0 && x.dtype == TREFOIL_BF16 && y.dtype == TREFOIL_F32) return convert(data<bf16>(x), data<float>(y));
  launch(context, {context.grid(count, 256), 256}, convert_kernel, x.data, x.dtype, y.data, y.dtype, count);
}

// `rows` pieces of `units` Units, each with its own stride on both sides; from == nullptr writes zeros.
template <class Unit>
__global__ void copy_rows_kernel(Unit* to, int64_t to_stride, const Unit* from, int64_t from_stride, Divisor units, int64_t rows) {
  for (int64_t item = first_index(); item < units.value * rows; item += index_stride()) {
    const auto [row, unit] = units.divide(item);
    to[row * to_stride + unit] = from ? from[row * from_stride + unit] : Unit{};
  }
}

template <class Unit>
void copy_units(const Context& context, char* to, int64_t to_stride, const char* from, int64_t from_stride, int64_t bytes, int64_t rows) {
  constexpr int64_t size = sizeof(Unit);
  launch(context, {context.grid(bytes / size * rows, 256), 256}, copy_rows_kernel<Unit>, reinterpret_cast<Unit*>(to), to_stride / size,
         reinterpret_cast<const Unit*>(from), from_stride / size, Divisor(bytes / size), rows);
}

// In bytes; by the largest unit that all addresses and lengths are multiples of.
void copy_rows(const Context& context, char* to, int64_t to_stride, const char* from, int64_t from_stride, int64_t bytes, int64_t rows) {
  if (bytes == 0 || rows == 0) return;
  const uint64_t all = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from) | static_cast<uint64_t>(to_stride | from_stride | bytes);
  if (all % 16 == 0) return copy_units<uint4>(context, to, to_stride, from, from_stride, bytes, rows);
  if (all % 4 == 0) return copy_units<uint32_t>(context, to, to_stride, from, from_stride, bytes, rows);
  if (all % 2 == 0) return copy_units<uint16_t>(context, to, to_stride, from, from_stride, bytes, rows);
  copy_units<uint8_t>(context, to, to_stride, from, from_stride, bytes, rows);
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
int checked_axis(const char* op, const TrefoilLaunch& args, int32_t rank) {
  const double axis = args.attributes[0];
  if (!(axis >= 0 && axis < rank)) fail(TREFOIL_INVALID_ARGUMENT, "%s: axis %g is outside [0, %d)", op, axis, rank);
  return static_cast<int>(axis);
}

void concat(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView& y = args.outputs[0];
  if (!y.data || elements(y) == 0) return;
  const int axis = checked_axis("concat", args, y.rank);
  const AxisView target = along(y, axis);
  int64_t start = 0;
  for (int i = 0; i < args.input_count; ++i) {
    const TrefoilView& x = args.inputs[i];
    if (x.rank != y.rank || x.dtype != y.dtype) fail(TREFOIL_INVALID_ARGUMENT, "concat: input %d differs in rank or dtype from the output", i);
    const AxisView source = along(x, axis);
    if (source.outer != target.outer || source.inner_bytes != target.inner_bytes || start + source.axis > target.axis)
      fail(TREFOIL_INVALID_ARGUMENT, "concat: input %d does not fit the output", i);
    const int64_t bytes = source.axis * source.inner_bytes;
    copy_rows(context, data<char>(y) + start * target.inner_bytes, target.axis * target.inner_bytes, data<char>(x), bytes, bytes, target.outer);
    start += source.axis;
  }
}

// The part [start, start + part.axis) of `whole` along the axis, checked.
int64_t checked_start(const char* op, const TrefoilLaunch& args, const AxisView& whole, const AxisView& part) {
  const double start = args.attributes[1];
  if (!(start >= 0 && start + static_cast<double>(part.axis) <= static_cast<double>(whole.axis)) || whole.outer != part.outer ||
      whole.inner_bytes != part.inner_bytes)
    fail(TREFOIL_INVALID_ARGUMENT, "%s: %lld elements from %g do not fit an axis of %lld", op, static_cast<long long>(part.axis), start,
         static_cast<long long>(whole.axis));
  return static_cast<int64_t>(start);
}

void slice(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView &x = args.inputs[0], &y = args.outputs[0];
  if (!y.data || elements(y) == 0) return;
  const int axis = checked_axis("slice", args, y.rank);
  const AxisView whole = along(x, axis), part = along(y, axis);
  const int64_t start = checked_start("slice", args, whole, part);
  copy_rows(context, data<char>(y), part.axis * part.inner_bytes, data<char>(x) + start * whole.inner_bytes, whole.axis * whole.inner_bytes,
            part.axis * part.inner_bytes, part.outer);
}

void pad(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView &x = args.inputs[0], &y = args.outputs[0];
  if (!y.data || elements(y) == 0) return;
  const int axis = checked_axis("pad", args, y.rank);
  const AxisView whole = along(y, axis), part = along(x, axis);
  const int64_t start = checked_start("pad", args, whole, part);
  const int64_t row = whole.axis * whole.inner_bytes, before = start * whole.inner_bytes, kept = part.axis * part.inner_bytes;
  copy_rows(context, data<char>(y), row, nullptr, 0, before, whole.outer);
  copy_rows(context, data<char>(y) + before, row, data<char>(x), kept, kept, whole.outer);
  copy_rows(context, data<char>(y) + before + kept, row, nullptr, 0, row - before - kept, whole.outer);
}

// Each block looks at all positions before it writes a row: a batch with one bad position changes nothing.
__global__ void __launch_bounds__(256) update_rows_kernel(void* cache, int32_t cache_dtype, const void* rows, int32_t dtype, const int32_t* position, int64_t batch,
                                                          int64_t capacity, Divisor per_batch, int64_t width, ErrorRecord* errors) {
  bool bad = errors->set != 0;
  const int64_t bound = capacity - per_batch.value / width + 1;
  for (int64_t b = threadIdx.x; b < batch; b += blockDim.x) bad |= !index_in_range(errors, Checked::update_rows_position, position[b], b, 0, bound);
  if (__syncthreads_or(bad)) return;
  for (int64_t i = first_index(); i < batch * per_batch.value; i += index_stride()) {
    const auto [b, within] = per_batch.divide(i);
    const int64_t to = (b * capacity + position[b]) * width + within;
    if (dtype == TREFOIL_F32 && cache_dtype == TREFOIL_F32)
      static_cast<float*>(cache)[to] = static_cast<const float*>(rows)[i];
    else
      store_from_f32(cache, cache_dtype, to, load_as_f32(rows, dtype, i));
  }
}

void update_rows(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView &cache = args.inputs[0], &rows = args.inputs[1], &position = args.inputs[2];
  if (elements(rows) == 0) return;
  const int64_t batch = rows.shape[0], capacity = cache.shape[1], length = rows.shape[1], width = elements(rows) / (batch * length);
  if (cache.shape[0] != batch || elements(cache) != batch * capacity * width || elements(position) != batch)
    fail(TREFOIL_INVALID_ARGUMENT, "update_rows_: cache, rows and position do not fit each other");
  if (rows.dtype != cache.dtype && rows.dtype != TREFOIL_F32)
    fail(TREFOIL_INVALID_ARGUMENT, "update_rows_: rows must have the cache's dtype or be f32");
  launch(context, {context.grid(elements(rows), 256), 256}, update_rows_kernel, cache.data, cache.dtype, rows.data, rows.dtype, data<int32_t>(position),
         batch, capacity, Divisor(length * width), width, context.errors);
}

}  // namespace

extern const KernelEntry movement_kernels[] = {{"copy", copy, nullptr},   {"concat", concat, nullptr}, {"slice", slice, nullptr},
                                               {"pad", pad, nullptr},     {"update_rows_", update_rows, nullptr},
                                               {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
