// Convolution against its definition in double precision; the gradients against the definition's derivatives written out.
#include "numeric.h"

using namespace trefoil::test;

namespace {

struct Shape {
  int64_t images, height, width, channels, out_channels, kernel_rows, kernel_columns, stride, before, after;
  int64_t out_rows() const { return (height + before + after - kernel_rows) / stride + 1; }
  int64_t out_columns() const { return (width + before + after - kernel_columns) / stride + 1; }
};

// use(x, w, y) for the flat positions of every product x w that is part of some y.
template <class Use>
void for_each_product(const Shape& s, const Use& use) {
  for (int64_t n = 0; n < s.images; ++n)
    for (int64_t u = 0; u < s.out_rows(); ++u)
      for (int64_t v = 0; v < s.out_columns(); ++v)
        for (int64_t o = 0; o < s.out_channels; ++o)
          for (int64_t i = 0; i < s.kernel_rows; ++i)
            for (int64_t j = 0; j < s.kernel_columns; ++j) {
              int64_t row = u * s.stride - s.before + i, column = v * s.stride - s.before + j;
              if (row < 0 || row >= s.height || column < 0 || column >= s.width) continue;
              for (int64_t c = 0; c < s.channels; ++c)
                use(static_cast<size_t>(((n * s.height + row) * s.width + column) * s.channels + c),
                    static_cast<size_t>(((o * s.kernel_rows + i) * s.kernel_columns + j) * s.channels + c),
                    static_cast<size_t>(((n * s.out_rows() + u) * s.out_columns() + v) * s.out_channels + o));
            }
}

constexpr Shape kShapes[] = {
    {1, 1, 1, 1, 1, 1, 1, 1, 0, 0},   {2, 5, 7, 3, 4, 3, 3, 1, 1, 1},    {2, 6, 5, 17, 33, 3, 3, 1, 1, 1},
    {1, 8, 8, 5, 6, 3, 3, 2, 1, 1},   {2, 8, 6, 4, 19, 3, 3, 2, 0, 1},   {1, 9, 7, 3, 2, 4, 4, 2, 1, 1},
    {3, 4, 4, 40, 20, 1, 1, 1, 0, 0}, {1, 7, 8, 3, 5, 1, 1, 2, 0, 0},    {1, 10, 9, 2, 3, 5, 3, 3, 2, 2},
    {1, 6, 6, 70, 9, 3, 3, 1, 1, 1},  // k = 630: more than one block of depth
    {1, 3, 3, 2, 3, 3, 3, 1, 3, 3},   // more padding than kernel: windows wholly outside
    {2, 20, 19, 6, 40, 3, 3, 1, 1, 1},  // more rows than a tile, more than one block of positions
    // Few outputs, and few inputs: windows in groups and alone, inside and at the edges, more columns than one sum takes.
    {2, 9, 21, 10, 3, 3, 3, 1, 1, 1}, {1, 12, 30, 3, 24, 3, 3, 1, 1, 1}, {1, 11, 26, 7, 5, 3, 3, 2, 0, 1},
    {1, 9, 17, 6, 21, 5, 3, 1, 2, 1}, {1, 10, 14, 2, 2, 4, 4, 1, 1, 2},
    // By minimal filtering: odd sizes, channels that fill no vector, padding of every kind, one block of tiles and several.
    {2, 5, 7, 17, 35, 3, 3, 1, 1, 1}, {1, 8, 6, 16, 16, 3, 3, 1, 0, 0},  {1, 7, 8, 33, 20, 3, 3, 1, 0, 1},
    {1, 4, 4, 20, 16, 3, 3, 1, 3, 3}, {3, 18, 15, 40, 66, 3, 3, 1, 2, 1}
};

}  // namespace

