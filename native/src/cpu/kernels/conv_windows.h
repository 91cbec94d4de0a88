// Convolution as a matrix product (Chellapilla et al. 2006, "High performance convolutional neural networks for document
// processing"), whose left matrix, one window of the image a row, exists only in the order the micro-kernel reads.
#pragma once
#include "packed_product.h"

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

}  // namespace trefoil::cpu::TREFOIL_ISA
