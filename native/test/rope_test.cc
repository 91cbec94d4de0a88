#include <cstring>

#include "numeric.h"

using namespace trefoil::test;

namespace {

struct Tables {
  F32 cosine, sine;
  Tables(int64_t positions, int64_t half) : cosine({positions, half}), sine({positions, half}) {
    for (int64_t p = 0; p < positions; ++p)
      for (int64_t i = 0; i < half; ++i) {
        double angle = static_cast<double>(p) * std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half));
        cosine[p * half + i] = static_cast<float>(std::cos(angle));
        sine[p * half + i] = static_cast<float>(std::sin(angle));
      }
  }
};

Doubles reference(const F32& x, const Tables& tables, const I32& positions, bool inverse, bool interleaved) {
  int64_t heads = x.shape[2], size = x.shape[3], half = size / 2;
  Doubles y(x.size());
  for (size_t vector = 0; vector < x.size() / static_cast<size_t>(size); ++vector)
    for (int64_t i = 0; i < half; ++i) {
      size_t u = vector * size + (interleaved ? 2 * i : i), v = interleaved ? u + 1 : u + half;
      size_t at = static_cast<size_t>(positions[vector / static_cast<size_t>(heads)]) * half + i;
      double c = tables.cosine[at], s = inverse ? -tables.sine[at] : tables.sine[at];
      y[u] = x[u] * c - x[v] * s;
      y[v] = x[v] * c + x[u] * s;
    }
  return y;
}

}  // namespace

TEST(rope_matches_double) {
  std::mt19937 generator(1);
  for (int64_t size : {2, 6, 32, 64, 80})
    for (bool inverse : {false, true})
      for (bool interleaved : {false, true}) {
        Tables tables(20, size / 2);
        F32 x = normal(generator, {2, 3, 4, size}), y(x.shape);
        I32 positions({2, 3}, {0, 1, 19, 7, 7, 2});
        launch(device, "rope", {view(x), view(tables.cosine), view(tables.sine), view(positions)}, {view(y)},
               {double(inverse), double(interleaved)});
        check_close(y, reference(x, tables, positions, inverse, interleaved), 2e-7, 0, "rope");
      }
}

TEST(rope_inverse_undoes) {
  std::mt19937 generator(2);
  Tables tables(5, 16);
  F32 x = normal(generator, {1, 5, 3, 32}), y(x.shape), back(x.shape);
  I32 positions({1, 5}, {4, 3, 2, 1, 0});
  for (double interleaved : {0.0, 1.0}) {
    launch(device, "rope", {view(x), view(tables.cosine), view(tables.sine), view(positions)}, {view(y)}, {0, interleaved});
    launch(device, "rope", {view(y), view(tables.cosine), view(tables.sine), view(positions)}, {view(back)}, {1, interleaved});
    check_close(back, doubles(x), 5e-7, 0, "rope and back");
  }
}

TEST(rope_rejects_positions) {
  Tables tables(4, 2);
  F32 x({1, 2, 1, 4}), y({1, 2, 1, 4});
  for (int32_t position : {-1, 4}) {
    I32 positions({1, 2}, {0, position});
    TrefoilStatus status = launch_error(device, "rope", {view(x), view(tables.cosine), view(tables.sine), view(positions)}, {view(y)}, {0, 0});
    CHECK(status.code == TREFOIL_INDEX_OUT_OF_RANGE);
    CHECK(std::strstr(status.message, "[0, 1]") && std::strstr(status.message, "[0, 4)"));
  }
}

TEST(rope_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    std::mt19937 generator(3);
    Tables tables(100, 32);
    F32 x = normal(generator, {3, 100, 5, 64}), y(x.shape);
    I32 positions({3, 100});
    for (int i = 0; i < 300; ++i) positions[i] = i % 100;
    launch(other, "rope", {view(x), view(tables.cosine), view(tables.sine), view(positions)}, {view(y)}, {0, 0});
    return std::vector<F32>{y};
  });
}
