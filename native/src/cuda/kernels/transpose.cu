// transpose: y.shape[i] = x.shape[permutation[i]]. Tiles through shared memory where the innermost axis moves, so that reads and writes
// are both of neighbours; else rows are copied.
#include "divisor.h"
#include "kernel.h"

namespace trefoil::cuda {

namespace {

// The permutation over merged axes: sizes and, for every output axis, its stride in x (elements).
struct Axes {
  int rank;
  int64_t size[TREFOIL_MAX_RANK], x_stride[TREFOIL_MAX_RANK], y_stride[TREFOIL_MAX_RANK];
  int swapped;  // the output axis that is innermost in x
  Divisor by_size[TREFOIL_MAX_RANK];

  void set_divisors() {
    for (int d = 0; d < rank; ++d) by_size[d] = Divisor(size[d]);
  }
};

constexpr int kTile = 32;
constexpr unsigned kTileRows = 8;

// Axes but the last and `swapped` are outer; rank - 1 and swapped span a tile.
template <class T>
__global__ void transpose_tiles_kernel(const T* x, T* y, const __grid_constant__ Axes axes, Divisor tiles_across, Divisor tiles, int64_t items) {
  TREFOIL_SHARED(tile, T[kTile][kTile + 1]);
  const int last = axes.rank - 1;
  const int64_t across = axes.size[axes.swapped], down = axes.size[last];  // neighbours in x, neighbours in y
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const Divided outer = tiles.divide(item), tile_at = tiles_across.divide(outer.remainder);
    const int64_t row = tile_at.quotient * kTile, column = tile_at.remainder * kTile;
    int64_t rest = outer.quotient;
    int64_t from = 0, to = 0;
    for (int d = last - 1; d >= 0; --d) {
      if (d == axes.swapped) continue;
      const Divided at = axes.by_size[d].divide(rest);
      from += at.remainder * axes.x_stride[d];
      to += at.remainder * axes.y_stride[d];
      rest = at.quotient;
    }
    T values[kTile / kTileRows]{};  // all on their way before the first is stored
#pragma unroll
    for (unsigned k = 0; k < kTile / kTileRows; ++k) {
      const unsigned r = threadIdx.y + k * kTileRows;
      if (row + r < down && column + threadIdx.x < across) values[k] = x[from + (row + r) * axes.x_stride[last] + column + threadIdx.x];
    }
#pragma unroll
    for (unsigned k = 0; k < kTile / kTileRows; ++k) tile[threadIdx.y + k * kTileRows][threadIdx.x] = values[k];
    __syncthreads();
    for (unsigned r = threadIdx.y; r < kTile; r += kTileRows)
      if (column + r < across && row + threadIdx.x < down)
        y[to + (column + r) * axes.y_stride[axes.swapped] + row + threadIdx.x] = tile[threadIdx.x][r];
    __syncthreads();
  }
}

// The innermost axis stays: units of it are copied.
template <class T>
__global__ void transpose_rows_kernel(const T* x, T* y, const __grid_constant__ Axes axes, int64_t count) {
  for (int64_t i = first_index(); i < count; i += index_stride()) {
    int64_t rest = i, from = 0;
    for (int d = axes.rank - 1; d >= 0; --d) {
      const Divided at = axes.by_size[d].divide(rest);
      from += at.remainder * axes.x_stride[d];
      rest = at.quotient;
    }
    y[i] = x[from];
  }
}

// Drops axes of size 1 and merges output axes that are neighbours in x too.
Axes merged_axes(const TrefoilLaunch& args) {
  const TrefoilView &x = args.inputs[0], &y = args.outputs[0];
  int64_t stride[TREFOIL_MAX_RANK], next = 1;
  for (int d = x.rank - 1; d >= 0; --d) {
    stride[d] = next;
    next *= x.shape[d];
  }
  if (args.attribute_count != y.rank || x.rank != y.rank) fail(TREFOIL_INVALID_ARGUMENT, "transpose: the permutation does not fit the ranks");
  Axes axes{};
  uint32_t seen = 0;
  for (int d = 0; d < y.rank; ++d) {
    const double from = args.attributes[d];
    if (!(from >= 0 && from < x.rank) || (seen >> static_cast<int>(from) & 1u)) fail(TREFOIL_INVALID_ARGUMENT, "transpose: the attributes are no permutation");
    const int source = static_cast<int>(from);
    seen |= 1u << source;
    if (x.shape[source] != y.shape[d]) fail(TREFOIL_INVALID_ARGUMENT, "transpose: output dimension %d does not fit the permutation", d);
    if (y.shape[d] == 1) continue;
    const int last = axes.rank - 1;
    if (last >= 0 && axes.x_stride[last] == stride[source] * y.shape[d]) {
      axes.size[last] *= y.shape[d];
      axes.x_stride[last] = stride[source];
    } else {
      axes.size[axes.rank] = y.shape[d];
      axes.x_stride[axes.rank++] = stride[source];
    }
  }
  next = 1;
  for (int d = axes.rank - 1; d >= 0; --d) {
    axes.y_stride[d] = next;
    next *= axes.size[d];
    if (axes.x_stride[d] == 1) axes.swapped = d;
  }
  return axes;
}

template <class T>
void transpose_as(const Context& context, const void* x, void* y, Axes& axes, int64_t count) {
  axes.set_divisors();
  const T* from = static_cast<const T*>(x);
  T* to = static_cast<T*>(y);
  if (axes.swapped == axes.rank - 1)
    return launch(context, {context.grid(count, 256), 256}, transpose_rows_kernel<T>, from, to, axes, count);
  if constexpr (sizeof(T) <= 4) {  // larger units are pieces of rows that stay whole
    const int64_t across = ceil_divide(axes.size[axes.swapped], kTile), down = ceil_divide(axes.size[axes.rank - 1], kTile);
    const int64_t items = count / (axes.size[axes.swapped] * axes.size[axes.rank - 1]) * across * down;
    launch(context, {context.grid(items, 1), dim3(kTile, kTileRows)}, transpose_tiles_kernel<T>, from, to, axes, Divisor(across), Divisor(across * down), items);
  }
}

void transpose(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView &x = args.inputs[0], &y = args.outputs[0];
  const int64_t count = elements(y);
  if (!y.data || count == 0) return;
  const int64_t size = element_bytes(x.dtype);
  if (x.dtype != y.dtype || (size != 2 && size != 4)) fail(TREFOIL_INVALID_ARGUMENT, "transpose: elements must be of one dtype and have 2 or 4 bytes");
  Axes axes = merged_axes(args);
  if (axes.rank <= 1) return copy_memory(context, y.data, x.data, static_cast<size_t>(count * size));
  const int last = axes.rank - 1;
  // Rows that stay whole move in units of 16 bytes where they can.
  if (axes.swapped == last && axes.size[last] * size % 16 == 0) {
    const int64_t per_unit = 16 / size;
    axes.size[last] /= per_unit;
    for (int d = 0; d < last; ++d) axes.x_stride[d] /= per_unit;
    return transpose_as<uint4>(context, x.data, y.data, axes, count / per_unit);
  }
  if (size == 4) return transpose_as<uint32_t>(context, x.data, y.data, axes, count);
  transpose_as<uint16_t>(context, x.data, y.data, axes, count);
}

}  // namespace

extern const KernelEntry transpose_kernels[] = {{"transpose", transpose, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
