// Twice the resolution by repetition, half of it by averaging; each is the other's gradient up to a factor.
#include "partial.h"
#include "work_split.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

// small [N, H, W, C], large [N, 2H, 2W, C]: body(from or to small, the four pixels of large, C) for every pixel of small.
template <class Body>
void for_each_square(Context& context, const TrefoilView& small, const Body& body) {
  const int64_t width = small.shape[2], channels = small.shape[3], rows = small.shape[0] * small.shape[1];
  parallel_ranges(context, rows, rows_per_task(4 * width * channels), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t column = 0; column < width; ++column) {
        const int64_t upper = (2 * row * 2 * width + 2 * column) * channels;
        body((row * width + column) * channels, upper, upper + 2 * width * channels, channels);
      }
  });
}

void upsample_nearest2(Context& context, const TrefoilLaunch& launch) {
  const float* x = data<float>(launch.inputs[0]);
  float* y = data<float>(launch.outputs[0]);
  const Vec scale = splat(static_cast<float>(launch.attributes[0]));
  for_each_square(context, launch.inputs[0], [&](int64_t from, int64_t upper, int64_t lower, int64_t channels) {
    for (int64_t c = 0; c < channels; c += Vec::width) {
      const int lanes = lanes_left(channels, c);
      const Vec value = load_part(x + from + c, lanes) * scale;
      store_part(y + upper + c, value, lanes);
      store_part(y + upper + channels + c, value, lanes);
      store_part(y + lower + c, value, lanes);
      store_part(y + lower + channels + c, value, lanes);
    }
  });
}

void sum_pool2(Context& context, const TrefoilLaunch& launch) {
  const float* x = data<float>(launch.inputs[0]);
  float* y = data<float>(launch.outputs[0]);
  const Vec scale = splat(static_cast<float>(launch.attributes[0]));
  for_each_square(context, launch.outputs[0], [&](int64_t to, int64_t upper, int64_t lower, int64_t channels) {
    for (int64_t c = 0; c < channels; c += Vec::width) {
      const int lanes = lanes_left(channels, c);
      const Vec above = load_part(x + upper + c, lanes) + load_part(x + upper + channels + c, lanes);
      const Vec below = load_part(x + lower + c, lanes) + load_part(x + lower + channels + c, lanes);
      store_part(y + to + c, (above + below) * scale, lanes);
    }
  });
}

}  // namespace

extern const KernelEntry resample2_kernels[];
const KernelEntry resample2_kernels[] = {{"upsample_nearest2", upsample_nearest2, nullptr}, {"sum_pool2", sum_pool2, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
