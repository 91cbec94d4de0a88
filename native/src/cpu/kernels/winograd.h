// 3 x 3 convolution of stride 1 by minimal filtering, F(2 x 2, 3 x 3) (Winograd 1980; Lavin and Gray 2016, arXiv 1509.09308): a tile of
// 2 x 2 outputs takes 16 products of channels instead of 36. Per tile d [4, 4] of the image and kernel g [3, 3]:
//   y = Aᵀ ((G g Gᵀ) ∘ (Bᵀ d B)) A,   dg = Gᵀ ((A dy Aᵀ) ∘ (Bᵀ d B)) G;
// each of the 16 points is a matrix product over channels, or over tiles. B and A hold 0 and ±1, G ½ besides: sums of four values are
// multiplied, and the chains are nine times shorter, so errors are about those of the direct sum. A value that is not finite may reach all four
// outputs of its tiles.
#pragma once
#include "conv_windows.h"
#include "epilogue.h"
#include "partial.h"
#include "rows.h"

namespace trefoil::cpu::TREFOIL_ISA {

constexpr int kPoints = 16;

// Worth it where vectors of channels are full on both sides and few tiles hang over the edge.
inline bool suits_winograd(const Windows& w, int64_t out_channels) {
  return w.kernel_rows == 3 && w.kernel_columns == 3 && w.stride == 1 && w.channels >= 16 && out_channels >= 16 &&
         16 * ceil_div(w.grid_rows, 2) * ceil_div(w.grid_columns, 2) <= 6 * w.grid_rows * w.grid_columns;
}

// Tiles of the whole batch in order, some of them to a block that stays in L2 with what becomes of it.
struct Tiling {
  int64_t rows, columns, count, block;
  Tiling(const Windows& w, int64_t images, int64_t out_channels) : rows(ceil_div(w.grid_rows, 2)), columns(ceil_div(w.grid_columns, 2)) {
    count = images * rows * columns;
    block = at_most(at_least(96 * 1024 / (kPoints * (w.channels + out_channels)) / kTileRows * kTileRows, kTileRows), 8 * kTileRows);
  }
  int64_t blocks() const { return ceil_div(count, block); }
};

// Floats from one point to the next of a block: a line more than they are, so that points do not meet in the same sets of L1.
inline int64_t point_stride(int64_t tiles, int64_t channels) { return round_up(tiles * channels, kLine) + kLine; }

// Bᵀ d B: pixel(i, j) of the tile, put(point, value).
template <class Pixel, class Put>
inline void transform_window(const Pixel& pixel, const Put& put) {
  Vec t[4][4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const Vec a = pixel(0, j), b = pixel(1, j), c = pixel(2, j), d = pixel(3, j);
    t[0][j] = a - c, t[1][j] = b + c, t[2][j] = c - b, t[3][j] = b - d;
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    put(4 * i, t[i][0] - t[i][2]);
    put(4 * i + 1, t[i][1] + t[i][2]);
    put(4 * i + 2, t[i][2] - t[i][1]);
    put(4 * i + 3, t[i][1] - t[i][3]);
  }
}

// Aᵀ m A: point(p), put(i, j, value).
template <class Point, class Put>
inline void transform_products(const Point& point, const Put& put) {
  Vec t[2][4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const Vec a = point(j), b = point(4 + j), c = point(8 + j), d = point(12 + j);
    t[0][j] = a + b + c, t[1][j] = b - c - d;
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    put(i, 0, t[i][0] + t[i][1] + t[i][2]);
    put(i, 1, t[i][1] - t[i][2] - t[i][3]);
  }
}

// A dy Aᵀ: pixel(i, j), put(point, value).
template <class Pixel, class Put>
inline void transform_gradient(const Pixel& pixel, const Put& put) {
  Vec t[4][2];
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    const Vec a = pixel(0, j), b = pixel(1, j);
    t[0][j] = a, t[1][j] = a + b, t[2][j] = a - b, t[3][j] = splat(0.0f) - b;
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    put(4 * i, t[i][0]);
    put(4 * i + 1, t[i][0] + t[i][1]);
    put(4 * i + 2, t[i][0] - t[i][1]);
    put(4 * i + 3, splat(0.0f) - t[i][1]);
  }
}

