// Twice the resolution by repetition, half of it by summing; each is the other's gradient.
#include "kernel.h"

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

__global__ void upsample_kernel(const float* x, float* y, int64_t items, int64_t width, int64_t channels, float factor) {
  for (int64_t item = first_index(); item < items; item += index_stride()) {
    const Square to = square_of(item, width, channels);
    const float value = x[item] * factor;
    y[to.upper] = y[to.upper + channels] = y[to.lower] = y[to.lower + channels] = value;
  }
}

__global__ void sum_pool_kernel(const float* x, float* y, int64_t items, int64_t width, int64_t channels, float factor) {
  for (int64_t item = first_index(); item < items; item += index_stride()) {
    const Square from = square_of(item, width, channels);
    y[item] = ((x[from.upper] + x[from.upper + channels]) + (x[from.lower] + x[from.lower + channels])) * factor;
  }
}

template <class Kernel>
void resample(const Context& context, const TrefoilLaunch& args, const TrefoilView& small, Kernel kernel) {
  const int64_t items = elements(small);
  if (items == 0) return;
  launch(context, {context.grid(items, 256), 256}, kernel, data<float>(args.inputs[0]), data<float>(args.outputs[0]), items, small.shape[2],
         small.shape[3], static_cast<float>(args.attributes[0]));
}

void upsample_nearest2(const Context& context, const TrefoilLaunch& args) { resample(context, args, args.inputs[0], upsample_kernel); }
void sum_pool2(const Context& context, const TrefoilLaunch& args) { resample(context, args, args.outputs[0], sum_pool_kernel); }

}  // namespace

extern const KernelEntry resample2_kernels[] = {{"upsample_nearest2", upsample_nearest2, nullptr}, {"sum_pool2", sum_pool2, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
