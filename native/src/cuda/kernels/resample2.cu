// Twice the resolution by repetition, half of it by summing; each is the other's gradient.
#include "divisor.h"
#include "floats.h"

namespace trefoil::cuda {

namespace {

// small [N, H, W, C], large [N, 2H, 2W, C], in items of `width` neighbouring channels.
struct Resolutions {
  Divisor channels, columns;
  int64_t items;  // of small

  // The upper left of the four pixels of large under an item of small; the next pixel is channels.value later, the next row row() later.
  __device__ __forceinline__ int64_t upper(int64_t item) const {
    const Divided pixel = channels.divide(item), row = columns.divide(pixel.quotient);
    return (2 * row.quotient * 2 * columns.value + 2 * row.remainder) * channels.value + pixel.remainder;
  }
  __device__ __forceinline__ int64_t row() const { return 2 * columns.value * channels.value; }
};

template <int width, class X, class Y>
__global__ void __launch_bounds__(kLoopThreads, kLoopBlocks) upsample_kernel(const X* x, Y* y, Resolutions at, float factor) {
  for (int64_t item = first_index(); item < at.items; item += index_stride()) {
    Vector<width> value = load_vector<width>(x + item * width);
#pragma unroll
    for (int k = 0; k < width; ++k) value[k] *= factor;
    Y* to = y + at.upper(item) * width;
    const int64_t right = at.channels.value * width, down = at.row() * width;
    store_vector(to, value);
    store_vector(to + right, value);
    store_vector(to + down, value);
    store_vector(to + down + right, value);
  }
}

template <int width, class X, class Y>
__global__ void __launch_bounds__(kLoopThreads, kLoopBlocks) sum_pool_kernel(const X* x, Y* y, Resolutions at, float factor) {
  for (int64_t item = first_index(); item < at.items; item += index_stride()) {
    const X* from = x + at.upper(item) * width;
    const int64_t right = at.channels.value * width, down = at.row() * width;
    const Vector<width> a = load_vector<width>(from), b = load_vector<width>(from + right), c = load_vector<width>(from + down), d = load_vector<width>(from + down + right);
    Vector<width> sum;
#pragma unroll
    for (int k = 0; k < width; ++k) sum[k] = ((a[k] + b[k]) + (c[k] + d[k])) * factor;
    store_vector(y + item * width, sum);
  }
}

void resample(const Context& context, const TrefoilLaunch& args, bool up) {
  const TrefoilView& small = up ? args.inputs[0] : args.outputs[0];
  const int64_t count = elements(small), channels = small.shape[3];
  if (count == 0) return;
  with_floats(args.inputs[0], args.outputs[0], [&]<class X, class Y>(X* x, Y* y) {
    constexpr int kWidth = kVectorWidth<Y>;
    const int width = channels % kWidth == 0 ? kWidth : 1;
    const auto kernel = width > 1 ? (up ? upsample_kernel<kWidth, X, Y> : sum_pool_kernel<kWidth, X, Y>) : (up ? upsample_kernel<1, X, Y> : sum_pool_kernel<1, X, Y>);
    launch(context, {context.grid(count / width, kLoopThreads, kLoopBlocks), kLoopThreads}, kernel, x, y, Resolutions{Divisor(channels / width), Divisor(small.shape[2]), count / width},
           static_cast<float>(args.attributes[0]));
  });
}

void upsample_nearest2(const Context& context, const TrefoilLaunch& args) { resample(context, args, true); }
void sum_pool2(const Context& context, const TrefoilLaunch& args) { resample(context, args, false); }

}  // namespace

extern const KernelEntry resample2_kernels[] = {{"upsample_nearest2", upsample_nearest2, nullptr}, {"sum_pool2", sum_pool2, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
