// 2-D convolution, NHWC, and both of its gradients: implicit matrix products over windows that are never stored; 3 x 3 kernels of stride 1
// with enough channels by minimal filtering (winograd.h).
#include "conv_windows.h"
#include "epilogue.h"
#include "winograd.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

// Windows to a task: A is packed once per tile, so tiles are narrower than C only where rows are few.
struct Tiles {
  int64_t rows = kBlockRows, columns, row_tiles, column_tiles;
  Tiles(int64_t m, int64_t n) : columns(n) {
    while (ceil_div(m, rows) * ceil_div(n, columns) < kTasks) {
      if (rows > 2 * kTileRows) rows -= kTileRows;
      else if (columns > 4 * kTileColumns) columns = round_up(ceil_div(columns, 2), kTileColumns);
      else break;
    }
    row_tiles = ceil_div(m, rows);
    column_tiles = ceil_div(n, columns);
  }
};

// Row m of the product goes to c + place(m) * n. Contiguous rows are written where they belong, others through a tile.
template <bool contiguous, class Place>
void multiply_windows(Context& context, const Windows& a, int64_t m, int64_t n, const float* packed, const Epilogue& epilogue, float* c,
                      const Place& place) {
  const int64_t k = a.length();
  const Depth cut(k);
  const Tiles tiles(m, n);
  context.parallel(tiles.row_tiles * tiles.column_tiles, [&](int64_t task) {
    const int64_t row = task % tiles.row_tiles * tiles.rows, rows = at_most(m - row, tiles.rows);
    const int64_t column = task / tiles.row_tiles * tiles.columns, columns = at_most(n - column, tiles.columns);
    float *to = c + row * n, *a_panels = static_cast<float*>(context.scratch(6, static_cast<size_t>((panel_count(rows) + 1) * panel_stride(cut.depth)) * 4));
    if (!contiguous) to = static_cast<float*>(context.scratch(5, static_cast<size_t>(rows * n) * 4));
    for (int64_t k0 = 0; k0 < k; k0 += cut.depth) {
      const int64_t depth = at_most(k - k0, cut.depth);
      pack_windows_a(a, row, rows, k0, depth, a_panels);
      multiply_packed<Walk::rows>(a_panels, rows, packed + k0 * round_up(n, kTileColumns) + column * depth, columns, depth, to + column, n, k0 > 0);
    }
    if (k == 0)
      for (int64_t i = 0; i < rows; ++i) zero(to + i * n + column, columns);
    if (!is_trivial(epilogue)) finish(epilogue, to, n, 0, rows, column, columns);
    if (!contiguous)
      for (int64_t i = 0; i < rows; ++i) widen(to + i * n + column, c + place(row + i) * n + column, columns);
  });
}

// The same for a few columns, b stored as [n, k]: tiles of C would leave most lanes idle, dot products over k do not. Windows that lie in
// the image are read where they are.
void multiply_windows_thin(Context& context, const Windows& a, int64_t m, int64_t n, const float* b, const Epilogue& epilogue, float* c) {
  constexpr int kTogether = kAccumulators / 4;
  const int64_t k = a.length(), run = a.kernel_columns * a.channels, line = a.width * a.channels, step = a.stride * a.channels;
  context.parallel(ceil_div(m, kBlockRows), [&](int64_t task) {
    const int64_t first = task * kBlockRows, last = at_most(first + kBlockRows, m);
    float* window = static_cast<float*>(context.scratch(6, static_cast<size_t>(k) * sizeof(float)));
    if (k == 0) zero(c + first * n, (last - first) * n);
    Position at(a, first);
    for (int64_t row = first; row < last && k > 0; ++row, at.next(a)) {
      Position end = at;
      end.v += kTogether - 1;
      if (row + kTogether <= last && end.v < a.grid_columns && at.inside(a) && end.inside(a)) {
        dot_windows<kTogether>(at.corner(a), step, line, a.kernel_rows, run, b, n, c + row * n);
        at = end;
        row += kTogether - 1;
      } else if (at.inside(a)) {
        dot_windows<1>(at.corner(a), step, line, a.kernel_rows, run, b, n, c + row * n);
      } else {
        copy_window(a, at, 0, k, window);
        dot_windows<1>(window, 0, 0, 1, k, b, n, c + row * n);
      }
    }
    if (!is_trivial(epilogue)) finish(epilogue, c, n, first, last - first, 0, n);
  });
}

