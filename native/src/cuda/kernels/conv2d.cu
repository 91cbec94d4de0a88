// 2-D convolution, channels last, and both of its gradients: products of matrices over windows that are never stored.
#include "conv_sources.h"
#include "multiply.h"

namespace trefoil::cuda {

namespace {

struct Sizes {
  int images, height, width, channels, out_rows, out_columns, out_channels, kernel_rows, kernel_columns, stride, padding;
  Sizes(const TrefoilView& x, const TrefoilView& w, const TrefoilView& y, const double* attributes)
      : images(side(x, 0)), height(side(x, 1)), width(side(x, 2)), channels(side(x, 3)), out_rows(side(y, 1)), out_columns(side(y, 2)),
        out_channels(side(y, 3)), kernel_rows(side(w, 1)), kernel_columns(side(w, 2)), stride(static_cast<int>(attributes[0])),
        padding(static_cast<int>(attributes[1])) {
    if (!counts(images, out_rows, out_columns) || !counts(images, height, width)) fail(TREFOIL_INVALID_ARGUMENT, "conv2d: 2^31 pixels or more");
    // Channels are padded to multiples of eight.
    if (!counts(kernel_rows, kernel_columns, channels + 8.0) || !counts(kernel_rows, kernel_columns, out_channels + 8.0))
      fail(TREFOIL_INVALID_ARGUMENT, "conv2d: windows of 2^31 elements or more");
  }
  int positions() const { return images * out_rows * out_columns; }

