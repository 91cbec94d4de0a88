#include "numeric.h"

using namespace trefoil::test;

TEST(resample2_matches_definition) {
  std::mt19937 generator(1);
  for (int64_t channels : {1, 3, 16, 35}) {
    const int64_t images = 2, height = 3, width = 5;
    F32 small = normal(generator, {images, height, width, channels}), large = normal(generator, {images, 2 * height, 2 * width, channels});
    F32 up(large.shape), down(small.shape);
    launch(device, "upsample_nearest2", {view(small)}, {view(up)}, {0.25});
    launch(device, "sum_pool2", {view(large)}, {view(down)}, {0.25});
    Doubles expected_up(up.size()), expected_down(down.size());
    size_t at = 0;
    for (int64_t n = 0; n < images; ++n)
      for (int64_t y = 0; y < 2 * height; ++y)
        for (int64_t x = 0; x < 2 * width; ++x)
          for (int64_t c = 0; c < channels; ++c, ++at) {
            size_t from = static_cast<size_t>(((n * height + y / 2) * width + x / 2) * channels + c);
            expected_up[at] = 0.25 * small[from];
            expected_down[from] += 0.25 * large[at];
          }
    check_close(up, expected_up, 0, 0, "upsample_nearest2");
    check_close(down, expected_down, 3e-7, 0, "sum_pool2");
  }
}

TEST(resample2_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    std::mt19937 generator(2);
    F32 small = normal(generator, {3, 40, 30, 20}), large({3, 80, 60, 20}), back(small.shape);
    launch(other, "upsample_nearest2", {view(small)}, {view(large)}, {1});
    launch(other, "sum_pool2", {view(large)}, {view(back)}, {0.25});
    CHECK(back.values == small.values);  // sums of four equal numbers are exact
    return std::vector<F32>{large, back};
  });
}