// x [N, H, W, C], w [O, kh, kw, C], y [N, H', W', O]
struct Shapes {
  int64_t images, height, width, channels, out_rows, out_columns, out_channels, kernel_rows, kernel_columns, stride, padding;
  Shapes(const TrefoilView& x, const TrefoilView& w, const TrefoilView& y, const double* attributes)
      : images(x.shape[0]), height(x.shape[1]), width(x.shape[2]), channels(x.shape[3]), out_rows(y.shape[1]), out_columns(y.shape[2]),
        out_channels(y.shape[3]), kernel_rows(w.shape[1]), kernel_columns(w.shape[2]), stride(static_cast<int64_t>(attributes[0])),
        padding(static_cast<int64_t>(attributes[1])) {}
  int64_t positions() const { return images * out_rows * out_columns; }
  int64_t window() const { return kernel_rows * kernel_columns * channels; }
  bool pointwise() const { return kernel_rows == 1 && kernel_columns == 1 && stride == 1 && padding == 0 && out_rows == height && out_columns == width; }
  bool thin() const { return out_channels <= kDotColumns; }
  Windows windows(const float* x) const {
    return {x, height, width, channels, out_rows, out_columns, kernel_rows, kernel_columns, stride, padding, padding};
  }
};

Matrix plain(const void* data, int64_t stride, bool transposed) { return {data, stride, transposed, false, nullptr}; }

// A 1 x 1 kernel is a matrix product as it stands.
Gemm pointwise_forward(const Shapes& s, const TrefoilView& x, const TrefoilView& w) {
  Gemm g;
  g.m = s.positions(), g.n = s.out_channels, g.k = s.channels;
  g.a = plain(x.data, s.channels, false);
  g.b = plain(w.data, s.channels, true);
  g.c_stride = s.out_channels;
  return g;
}
Gemm pointwise_input(const Shapes& s, const TrefoilView& dy, const TrefoilView& w) {
  Gemm g;
  g.m = s.positions(), g.n = s.channels, g.k = s.out_channels;
  g.a = plain(dy.data, s.out_channels, false);
  g.b = plain(w.data, s.channels, false);
  g.c_stride = s.channels;
  return g;
}
Gemm pointwise_weight(const Shapes& s, const TrefoilView& dy, const TrefoilView& x) {
  Gemm g;
  g.m = s.out_channels, g.n = s.channels, g.k = s.positions();
  g.a = plain(dy.data, s.out_channels, true);
  g.b = plain(x.data, s.channels, false);
  g.c_stride = s.channels;
  return g;
}

size_t conv2d_workspace(const TrefoilLaunch& launch) {
  const Shapes s(launch.inputs[0], launch.inputs[1], launch.outputs[0], launch.attributes);
  if (s.pointwise()) return gemm_workspace(pointwise_forward(s, launch.inputs[0], launch.inputs[1]));
  if (s.thin()) return 0;
  if (suits_winograd(s.windows(nullptr), s.out_channels)) return winograd_workspace(s.channels, s.out_channels);
  return packed_right_bytes(s.window(), s.out_channels);
}