 private:
  static int side(const TrefoilView& view, int axis) { return cuda::side("conv2d", view.shape[axis]); }
  static bool counts(double a, double b, double c) { return a * b * c <= INT32_MAX; }
};

// Pixels or taps as rows of their channels, in the element type of the kernel; channels padded to whole chunks where that is bf16, and only
// there: f32 operands that were stored as they are would not fit.
template <class T>
Rows<T> pixels(const Context& context, Workspace& workspace, const TrefoilView& view) {
  const int64_t channels = view.shape[3];
  if (sizeof(T) == 4 && channels % 4 != 0) {
    Rows<T> rows = as_rows<T>(context, workspace, {view.data, view.dtype, 1, elements(view), 1, true}, false);
    rows.stride = channels;
    rows.aligned = false;
    return rows;
  }
  return as_rows<T>(context, workspace, {view.data, view.dtype, row_count(view), channels, 1, true}, false);
}

template <class T>
Windows<T> windows_of(const Sizes& s, const Rows<T>& x) {
  Windows<T> windows;
  windows.data = x.data;
  windows.height = s.height, windows.width = s.width, windows.channels = static_cast<int>(x.stride);
  windows.out_rows = s.out_rows, windows.out_columns = s.out_columns, windows.kernel_columns = s.kernel_columns;
  windows.stride = s.stride, windows.before_rows = windows.before_columns = s.padding;
  return windows;
}

template <class A, class B>
void multiply_conv(const Context& context, Workspace& workspace, const A& a, const B& b, Product p) {
  const bool large = fills_large_tiles(p);
  p.splits = choose_splits(p, large ? 128 : 64, 32);
  const size_t mark = workspace.mark();
  p.partials = workspace.take<float>(partial_elements(p));
  if (workspace.running()) {
    gemm_conv(context, a, b, p, large);
    if (p.splits > 1) add_splits(context, p);
  }
  workspace.release_to(mark);
}

template <class T>
void forward(const Context& context, Workspace& workspace, const TrefoilLaunch& launch) {
  const TrefoilView &x = launch.inputs[0], &w = launch.inputs[1], &y = launch.outputs[0];
  const Sizes s(x, w, y, launch.attributes);
  const Rows<T> image = pixels<T>(context, workspace, x);
  Rows<T> kernel = pixels<T>(context, workspace, w);
  Product p;
  p.m = s.positions(), p.n = s.out_channels, p.k = s.kernel_rows * s.kernel_columns * static_cast<int>(image.stride);
  p.c = Floats(y);
  p.epilogue.bias = optional_input<const float>(launch, 2);
  kernel.stride = p.k;
  kernel.aligned = p.k % static_cast<int>(16 / sizeof(T)) == 0;
  multiply_conv(context, workspace, windows_of(s, image), kernel, p);
}

// Rows (or columns) r, r + stride, … of dx along one axis: with q the first kernel tap that reaches them, they are a
// convolution of stride 1 of dy with the taps q, q + stride, … in reverse.
struct Phase {
  int first_tap, taps, before, count;  // before: rows of dy's window that precede its position
  Phase(int r, int size, int kernel, int stride, int padding) {
    first_tap = (r + padding) % stride;
    taps = first_tap < kernel ? (kernel - first_tap + stride - 1) / stride : 0;
    before = taps - 1 - (r + padding - first_tap) / stride;
    count = r < size ? (size - r + stride - 1) / stride : 0;
  }
};

template <class T>
void input_grad(const Context& context, Workspace& workspace, const TrefoilLaunch& launch) {
  const TrefoilView &dy = launch.inputs[0], &w = launch.inputs[1], &dx = launch.outputs[0];
  const Sizes s(dx, w, dy, launch.attributes);
  const Rows<T> upstream = pixels<T>(context, workspace, dy), kernel = pixels<T>(context, workspace, w);
  for (int r = 0; r < s.stride && r < s.height; ++r)
    for (int q = 0; q < s.stride && q < s.width; ++q) {
      const Phase vertical(r, s.height, s.kernel_rows, s.stride, s.padding), horizontal(q, s.width, s.kernel_columns, s.stride, s.padding);
      Windows<T> windows;
      windows.data = upstream.data;
      windows.height = s.out_rows, windows.width = s.out_columns, windows.channels = static_cast<int>(upstream.stride);
      windows.out_rows = vertical.count, windows.out_columns = horizontal.count, windows.kernel_columns = horizontal.taps;
      windows.stride = 1, windows.before_rows = vertical.before, windows.before_columns = horizontal.before;
      Taps<T> taps;
      taps.data = kernel.data;
      taps.kernel_rows = s.kernel_rows, taps.kernel_columns = s.kernel_columns, taps.channels = static_cast<int>(kernel.stride);
      taps.out_channels = s.out_channels, taps.depth = static_cast<int>(upstream.stride);
      taps.first_row = vertical.first_tap, taps.first_column = horizontal.first_tap;
      taps.rows = vertical.taps, taps.columns = horizontal.taps, taps.step = s.stride;
      Product p;
      p.m = s.images * vertical.count * horizontal.count, p.n = s.channels, p.k = vertical.taps * horizontal.taps * taps.depth;
      p.c = Floats(dx);
      if (s.stride > 1) p.placement = {vertical.count, horizontal.count, s.height, s.width, r, q, s.stride};
      multiply_conv(context, workspace, windows, taps, p);
    }
}

template <class T>
void weight_grad(const Context& context, Workspace& workspace, const TrefoilLaunch& launch) {
  const TrefoilView &dy = launch.inputs[0], &x = launch.inputs[1], &dw = launch.outputs[0];
  const Sizes s(x, dw, dy, launch.attributes);
  const Rows<T> upstream = pixels<T>(context, workspace, dy), image = pixels<T>(context, workspace, x);
  Product p;
  p.m = s.out_channels, p.n = s.kernel_rows * s.kernel_columns * s.channels, p.k = s.positions();
  p.c = Floats(dw);
  multiply_conv(context, workspace, upstream, windows_of(s, image), p);
}

// bf16 reads eight channels at a time. The weight gradient has its columns by channel, so there they may not be padded.
bool in_bf16(const Context& context, const TrefoilLaunch& launch, bool weight) {
  return context.precision == Precision::bf16 && (!weight || launch.inputs[1].shape[3] % 8 == 0);
}

using Run = void (*)(const Context&, Workspace&, const TrefoilLaunch&);
template <Run f32, Run half, bool weight>
void run(const Context& context, Workspace& workspace, const TrefoilLaunch& launch) {
  if (elements(launch.outputs[0]) == 0) return;
  (in_bf16(context, launch, weight) ? half : f32)(context, workspace, launch);
}

}  // namespace

extern const KernelEntry conv2d_kernels[];
const KernelEntry conv2d_kernels[] = {
    with_workspace<run<forward<float>, forward<bf16>, false>>("conv2d"),
    with_workspace<run<input_grad<float>, input_grad<bf16>, false>>("conv2d_input_grad"),
    with_workspace<run<weight_grad<float>, weight_grad<bf16>, true>>("conv2d_weight_grad"),
    {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
