// Gathers and scatters against plain loops; bad indices; independence of the number of threads.
#include "harness.h"

using namespace trefoil::test;

namespace {

I32 random_indices(std::mt19937& generator, std::vector<int64_t> shape, int bound) {
  I32 result(std::move(shape));
  for (int32_t& value : result.values) value = static_cast<int32_t>(generator() % static_cast<unsigned>(bound + 1)) - 1;  // -1 included
  return result;
}

bool contains(const TrefoilStatus& status, const char* part) { return std::string(status.message).find(part) != std::string::npos; }

}  // namespace

TEST(gather_and_scatter_rows) {
  std::mt19937 generator(1);
  for (int64_t width : {1, 3, 64, 333}) {
    F32 table = normal(generator, {50, width}), y({7, 11, width}), total({50, width});
    I32 index = random_indices(generator, {7, 11}, 50);
    launch(device, "gather_rows", {view(table), view(index)}, {view(y)});
    std::vector<double> sums(total.size(), 0.0);
    for (size_t i = 0; i < index.size(); ++i)
      for (size_t d = 0; d < static_cast<size_t>(width); ++d) {
        size_t w = static_cast<size_t>(width), row = static_cast<size_t>(index[i]);
        CHECK(y[i * w + d] == (index[i] < 0 ? 0.0f : table[row * w + d]));
        if (index[i] >= 0) sums[row * w + d] += y[i * w + d];
      }
    F32 rows({77, width}, y.values);
    I32 flat({77}, index.values);
    total.values.assign(total.size(), 5.0f);
    launch(device, "scatter_add_rows", {view(rows), view(flat)}, {view(total)});
    check_close(total, sums, 1e-6, 0, "scatter_add_rows");
  }
  BF16 table({2, 2}, {0x3f80, 0x4000, 0x4040, 0x4080});
  I32 index({3}, {1, -1, 0});
  F32 y({3, 2});
  launch(device, "gather_rows", {view(table), view(index)}, {view(y)});
  CHECK(y.values == std::vector<float>({3, 4, 0, 0, 1, 2}));
}

// f32 addition is not associative: the sum over N must run in order.
TEST(scatter_adds_in_order) {
  F32 rows({4, 1}, {1e8f, 1.0f, -1e8f, 1.0f}), total({1, 1});
  I32 index({4}, {0, 0, 0, 0});
  launch(device, "scatter_add_rows", {view(rows), view(index)}, {view(total)});
  CHECK(total[0] == 1.0f);  // 1e8 + 1 rounds to 1e8
}

// Many sources of one row, few of others, and rows without any, at widths that end in every kind of vector.
TEST(scatter_piles_up_on_rows) {
  std::mt19937 generator(11);
  for (int64_t width : {1, 20, 64, 87, 256})
    for (int64_t count : {40, 700}) {
      F32 rows = normal(generator, {count, width}), total({7, width});
      I32 index({count});
      for (int64_t i = 0; i < count; ++i) index[i] = i % 5 == 0 ? static_cast<int32_t>(i % 7) - 1 : 3;
      std::vector<double> sums(total.size(), 0.0);
      for (int64_t i = 0; i < count * width; ++i)
        if (index[i / width] >= 0) sums[index[i / width] * width + i % width] += rows[i];
      launch(device, "scatter_add_rows", {view(rows), view(index)}, {view(total)});
      check_close(total, sums, 1e-5, 1e-4, "scatter_add_rows");
    }
}