void conv2d(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &x = launch.inputs[0], &w = launch.inputs[1], &y = launch.outputs[0];
  const Shapes s(x, w, y, launch.attributes);
  Epilogue epilogue;
  if (launch.input_count > 2) epilogue.bias = data<const float>(launch.inputs[2]);
  if (elements(y) == 0) return;
  if (s.pointwise()) {
    Gemm g = pointwise_forward(s, x, w);
    g.c = data<float>(y);
    g.epilogue = epilogue;
    return gemm(context, &g, 1, launch.workspace);
  }
  const Windows windows = s.windows(data<float>(x));
  if (s.thin()) return multiply_windows_thin(context, windows, s.positions(), s.out_channels, data<float>(w), epilogue, data<float>(y));
  float* packed = static_cast<float*>(launch.workspace);
  if (suits_winograd(windows, s.out_channels)) {
    pack_winograd_kernel(context, data<float>(w), s.channels, s.out_channels, packed);
    return winograd(context, windows, s.images, s.out_channels, packed, epilogue.bias, data<float>(y));
  }
  pack_right(context, plain(w.data, s.window(), true), s.window(), s.out_channels, packed);
  multiply_windows<true>(context, windows, s.positions(), s.out_channels, packed, epilogue, data<float>(y), [](int64_t m) { return m; });
}

// Rows (or columns) r, r + stride, … of dx along one axis: with q the first kernel tap that reaches them, they are a
// convolution of stride 1 of dy with the taps q, q + stride, … in reverse.
struct Phase {
  int64_t first_tap, taps, before, count;  // before: rows of dy's window that precede its position
  Phase(int64_t r, int64_t size, int64_t kernel, int64_t stride, int64_t padding) {
    first_tap = (r + padding) % stride;
    taps = first_tap < kernel ? ceil_div(kernel - first_tap, stride) : 0;
    before = taps - 1 - (r + padding - first_tap) / stride;
    count = r < size ? ceil_div(size - r, stride) : 0;
  }
};

// With stride 1 dx is a convolution of dy with the whole kernel.
Windows gradient_windows(const Shapes& s, const float* dy) {
  return {dy, s.out_rows, s.out_columns, s.out_channels, s.height, s.width, s.kernel_rows, s.kernel_columns, 1,
          s.kernel_rows - 1 - s.padding, s.kernel_columns - 1 - s.padding};
}
bool thin_gradient(const Shapes& s) { return s.stride == 1 && s.channels <= kDotColumns; }
bool suits_winograd_gradient(const Shapes& s) { return s.stride == 1 && suits_winograd(gradient_windows(s, nullptr), s.channels); }

size_t row_list_bytes(int64_t rows) { return static_cast<size_t>(round_up(rows * static_cast<int64_t>(sizeof(int32_t)), 64)); }

size_t conv2d_input_grad_workspace(const TrefoilLaunch& launch) {
  const Shapes s(launch.outputs[0], launch.inputs[1], launch.inputs[0], launch.attributes);
  if (s.pointwise()) return gemm_workspace(pointwise_input(s, launch.inputs[0], launch.inputs[1]));
  if (suits_winograd_gradient(s)) return winograd_workspace(s.out_channels, s.channels);
  const int64_t rows = s.kernel_rows * s.kernel_columns * s.out_channels;
  if (thin_gradient(s)) return static_cast<size_t>(rows * s.channels) * sizeof(float);
  return row_list_bytes(rows) + packed_right_bytes(rows, s.channels);
}

