// vq_lookup against a search in double precision: the very same code, ties and near ties included.
#include "numeric.h"

using namespace trefoil::test;

namespace {

void check_nearest(Device& device, F32& x, F32& codebook) {
  const size_t rows = static_cast<size_t>(x.shape[0]), width = static_cast<size_t>(x.shape[1]), codes = static_cast<size_t>(codebook.shape[0]);
  I32 index({x.shape[0]}), again(index.shape);
  F32 distance({x.shape[0]});
  launch(device, "vq_lookup", {view(x), view(codebook)}, {view(index), view(distance)});
  launch(device, "vq_lookup", {view(x), view(codebook)}, {view(again), absent()});
  CHECK(index.values == again.values);
  Doubles expected(rows);
  for (size_t r = 0; r < rows; ++r) {
    size_t nearest = 0;
    for (size_t v = 0; v < codes; ++v) {
      double total = 0;
      for (size_t i = 0; i < width; ++i) total += (double(x[r * width + i]) - codebook[v * width + i]) * (double(x[r * width + i]) - codebook[v * width + i]);
      if (v == 0 || total < expected[r]) expected[r] = total, nearest = v;
    }
    CHECK(index[r] == static_cast<int32_t>(nearest));
  }
  check_close(distance, expected, 1e-7, 0, "vq distance");
}

}  // namespace

TEST(vq_lookup_matches_double) {
  std::mt19937 generator(1);
  struct Shape {
    int64_t rows, width, codes;
  };
  // 600 of width: more than one block of depth. 1500 codes: more than one strip of the search.
  for (auto [rows, width, codes] : {Shape{1, 1, 1}, Shape{5, 3, 7}, Shape{40, 8, 300}, Shape{130, 32, 1500}, Shape{9, 600, 50}, Shape{30, 200, 700}}) {
    F32 x = normal(generator, {rows, width}), codebook = normal(generator, {codes, width});
    check_nearest(device, x, codebook);
  }
}

TEST(vq_lookup_ties) {
  std::mt19937 generator(2);
  F32 x = normal(generator, {50, 16}), codebook = normal(generator, {400, 16});
  for (size_t i = 0; i < 200 * 16; ++i) codebook[200 * 16 + i] = codebook[i];  // every code twice: the first
  check_nearest(device, x, codebook);
  F32 zeros({400, 16});
  check_nearest(device, x, zeros);
  // Codes that differ less from each other than f32 scores can tell.
  F32 far = normal(generator, {50, 16}), close({400, 16});
  for (float& value : far.values) value += 1000.0f;
  for (size_t i = 0; i < close.size(); ++i) close[i] = 1000.0f + static_cast<float>(i * 2654435761u % 1024) / 512.0f;
  check_nearest(device, far, close);
}

TEST(vq_lookup_extremes) {
  std::mt19937 generator(3);
  F32 x = normal(generator, {3, 4}), codebook = normal(generator, {5, 4}), none({0, 4}), no_codes({0, 4}), distance({3});
  for (size_t i = 0; i < 4; ++i) x[i] = kNaN, x[4 + i] = 3e38f;
  I32 index({3}), empty({0});
  launch(device, "vq_lookup", {view(x), view(codebook)}, {view(index), view(distance)});
  CHECK(index[0] >= 0 && index[0] < 5 && std::isnan(distance[0]));
  CHECK(index[1] >= 0 && index[1] < 5);
  launch(device, "vq_lookup", {view(none), view(codebook)}, {view(empty), absent()});
  CHECK(launch_error(device, "vq_lookup", {view(x), view(no_codes)}, {view(index), absent()}).code == TREFOIL_INVALID_ARGUMENT);
}

TEST(vq_lookup_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    std::mt19937 generator(4);
    F32 x = normal(generator, {700, 24}), codebook = normal(generator, {900, 24}), distance({700}), as_float({700});
    I32 index({700});
    launch(other, "vq_lookup", {view(x), view(codebook)}, {view(index), view(distance)});
    for (size_t i = 0; i < 700; ++i) as_float[i] = static_cast<float>(index[i]);
    return std::vector<F32>{distance, as_float};
  });
}