TEST(conv2d_matches_double) {
  std::mt19937 generator(1);
  for (const Shape& s : kShapes) {
    F32 x = normal(generator, {s.images, s.height, s.width, s.channels}), bias = normal(generator, {s.out_channels});
    F32 w = normal(generator, {s.out_channels, s.kernel_rows, s.kernel_columns, s.channels});
    F32 y({s.images, s.out_rows(), s.out_columns(), s.out_channels}), dy = normal(generator, y.shape), dx(x.shape), dw(w.shape);
    Doubles expected(y.size()), expected_dx(x.size()), expected_dw(w.size());
    for_each_product(s, [&](size_t at_x, size_t at_w, size_t at_y) {
      expected[at_y] += double(x[at_x]) * w[at_w];
      expected_dx[at_x] += double(dy[at_y]) * w[at_w];
      expected_dw[at_w] += double(dy[at_y]) * x[at_x];
    });
    const std::vector<double> attributes{double(s.stride), double(s.before)};
    launch(device, "conv2d", {view(x), view(w), absent()}, {view(y)}, attributes);
    check_close(y, expected, 1e-6, 1e-6, "conv2d");
    launch(device, "conv2d_input_grad", {view(dy), view(w)}, {view(dx)}, attributes);
    check_close(dx, expected_dx, 1e-6, 1e-6, "conv2d dx");
    launch(device, "conv2d_weight_grad", {view(dy), view(x)}, {view(dw)}, attributes);
    check_close(dw, expected_dw, 1e-6, 1e-6, "conv2d dw");
    for (size_t i = 0; i < y.size(); ++i) expected[i] += bias[i % static_cast<size_t>(s.out_channels)];
    launch(device, "conv2d", {view(x), view(w), view(bias)}, {view(y)}, attributes);
    check_close(y, expected, 1e-6, 1e-6, "conv2d with bias");
  }
}

// 66 tiles of 128 x 128 at least, enough for the large tile of GPUs: positions by output channels, positions by channels, output channels by taps.
TEST(conv2d_large_tiles) {
  std::mt19937 generator(5);
  const std::vector<double> padding_0{1, 0}, padding_1{1, 1};
  {
    const Shape s{1, 60, 69, 3, 129, 2, 2, 1, 0, 1};
    F32 x = normal(generator, {1, 60, 69, 3}), w = normal(generator, {129, 2, 2, 3}), y({1, 60, 69, 129});
    Doubles expected(y.size());
    for_each_product(s, [&](size_t at_x, size_t at_w, size_t at_y) { expected[at_y] += double(x[at_x]) * w[at_w]; });
    launch(device, "conv2d", {view(x), view(w), absent()}, {view(y)}, padding_0);
    check_close(y, expected, 1e-6, 1e-6, "conv2d");
  }
  {
    const Shape s{1, 60, 69, 129, 3, 2, 2, 1, 0, 1};
    F32 dy = normal(generator, {1, 60, 69, 3}), w = normal(generator, {3, 2, 2, 129}), dx({1, 60, 69, 129});
    Doubles expected(dx.size());
    for_each_product(s, [&](size_t at_x, size_t at_w, size_t at_y) { expected[at_x] += double(dy[at_y]) * w[at_w]; });
    launch(device, "conv2d_input_grad", {view(dy), view(w)}, {view(dx)}, padding_0);
    check_close(dx, expected, 1e-6, 1e-6, "conv2d dx");
  }
  {
    const Shape s{1, 3, 4, 472, 129, 3, 3, 1, 1, 1};
    F32 x = normal(generator, {1, 3, 4, 472}), dy = normal(generator, {1, 3, 4, 129}), dw({129, 3, 3, 472});
    Doubles expected(dw.size());
    for_each_product(s, [&](size_t at_x, size_t at_w, size_t at_y) { expected[at_w] += double(dy[at_y]) * x[at_x]; });
    launch(device, "conv2d_weight_grad", {view(dy), view(x)}, {view(dw)}, padding_1);
    check_close(dw, expected, 1e-6, 1e-6, "conv2d dw");
  }
}

// Minimal filtering adds and subtracts before and after it multiplies: its errors are at most twice those of plain sums in f32.
TEST(conv2d_error_beside_plain_sums) {
  std::mt19937 generator(4);
  const Shape s{2, 20, 22, 32, 48, 3, 3, 1, 1, 1};
  // Positive pictures with a bright part: sums of one sign, and neighbours of different size.
  F32 x = normal(generator, {s.images, s.height, s.width, s.channels});
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::fabs(x[i]) * (i % 5000 < 500 ? 30.0f : 1.0f);
  F32 w = normal(generator, {s.out_channels, 3, 3, s.channels}), y({s.images, s.out_rows(), s.out_columns(), s.out_channels});
  F32 dy = normal(generator, y.shape), dx(x.shape), dw(w.shape), plain_y(y.shape), plain_dx(x.shape), plain_dw(w.shape);
  Doubles expected_y(y.size()), expected_dx(x.size()), expected_dw(w.size());
  for_each_product(s, [&](size_t at_x, size_t at_w, size_t at_y) {
    expected_y[at_y] += double(x[at_x]) * w[at_w], plain_y[at_y] += x[at_x] * w[at_w];
    expected_dx[at_x] += double(dy[at_y]) * w[at_w], plain_dx[at_x] += dy[at_y] * w[at_w];
    expected_dw[at_w] += double(dy[at_y]) * x[at_x], plain_dw[at_w] += dy[at_y] * x[at_x];
  });
  launch(device, "conv2d", {view(x), view(w), absent()}, {view(y)}, {1, 1});
  launch(device, "conv2d_input_grad", {view(dy), view(w)}, {view(dx)}, {1, 1});
  launch(device, "conv2d_weight_grad", {view(dy), view(x)}, {view(dw)}, {1, 1});
  auto check = [](const F32& actual, const F32& plain, const Doubles& expected) {
    double squares = 0, plain_squares = 0, largest = 0, plain_largest = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double error = std::fabs(actual[i] - expected[i]), other = std::fabs(plain[i] - expected[i]);
      squares += error * error, plain_squares += other * other;
      largest = std::max(largest, error), plain_largest = std::max(plain_largest, other);
    }
    CHECK(std::sqrt(squares) <= 2 * std::sqrt(plain_squares));
    CHECK(largest <= 2 * plain_largest);
  };
  check(y, plain_y, expected_y);
  check(dx, plain_dx, expected_dx);
  check(dw, plain_dw, expected_dw);
}