void conv2d_input_grad(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &dy = launch.inputs[0], &w = launch.inputs[1], &dx = launch.outputs[0];
  const Shapes s(dx, w, dy, launch.attributes);
  if (elements(dx) == 0) return;
  if (s.pointwise()) {
    Gemm g = pointwise_input(s, dy, w);
    g.c = data<float>(dx);
    return gemm(context, &g, 1, launch.workspace);
  }
  if (suits_winograd_gradient(s)) {
    float* packed = static_cast<float*>(launch.workspace);
    pack_winograd_kernel_backwards(context, data<float>(w), s.out_channels, s.channels, packed);
    return winograd(context, gradient_windows(s, data<float>(dy)), s.images, s.channels, packed, nullptr, data<float>(dx));
  }
  if (thin_gradient(s)) {
    float* right = static_cast<float*>(launch.workspace);  // [C, taps backwards, O]
    const int64_t taps = s.kernel_rows * s.kernel_columns;
    for (int64_t c = 0; c < s.channels; ++c)
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t o = 0; o < s.out_channels; ++o)
          right[(c * taps + tap) * s.out_channels + o] = data<float>(w)[(o * taps + taps - 1 - tap) * s.channels + c];
    const Windows windows = gradient_windows(s, data<float>(dy));
    return multiply_windows_thin(context, windows, s.images * s.height * s.width, s.channels, right, Epilogue{}, data<float>(dx));
  }
  int32_t* list = static_cast<int32_t*>(launch.workspace);
  float* packed = reinterpret_cast<float*>(static_cast<char*>(launch.workspace) + row_list_bytes(s.kernel_rows * s.kernel_columns * s.out_channels));
  for (int64_t r = 0; r < at_most(s.stride, s.height); ++r)
    for (int64_t q = 0; q < at_most(s.stride, s.width); ++q) {
      const Phase vertical(r, s.height, s.kernel_rows, s.stride, s.padding), horizontal(q, s.width, s.kernel_columns, s.stride, s.padding);
      const Windows windows{data<float>(dy), s.out_rows, s.out_columns, s.out_channels, vertical.count, horizontal.count,
                            vertical.taps, horizontal.taps, 1, vertical.before, horizontal.before};
      int32_t* at = list;  // row (o, i, j) of w [O kh kw, C], for the taps of this phase backwards, o innermost
      for (int64_t i = vertical.taps - 1; i >= 0; --i)
        for (int64_t j = horizontal.taps - 1; j >= 0; --j)
          for (int64_t o = 0; o < s.out_channels; ++o)
            *at++ = static_cast<int32_t>((o * s.kernel_rows + vertical.first_tap + i * s.stride) * s.kernel_columns + horizontal.first_tap + j * s.stride);
      Matrix right = plain(w.data, s.channels, false);
      right.rows = list;
      pack_right(context, right, windows.length(), s.channels, packed);
      const int64_t m = s.images * vertical.count * horizontal.count;
      if (s.stride == 1)
        multiply_windows<true>(context, windows, m, s.channels, packed, Epilogue{}, data<float>(dx), [](int64_t at) { return at; });
      else
        multiply_windows<false>(context, windows, m, s.channels, packed, Epilogue{}, data<float>(dx), [&](int64_t position) {
          const int64_t v = position % horizontal.count, row = position / horizontal.count, u = row % vertical.count, n = row / vertical.count;
          return (n * s.height + r + u * s.stride) * s.width + q + v * s.stride;
        });
    }
}

// dw [O, K] = dyᵀ times the windows, contracted over every position in blocks. Tasks are strips of columns, and parts of the
// blocks where strips are few: partial sums, added in order.
struct WeightPlan {
  int64_t depth, blocks, column_tile, column_tiles, splits;
  explicit WeightPlan(const Shapes& s) {
    const int64_t m = at_least(s.positions(), 1), k = s.window();
    blocks = ceil_div(m, kDepth);
    depth = round_up(ceil_div(m, blocks), 8);
    blocks = ceil_div(m, depth);
    column_tile = even_tile(at_least(k, 1), strip_columns(depth), kTileColumns);
    column_tiles = ceil_div(k, column_tile);
    splits = at_least(at_most(at_most(ceil_div(kTasks, at_least(column_tiles, 1)), kSplits), blocks / 2), 1);
  }
};