// G g Gᵀ: tap(i, j), put(point, value).
template <class Tap, class Put>
inline void transform_kernel(const Tap& tap, const Put& put) {
  const Vec half = splat(0.5f);
  Vec t[4][3];
#pragma GCC unroll 3
  for (int j = 0; j < 3; ++j) {
    const Vec a = tap(0, j), b = tap(1, j), c = tap(2, j), even = (a + c) * half;
    t[0][j] = a, t[1][j] = fma(b, half, even), t[2][j] = fnma(b, half, even), t[3][j] = c;
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Vec even = (t[i][0] + t[i][2]) * half;
    put(4 * i, t[i][0]);
    put(4 * i + 1, fma(t[i][1], half, even));
    put(4 * i + 2, fnma(t[i][1], half, even));
    put(4 * i + 3, t[i][2]);
  }
}

// Gᵀ u G: point(p), put(i, j, value).
template <class Point, class Put>
inline void transform_kernel_gradient(const Point& point, const Put& put) {
  const Vec half = splat(0.5f);
  Vec t[3][4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const Vec a = point(j), b = point(4 + j), c = point(8 + j), d = point(12 + j), even = (b + c) * half;
    t[0][j] = a + even, t[1][j] = (b - c) * half, t[2][j] = even + d;
  }
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) {
    const Vec even = (t[i][1] + t[i][2]) * half;
    put(i, 0, t[i][0] + even);
    put(i, 1, (t[i][1] - t[i][2]) * half);
    put(i, 2, even + t[i][3]);
  }
}

// The image under tiles [first, first + count), transformed: element (point, tile i, channel c) to out[point * stride + place(i, c)].
// `nothing`: zeros for one pixel, which stand for what is outside the image.
template <class Place>
void transform_windows(const Windows& w, const Tiling& tiling, int64_t first, int64_t count, const float* nothing, int64_t stride, const Place& place,
                       float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t tile = first + i, column = tile % tiling.columns, above = tile / tiling.columns, row = above % tiling.rows, n = above / tiling.rows;
    const int64_t y = 2 * row - w.top, x = 2 * column - w.left, line = w.width * w.channels;
    const float* corner = w.images + (n * w.height + y) * line + x * w.channels;
    if (y >= 0 && x >= 0 && y + 4 <= w.height && x + 4 <= w.width) {
      for_each_vector(w.channels, [&](int64_t c, auto lanes) {
        float* to = out + place(i, c);
        transform_window([&](int u, int v) { return lanes.load(corner + u * line + v * w.channels + c); },
                         [&](int p, Vec value) { lanes.store(to + p * stride, value); });
      });
      continue;
    }
    const float* pixels[4][4];
    for (int u = 0; u < 4; ++u)
      for (int v = 0; v < 4; ++v) {
        const bool inside = y + u >= 0 && y + u < w.height && x + v >= 0 && x + v < w.width;
        pixels[u][v] = inside ? corner + u * line + v * w.channels : nothing;
      }
    for_each_vector(w.channels, [&](int64_t c, auto lanes) {
      float* to = out + place(i, c);
      transform_window([&](int u, int v) { return lanes.load(pixels[u][v] + c); }, [&](int p, Vec value) { lanes.store(to + p * stride, value); });
    });
  }
}

// C[m, n] (+)= A B of one point: A by rows [m, k] or by columns [k, m], B packed [n / kTileColumns][k][kTileColumns].
template <Walk walk>
void multiply_point(const float* a, int64_t m, int64_t k, const float* b, int64_t n, float* c, bool accumulate) {
  for (int64_t j = 0; j < n; j += kTileColumns) {
    const int width = static_cast<int>(at_most(n - j, kTileColumns));
    for (int64_t i = 0; i < m;) {
      const int rows = panel_rows(m - i);
      packed_kernel<walk>(rows, width)(k, walk == Walk::rows ? a + i * k : a + i, walk == Walk::rows ? k : m, b + j * k, kTileColumns, c + i * n + j, n,
                                       accumulate, (width - 1) % Vec::width + 1, kPackedAhead, nullptr, {});
      i += rows;
    }
  }
}