// dx and dw are the adjoints of y: <dy, conv(x, w)> = <dx, x> = <dw, w>, at sizes that fill tiles, strips and parts.
TEST(conv2d_adjoint_at_size) {
  std::mt19937 generator(2);
  for (const Shape& s : {Shape{2, 32, 32, 64, 128, 3, 3, 1, 1, 1}, Shape{2, 32, 32, 96, 64, 3, 3, 2, 0, 1}}) {
    F32 x = normal(generator, {s.images, s.height, s.width, s.channels});
    F32 w = normal(generator, {s.out_channels, s.kernel_rows, s.kernel_columns, s.channels}, 0.05f);
    F32 y({s.images, s.out_rows(), s.out_columns(), s.out_channels}), dy = normal(generator, y.shape), dx(x.shape), dw(w.shape);
    const std::vector<double> attributes{double(s.stride), double(s.before)};
    launch(device, "conv2d", {view(x), view(w), absent()}, {view(y)}, attributes);
    launch(device, "conv2d_input_grad", {view(dy), view(w)}, {view(dx)}, attributes);
    launch(device, "conv2d_weight_grad", {view(dy), view(x)}, {view(dw)}, attributes);
    double of_y = 0, of_x = 0, of_w = 0, size = 0;
    for (size_t i = 0; i < y.size(); ++i) of_y += double(y[i]) * dy[i], size += std::fabs(double(y[i]) * dy[i]);
    for (size_t i = 0; i < x.size(); ++i) of_x += double(dx[i]) * x[i];
    for (size_t i = 0; i < w.size(); ++i) of_w += double(dw[i]) * w[i];
    CHECK(std::fabs(of_x - of_y) < 1e-7 * size);
    CHECK(std::fabs(of_w - of_y) < 1e-7 * size);
  }
}

TEST(conv2d_of_nothing) {
  F32 x({0, 4, 4, 3}), w({2, 3, 3, 3}), y({0, 4, 4, 2}), dw({2, 3, 3, 3}, std::vector<float>(54, 1.0f));
  launch(device, "conv2d", {view(x), view(w), absent()}, {view(y)}, {1, 1});
  launch(device, "conv2d_input_grad", {view(y), view(w)}, {view(x)}, {1, 1});
  launch(device, "conv2d_weight_grad", {view(y), view(x)}, {view(dw)}, {1, 1});
  for (float value : dw.values) CHECK(value == 0);
}

TEST(conv2d_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    std::mt19937 generator(3);
    std::vector<F32> results;
    for (double stride : {1.0, 2.0}) {
      int64_t out = stride == 1 ? 24 : 12;
      F32 x = normal(generator, {3, 24, 24, 20}), w = normal(generator, {40, 3, 3, 20}), bias = normal(generator, {40});
      F32 y({3, out, out, 40}), dy = normal(generator, y.shape), dx(x.shape), dw(w.shape);
      launch(other, "conv2d", {view(x), view(w), view(bias)}, {view(y)}, {stride, 1});
      launch(other, "conv2d_input_grad", {view(dy), view(w)}, {view(dx)}, {stride, 1});
      launch(other, "conv2d_weight_grad", {view(dy), view(x)}, {view(dw)}, {stride, 1});
      for (F32* result : {&y, &dx, &dw}) results.push_back(*result);
    }
    return results;
  });
}
