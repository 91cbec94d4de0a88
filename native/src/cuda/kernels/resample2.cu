// Twice the resolution by repetition, half of it by summing; each is the other's gradient.
#include "floats.h"

namespace trefoil::cuda {

namespace {

// small [N, H, W, C], large [N, 2H, 2W, C]: the upper left of the four pixels of large under element `item` of small.
struct Square {
  int64_t upper, lower;
};
__device__ __forceinline__ Square square_of(int64_t item, int64_t width, int64_t channels) {
  const int64_t pixel = item / channels, channel = item - pixel * channels, row = pixel / width, column = pixel - row * width;
  const int64_t upper = (2 * row * 2 * width + 2 * column) * channels + channel;
  return {upper, upper + 2 * width * channels};
}

template <class X, class Y>
__global__ void upsample_kernel(const X* x, Y* y, int64_t items, int64_t width, int64_t channels, float factor) {
  for (int64_t item = first_index(); item < items; item += index_stride()) {
    const Square to = square_of(item, width, channels);
    const Y value = narrow<Y>(widen(x[item]) * factor);
    y[to.upper] = y[to.upper + channels] = y[to.lower] = y[to.lower + channels] = value;
  }
}

template <class X, class Y>
__global__ void sum_pool_kernel(const X* x, Y* y, int64_t items, int64_t width, int64_t channels, float factor) {
  for (int64_t item = first_index(); item < items; item += index_stride()) {
    const Square from = square_of(item, width, channels);
    const auto at = [x](int64_t i) { return widen(x[i]); };
    y[item] = narrow<Y>(((at(from.upper) + at(from.upper + channels)) + (at(from.lower) + at(from.lower + channels))) * factor);
  }
}

void resample(const Context& context, const TrefoilLaunch& args, bool up) {
  const TrefoilView& small = up ? args.inputs[0] : args.outputs[0];
  const int64_t items = elements(small);
  if (items == 0) return;
  with_floats(args.inputs[0], args.outputs[0], [&]<class X, class Y>(X* x, Y* y) {
    launch(context, {context.grid(items, 256), 256}, up ? upsample_kernel<X, Y> : sum_pool_kernel<X, Y>, x, y, items, small.shape[2], small.shape[3],
           static_cast<float>(args.attributes[0]));
  });
}

void upsample_nearest2(const Context& context, const TrefoilLaunch& args) { resample(context, args, true); }
void sum_pool2(const Context& context, const TrefoilLaunch& args) { resample(context, args, false); }

}  // namespace

extern const KernelEntry resample2_kernels[] = {{"upsample_nearest2", upsample_nearest2, nullptr}, {"sum_pool2", sum_pool2, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