inline int64_t winograd_kernel_floats(int64_t k, int64_t n) { return kPoints * k * round_up(n, kTileColumns); }
inline size_t winograd_workspace(int64_t k, int64_t n) { return static_cast<size_t>(winograd_kernel_floats(k, n)) * sizeof(float); }

// G g Gᵀ of w [n, 3, 3, k]: 16 matrices [k, n], packed.
inline void pack_winograd_kernel(Context& context, const float* w, int64_t k, int64_t n, float* packed) {
  const int64_t point = k * round_up(n, kTileColumns), panels = ceil_div(n, kTileColumns), depths = ceil_div(k, Vec::width);
  context.parallel(panels * depths, [&](int64_t task) {
    const int64_t column = task / depths * kTileColumns, c = task % depths * Vec::width, columns = at_most(n - column, kTileColumns);
    const int lanes = lanes_left(k, c);
    float* rows = static_cast<float*>(context.scratch(5, sizeof(float) * kPoints * kTileColumns * Vec::width));  // [16, columns, Vec::width]
    zero(rows, kPoints * kTileColumns * Vec::width);
    for (int64_t o = 0; o < columns; ++o)
      transform_kernel([&](int i, int j) { return load_part(w + ((column + o) * 9 + 3 * i + j) * k + c, lanes); },
                       [&](int p, Vec value) { store(rows + (p * kTileColumns + o) * Vec::width, value); });
    for (int p = 0; p < kPoints; ++p)
      for (int o = 0; o < kTileColumns; o += Vec::width) {
        Vec block[Vec::width];
        for (int r = 0; r < Vec::width; ++r) block[r] = load(rows + (p * kTileColumns + o + r) * Vec::width);
        transpose(block);
        for (int r = 0; r < lanes; ++r) store(packed + p * point + column * k + (c + r) * kTileColumns + o, block[r]);
      }
  });
}

// The same of w [k, 3, 3, n] with its taps backwards: the kernel of the gradient.
inline void pack_winograd_kernel_backwards(Context& context, const float* w, int64_t k, int64_t n, float* packed) {
  const int64_t point = k * round_up(n, kTileColumns);
  context.parallel(ceil_div(n, kTileColumns), [&](int64_t panel) {
    const int64_t column = panel * kTileColumns;
    for (int64_t o = 0; o < k; ++o)
      for (int64_t v = 0; v < kTileColumns; v += Vec::width) {
        const int64_t c = column + v;
        const int lanes = c < n ? lanes_left(n, c) : 0;
        transform_kernel([&](int i, int j) { return lanes ? load_part(w + (o * 9 + 8 - 3 * i - j) * n + c, lanes) : splat(0.0f); },
                         [&](int p, Vec value) { store(packed + p * point + column * k + o * kTileColumns + v, value); });
      }
  });
}

// y [images, grid_rows, grid_columns, n] = the windows times a packed kernel, plus a bias [n] or null.
inline void winograd(Context& context, const Windows& w, int64_t images, int64_t n, const float* packed, const float* bias, float* y) {
  const int64_t k = w.channels, point = k * round_up(n, kTileColumns);
  const Tiling tiling(w, images, n);
  const int64_t input_stride = point_stride(tiling.block, k), output_stride = point_stride(tiling.block, n);
  context.parallel(tiling.blocks(), [&](int64_t task) {
    const int64_t first = task * tiling.block, count = at_most(tiling.count - first, tiling.block);
    float* nothing = static_cast<float*>(context.scratch(4, static_cast<size_t>(k) * sizeof(float)));
    float* inputs = static_cast<float*>(context.scratch(6, static_cast<size_t>(kPoints * input_stride) * sizeof(float)));
    float* outputs = static_cast<float*>(context.scratch(7, static_cast<size_t>(kPoints * output_stride) * sizeof(float)));
    zero(nothing, k);
    transform_windows(w, tiling, first, count, nothing, input_stride, [&](int64_t i, int64_t c) { return i * k + c; }, inputs);
    for (int p = 0; p < kPoints; ++p)
      multiply_point<Walk::rows>(inputs + p * input_stride, count, k, packed + p * point, n, outputs + p * output_stride, false);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t tile = first + i, column = 2 * (tile % tiling.columns), above = tile / tiling.columns, row = 2 * (above % tiling.rows);
      const bool below = row + 1 < w.grid_rows, beside = column + 1 < w.grid_columns;
      float* corner = y + ((above / tiling.rows * w.grid_rows + row) * w.grid_columns + column) * n;
      for_each_vector(n, [&](int64_t c, auto lanes) {
        const float* from = outputs + i * n + c;
        const Vec add = bias ? lanes.load(bias + c) : splat(0.0f);
        transform_products([&](int p) { return lanes.load(from + p * output_stride); },
                           [&](int u, int v, Vec value) {
                             if ((u == 0 || below) && (v == 0 || beside)) lanes.store(corner + (u * w.grid_columns + v) * n + c, value + add);
                           });
      });
    }
  });
}