TEST(gather_and_scatter_last) {
  std::mt19937 generator(2);
  F32 x = normal(generator, {3, 5, 17}), y({3, 5, 4}), back({3, 5, 17});
  I32 index = random_indices(generator, {3, 5, 4}, 17);
  index[0] = index[1] = 2;
  launch(device, "gather_last", {view(x), view(index)}, {view(y)});
  std::vector<double> sums(back.size(), 0.0);
  for (size_t i = 0; i < y.size(); ++i) {
    size_t at = i / 4 * 17 + static_cast<size_t>(std::max(index[i], 0));
    CHECK(y[i] == (index[i] < 0 ? 0.0f : x[at]));
    if (index[i] >= 0) sums[at] += y[i];
  }
  launch(device, "scatter_last", {view(y), view(index)}, {view(back)});
  check_close(back, sums, 1e-6, 0, "scatter_last");
  // Rows of one: x [V], index [K]
  F32 line({5}, {0, 10, 20, 30, 40}), picked({2});
  I32 two({2}, {4, 1});
  launch(device, "gather_last", {view(line), view(two)}, {view(picked)});
  CHECK(picked[0] == 40 && picked[1] == 10);
}

TEST(iota_counts) {
  I32 whole({3, 1001});
  F32 real({5});
  launch(device, "iota", {}, {view(whole)});
  launch(device, "iota", {}, {view(real)});
  for (size_t i = 0; i < whole.size(); ++i) CHECK(whole[i] == static_cast<int32_t>(i));
  CHECK(real[4] == 4.0f);
}

TEST(indices_out_of_range) {
  F32 table({10, 2}), rows({3, 2}), x({3, 10}), picked({3, 1});
  I32 index({3}, {9, -1, 10});
  TrefoilStatus status = launch_error(device, "gather_rows", {view(table), view(index)}, {view(rows)});
  CHECK(status.code == TREFOIL_INDEX_OUT_OF_RANGE);
  CHECK(contains(status, "gather_rows") && contains(status, "index 10") && contains(status, "position 2") && contains(status, "[0, 10)"));
  CHECK(launch_error(device, "scatter_add_rows", {view(rows), view(index)}, {view(table)}).code == TREFOIL_INDEX_OUT_OF_RANGE);
  index[2] = -2;
  CHECK(launch_error(device, "gather_last", {view(x), view(index)}, {view(picked)}).code == TREFOIL_INDEX_OUT_OF_RANGE);
  status = launch_error(device, "scatter_last", {view(picked), view(index)}, {view(x)});
  CHECK(status.code == TREFOIL_INDEX_OUT_OF_RANGE && contains(status, "index -2"));
}

TEST(indexing_empty) {
  F32 table({10, 2}), rows({0, 2}), empty_table({0, 2}), total({10, 2}), x({0, 4}), picked({0, 2}), unpicked({3, 0}), wide({3, 4});
  I32 none({0}), no_pairs({0, 2}), no_columns({3, 0}), skipped({3}, {-1, -1, -1}), empty({0});
  total.values.assign(20, 1.0f);
  launch(device, "gather_rows", {view(table), view(none)}, {view(rows)});
  launch(device, "scatter_add_rows", {view(rows), view(none)}, {view(total)});
  CHECK(total.values == std::vector<float>(20, 0.0f));
  launch(device, "gather_last", {view(x), view(no_pairs)}, {view(picked)});
  launch(device, "scatter_last", {view(picked), view(no_pairs)}, {view(x)});
  wide.values.assign(12, 1.0f);
  launch(device, "scatter_last", {view(unpicked), view(no_columns)}, {view(wide)});
  CHECK(wide.values == std::vector<float>(12, 0.0f));
  F32 zeros({3, 2});
  zeros.values.assign(6, 1.0f);
  launch(device, "gather_rows", {view(empty_table), view(skipped)}, {view(zeros)});
  CHECK(zeros.values == std::vector<float>(6, 0.0f));
  launch(device, "iota", {}, {view(empty)});
}

TEST(indexing_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    std::mt19937 generator(3);
    F32 rows = normal(generator, {5000, 96}), total({300, 96}), y({5000, 96});
    I32 index = random_indices(generator, {5000}, 300);
    launch(other, "scatter_add_rows", {view(rows), view(index)}, {view(total)});
    launch(other, "gather_rows", {view(total), view(index)}, {view(y)});
    return std::vector<F32>{total, y};
  });
}