size_t conv2d_weight_grad_workspace(const TrefoilLaunch& launch) {
  const Shapes s(launch.inputs[1], launch.outputs[0], launch.inputs[0], launch.attributes);
  if (s.pointwise()) return gemm_workspace(pointwise_weight(s, launch.inputs[0], launch.inputs[1]));
  if (suits_winograd(s.windows(nullptr), s.out_channels)) return winograd_weight_workspace(s.windows(nullptr), s.images, s.out_channels);
  const WeightPlan plan(s);
  return plan.splits > 1 ? static_cast<size_t>(plan.splits * s.out_channels * s.window()) * sizeof(float) : 0;
}

void conv2d_weight_grad(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &dy = launch.inputs[0], &x = launch.inputs[1], &dw = launch.outputs[0];
  const Shapes s(x, dw, dy, launch.attributes);
  const int64_t m = s.positions(), k = s.window(), size = s.out_channels * k;
  if (size == 0) return;
  if (m == 0) return zero(data<float>(dw), size);
  if (s.pointwise()) {
    Gemm g = pointwise_weight(s, dy, x);
    g.c = data<float>(dw);
    return gemm(context, &g, 1, launch.workspace);
  }
  const Windows windows = s.windows(data<float>(x));
  if (suits_winograd(windows, s.out_channels))
    return winograd_weight_grad(context, windows, s.images, s.out_channels, data<float>(dy), static_cast<float*>(launch.workspace), data<float>(dw));
  const WeightPlan plan(s);
  const Matrix left = plain(dy.data, s.out_channels, true);
  float* partials = plan.splits > 1 ? static_cast<float*>(launch.workspace) : data<float>(dw);
  context.parallel(plan.column_tiles * plan.splits, [&](int64_t task) {
    const int64_t split = task / plan.column_tiles, column = task % plan.column_tiles * plan.column_tile;
    const int64_t columns = at_most(k - column, plan.column_tile), padded = round_up(columns, kTileColumns);
    float* c = partials + split * size + column;
    float* window = static_cast<float*>(context.scratch(5, static_cast<size_t>(padded) * sizeof(float)));
    float* right = static_cast<float*>(context.scratch(7, static_cast<size_t>(padded * plan.depth) * sizeof(float)));
    const int64_t first = split * plan.blocks / plan.splits, last = (split + 1) * plan.blocks / plan.splits;
    for (int64_t block = first; block < last; ++block) {
      const int64_t m0 = block * plan.depth, depth = at_most(m - m0, plan.depth);
      pack_windows_b(windows, m0, depth, column, column + columns, window, right);
      for (int64_t o = 0; o < s.out_channels; o += kBlockRows) {
        const int64_t rows = at_most(s.out_channels - o, kBlockRows);
        float* a = static_cast<float*>(context.scratch(6, static_cast<size_t>((panel_count(rows) + 1) * panel_stride(depth)) * sizeof(float)));
        pack_a(left, o, rows, m0, depth, a);
        multiply_packed<Walk::columns>(a, rows, right, columns, depth, c + o * k, k, block > first);
      }
    }
  });
  if (plan.splits == 1) return;
  float* total = data<float>(dw);
  constexpr int64_t grain = 16384;
  context.parallel(ceil_div(size, grain), [&](int64_t task) {
    for (int64_t i = task * grain, end = at_most(i + grain, size); i < end; i += Vec::width) {
      const int lanes = static_cast<int>(at_most(end - i, Vec::width));
      Vec sum = load_n(partials + i, lanes);
      for (int64_t part = 1; part < plan.splits; ++part) sum = sum + load_n(partials + part * size + i, lanes);
      store_n(total + i, sum, lanes);
    }
  });
}

}  // namespace

extern const KernelEntry conv2d_kernels[];
const KernelEntry conv2d_kernels[] = {{"conv2d", conv2d, conv2d_workspace},
                                      {"conv2d_input_grad", conv2d_input_grad, conv2d_input_grad_workspace},
                                      {"conv2d_weight_grad", conv2d_weight_grad, conv2d_weight_grad_workspace},
                                      {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