// Parts of the tiles whose sums are made apart and added in order.
inline int64_t winograd_splits(const Tiling& tiling) { return at_least(at_most(at_most(tiling.count / 128, kSplits), tiling.blocks()), 1); }

inline size_t winograd_weight_workspace(const Windows& w, int64_t images, int64_t out_channels) {
  return static_cast<size_t>(winograd_splits(Tiling(w, images, out_channels)) * kPoints * out_channels * w.channels) * sizeof(float);
}

// dw [n, 3, 3, k] from dy [images, grid_rows, grid_columns, n] and the image under its windows.
inline void winograd_weight_grad(Context& context, const Windows& w, int64_t images, int64_t n, const float* dy, float* sums, float* dw) {
  const int64_t k = w.channels, point = n * k;
  const Tiling tiling(w, images, n);
  const int64_t splits = winograd_splits(tiling), input_stride = point_stride(tiling.block, round_up(k, kTileColumns)), output_stride = point_stride(tiling.block, n);
  context.parallel(splits, [&](int64_t split) {
    float* nothing = static_cast<float*>(context.scratch(4, static_cast<size_t>(k + n) * sizeof(float)));
    float* inputs = static_cast<float*>(context.scratch(6, static_cast<size_t>(kPoints * input_stride) * sizeof(float)));
    float* outputs = static_cast<float*>(context.scratch(7, static_cast<size_t>(kPoints * output_stride) * sizeof(float)));
    zero(nothing, k + n);
    const int64_t begin = split * tiling.blocks() / splits, end = (split + 1) * tiling.blocks() / splits;
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * tiling.block, count = at_most(tiling.count - first, tiling.block);
      transform_windows(w, tiling, first, count, nothing, input_stride,
                        [&](int64_t i, int64_t c) { return c / kTileColumns * kTileColumns * count + i * kTileColumns + c % kTileColumns; }, inputs);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t tile = first + i, column = 2 * (tile % tiling.columns), above = tile / tiling.columns, row = 2 * (above % tiling.rows);
        const float* corner = dy + ((above / tiling.rows * w.grid_rows + row) * w.grid_columns + column) * n;
        const bool below = row + 1 < w.grid_rows, beside = column + 1 < w.grid_columns;
        const float* pixels[2][2] = {{corner, beside ? corner + n : nothing},
                                     {below ? corner + w.grid_columns * n : nothing, below && beside ? corner + (w.grid_columns + 1) * n : nothing}};
        for_each_vector(n, [&](int64_t c, auto lanes) {
          float* to = outputs + i * n + c;
          transform_gradient([&](int u, int v) { return lanes.load(pixels[u][v] + c); }, [&](int p, Vec value) { lanes.store(to + p * output_stride, value); });
        });
      }
      for (int p = 0; p < kPoints; ++p)
        multiply_point<Walk::columns>(outputs + p * output_stride, n, count, inputs + p * input_stride, k, sums + (split * kPoints + p) * point, block > begin);
    }
  });
  context.parallel(n, [&](int64_t o) {
    for_each_vector(k, [&](int64_t c, auto lanes) {
      transform_kernel_gradient(
          [&](int p) {
            Vec total = lanes.load(sums + p * point + o * k + c);
            for (int64_t split = 1; split < splits; ++split) total = total + lanes.load(sums + (split * kPoints + p) * point + o * k + c);
            return total;
          },
          [&](int i, int j, Vec value) { lanes.store(dw + (o * 9 + 3 * i + j) * k + c, value); });
    });
  });
}

}  // namespace trefoil::cpu::TREFOIL_ISA
