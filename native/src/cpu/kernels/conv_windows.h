// Convolution as a matrix product (Chellapilla et al. 2006, "High performance convolutional neural networks for document
// processing", section 2), whose left matrix, one window of the image a row, exists only in the order the micro-kernel reads.
#pragma once
#include "gemm_pack.h"
#include "gemm_plan.h"

namespace trefoil::cpu::TREFOIL_ISA {

// Row m is the window of position (n, u, v) of the grid: [kernel_rows, kernel_columns, channels] of image n, from
// (u * stride - top, v * stride - left) on, zero outside the image.
struct Windows {
  const float* images;  // [N, height, width, channels]
  int64_t height, width, channels;
  int64_t grid_rows, grid_columns;
  int64_t kernel_rows, kernel_columns, stride, top, left;
  int64_t length() const { return kernel_rows * kernel_columns * channels; }
};

inline void zero(float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = 0.0f;
}

// Elements [k0, k0 + count) of window m.
inline void copy_window(const Windows& w, int64_t m, int64_t k0, int64_t count, float* to) {
  const int64_t v = m % w.grid_columns, row = m / w.grid_columns, u = row % w.grid_rows, n = row / w.grid_rows;
  const int64_t y0 = u * w.stride - w.top, x0 = v * w.stride - w.left;
  // In NHWC a row of the window is one run of memory; so much of it lies inside the image.
  const int64_t run = w.kernel_columns * w.channels;
  const int64_t inside = at_least(-x0, 0) * w.channels, outside = at_most(w.width - x0, w.kernel_columns) * w.channels;
  int64_t tap = k0 / run, begin = k0 - tap * run;
  for (int64_t left = count; left > 0; ++tap, begin = 0) {
    const int64_t end = at_most(begin + left, run), y = y0 + tap;
    int64_t first = end, last = end;
    if (y >= 0 && y < w.height) {
      first = at_most(at_least(inside, begin), end);
      last = at_least(at_most(outside, end), first);
    }
    zero(to, first - begin);
    if (last > first) widen(w.images + (((n * w.height + y) * w.width + x0) * w.channels + first), to + (first - begin), last - first);
    zero(to + (last - begin), end - last);
    to += end - begin;
    left -= end - begin;
  }
}

// Windows [row, row + count), elements [k0, k0 + depth), as the micro-kernel reads A: panels [rows][depth].
inline void pack_windows_a(const Windows& w, int64_t row, int64_t count, int64_t k0, int64_t depth, float* to) {
  for (int64_t i = 0; i < count; to += panel_stride(depth)) {
    const int rows = panel_rows(count - i);
    for (int r = 0; r < rows; ++r, ++i) copy_window(w, row + i, k0, depth, to + r * depth);
  }
}

// Elements [first, last) of windows [k0, k0 + depth), as it reads B: panels [depth][kTileColumns], zeros past the last element.
// `window`: room for one of them, whole panels.
inline void pack_windows_b(const Windows& w, int64_t k0, int64_t depth, int64_t first, int64_t last, float* window, float* to) {
  const int64_t count = last - first, padded = round_up(count, kTileColumns);
  zero(window + count, padded - count);
  for (int64_t k = 0; k < depth; ++k) {
    copy_window(w, k0 + k, first, count, window);
    for (int64_t j = 0; j < padded; j += kTileColumns)
#pragma GCC unroll 4
      for (int v = 0; v < kTileColumns; v += Vec::width) store(to + j * depth + k * kTileColumns + v, load(window + j + v));
  }
}

// C[rows, columns] (+)= packed A times packed B, both of `depth`.
template <Walk walk>
void multiply_packed(const float* a, int64_t rows, const float* b, int64_t columns, int64_t depth, float* c, int64_t c_stride,
                     bool accumulate) {
  const int64_t strip = strip_columns(depth);  // stays in L2 while every row passes by
  for (int64_t first = 0; first < columns; first += strip) {
    const int64_t end = at_most(first + strip, columns);
    const int edge = static_cast<int>((end - first) % kTileColumns);
    const float* panel = a;
    for (int64_t i = 0; i < rows; panel += panel_stride(depth)) {
      const int count = panel_rows(rows - i);
      const int64_t lda = walk == Walk::columns ? count : depth;
      const MicroKernel<float> whole = packed_kernel<walk>(count, kTileColumns), part = packed_kernel<walk>(count, edge);
      for (int64_t j = first; j < end; j += kTileColumns) {
        const int width = static_cast<int>(at_most(end - j, kTileColumns));
        (width == kTileColumns ? whole : part)(depth, panel, lda, b + j * depth, kTileColumns, c + i * c_stride + j, c_stride,
                                               accumulate, (width - 1) % Vec::width + 1);
      }
      i += count;
    }
  }
}

}  // namespace trefoil::cpu::TREFOIL_ISA
