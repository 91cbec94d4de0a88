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

// Where windows stand, one after the other.
struct Position {
  int64_t n, u, v;
  Position(const Windows& w, int64_t m) : n(m / w.grid_columns / w.grid_rows), u(m / w.grid_columns % w.grid_rows), v(m % w.grid_columns) {}
  void next(const Windows& w) {
    if (++v < w.grid_columns) return;
    v = 0;
    if (++u < w.grid_rows) return;
    u = 0;
    ++n;
  }
  int64_t y(const Windows& w) const { return u * w.stride - w.top; }
  int64_t x(const Windows& w) const { return v * w.stride - w.left; }
  bool inside(const Windows& w) const { return y(w) >= 0 && x(w) >= 0 && y(w) + w.kernel_rows <= w.height && x(w) + w.kernel_columns <= w.width; }
  const float* corner(const Windows& w) const { return w.images + ((n * w.height + y(w)) * w.width + x(w)) * w.channels; }
};

// Elements [k0, k0 + count) of the window at a position.
inline void copy_window(const Windows& w, const Position& at, int64_t k0, int64_t count, float* to) {
  const int64_t n = at.n, y0 = at.y(w), x0 = at.x(w);
  // In NHWC a row of the window is one run of memory; so much of it lies inside the image.
  const int64_t run = w.kernel_columns * w.channels;
  if (count == w.length() && at.inside(w)) {
    const float* from = at.corner(w);
    for (int64_t tap = 0; tap < w.kernel_rows; ++tap) widen(from + tap * w.width * w.channels, to + tap * run, run);
    return;
  }
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
  Position at(w, row);
  for (int64_t i = 0; i < count; to += panel_stride(depth)) {
    const int rows = panel_rows(count - i);
    for (int r = 0; r < rows; ++r, ++i, at.next(w)) copy_window(w, at, k0, depth, to + r * depth);
  }
}

// Elements [first, last) of windows [k0, k0 + depth), as it reads B: panels [depth][kTileColumns], zeros past the last element.
// `window`: room for one of them, whole panels.
inline void pack_windows_b(const Windows& w, int64_t k0, int64_t depth, int64_t first, int64_t last, float* window, float* to) {
  const int64_t count = last - first, padded = round_up(count, kTileColumns);
  Position at(w, k0);
  if (padded == kTileColumns) {
    for (int64_t k = 0; k < depth; ++k, at.next(w), to += kTileColumns) {
      copy_window(w, at, first, count, to);
      zero(to + count, padded - count);
    }
    return;
  }
  zero(window + count, padded - count);
  for (int64_t k = 0; k < depth; ++k, at.next(w)) {
    copy_window(w, at, first, count, window);
    for (int64_t j = 0; j < padded; j += kTileColumns)
#pragma GCC unroll 4
      for (int v = 0; v < kTileColumns; v += Vec::width) store(to + j * depth + k * kTileColumns + v, load(window + j + v));
  }
}

// Sums of R windows for C outputs: window i starts at a + i * step and has `taps` runs of `run` floats, `line` apart; b [C, taps * run].
template <int R, int C>
void dot_windows(const float* a, int64_t step, int64_t line, int64_t taps, int64_t run, const float* b, float* y, int64_t y_stride) {
  static_assert(C <= 4);
  Vec total[R][4];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) total[i][j] = splat(0.0f);
  const int64_t length = taps * run;
  auto add = [&](int64_t at, const float* from, auto read) {
    Vec right[C];
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) right[j] = read(b + j * length + at);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const Vec left = read(from + i * step);
#pragma GCC unroll 4
      for (int j = 0; j < C; ++j) total[i][j] = fma(left, right[j], total[i][j]);
    }
  };
  for (int64_t tap = 0; tap < taps; ++tap) {
    int64_t k = 0;
    for (; k + Vec::width <= run; k += Vec::width) add(tap * run + k, a + tap * line + k, [](const float* p) { return load(p); });
    if (k < run) add(tap * run + k, a + tap * line + k, [lanes = static_cast<int>(run - k)](const float* p) { return load_n(p, lanes); });
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
    float sums[4];
    sums_of_four(total[i][0], total[i][1], total[i][2], total[i][3], sums);
#pragma GCC unroll 4
    for (int j = 0; j < C; ++j) y[i * y_stride + j] = sums[j];
  }
}

// The same for any number of outputs, b [n, taps * run].
template <int R>
void dot_windows(const float* a, int64_t step, int64_t line, int64_t taps, int64_t run, const float* b, int64_t n, float* y) {
  for (int64_t j = 0; j < n; j += 4) {
    const float* rows = b + j * taps * run;
    switch (at_most(n - j, 4)) {
      case 1: dot_windows<R, 1>(a, step, line, taps, run, rows, y + j, n); break;
      case 2: dot_windows<R, 2>(a, step, line, taps, run, rows, y + j, n); break;
      case 3: dot_windows<R, 3>(a, step, line, taps, run, rows, y + j, n); break;
      default: dot_windows<R, 4>(a, step, line, taps, run, rows, y + j, n);
    }
  }
}

}  // namespace trefoil::cpu::TREFOIL_ISA
