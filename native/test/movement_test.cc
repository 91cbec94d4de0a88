// Movement ops against index arithmetic, at every permutation and axis of small tensors.
#include "harness.h"

using namespace trefoil::test;

namespace {

template <class T>
Array<T> counting(std::vector<int64_t> shape) {
  Array<T> result(std::move(shape));
  for (size_t i = 0; i < result.size(); ++i) result[i] = static_cast<T>(i);
  return result;
}

template <class T>
void check_transpose(Device& device, const std::vector<int64_t>& shape, const std::vector<int>& permutation) {
  Array<T> x = counting<T>(shape);
  std::vector<int64_t> to_shape;
  for (int from : permutation) to_shape.push_back(shape[static_cast<size_t>(from)]);
  Array<T> y(to_shape);
  launch(device, "transpose", {view(x)}, {view(y)}, std::vector<double>(permutation.begin(), permutation.end()));
  std::vector<int64_t> stride(shape.size(), 1);
  for (size_t d = shape.size(); d-- > 1;) stride[d - 1] = stride[d] * shape[d];
  for (size_t i = 0; i < y.size(); ++i) {
    int64_t rest = static_cast<int64_t>(i), from = 0;
    for (size_t d = to_shape.size(); d-- > 0; rest /= to_shape[d]) from += rest % to_shape[d] * stride[static_cast<size_t>(permutation[d])];
    CHECK(y[i] == x[static_cast<size_t>(from)]);
  }
}

}  // namespace

TEST(transpose_every_permutation) {
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{3, 5, 2, 4}, {33, 1, 37, 2}, {2, 3, 40, 36}}) {
    std::vector<int> permutation = {0, 1, 2, 3};
    do {
      check_transpose<float>(device, shape, permutation);
      check_transpose<uint16_t>(device, shape, permutation);
    } while (std::next_permutation(permutation.begin(), permutation.end()));
  }
  check_transpose<int32_t>(device, {130, 257}, {1, 0});
  check_transpose<float>(device, {2, 3, 2, 5, 2, 3}, {5, 3, 1, 0, 2, 4});
  check_transpose<float>(device, {1, 1}, {1, 0});
  check_transpose<float>(device, {}, {});
  check_transpose<float>(device, {0, 7}, {1, 0});
  F32 x({2, 3}), y({3, 2});
  CHECK(launch_error(device, "transpose", {view(x)}, {view(y)}, {1, 1}).code == TREFOIL_INVALID_ARGUMENT);
  CHECK(launch_error(device, "transpose", {view(x)}, {view(y)}, {0, 1}).code == TREFOIL_INVALID_ARGUMENT);
  I32 other({3, 2});
  U8 bytes({2, 3}), bytes_to({3, 2});
  CHECK(launch_error(device, "transpose", {view(x)}, {view(other)}, {1, 0}).code == TREFOIL_INVALID_ARGUMENT);
  CHECK(launch_error(device, "transpose", {view(bytes)}, {view(bytes_to)}, {1, 0}).code == TREFOIL_INVALID_ARGUMENT);
}

// Large results whose rows are whole lines are written past the caches.
TEST(transpose_past_the_caches) {
  if (!(device.backend->flags & TREFOIL_BACKEND_HOST_MEMORY)) return;
  constexpr int64_t rows = 2064, columns = 2056;
  F32 x = counting<float>({rows, columns}), storage({rows * columns + 16});
  TrefoilView y = aligned_view(storage, {columns, rows});
  launch(device, "transpose", {view(x)}, {y}, {1, 0});
  for (size_t i = 0; i < x.size(); ++i) CHECK(static_cast<float*>(y.data)[i] == x[i % rows * columns + i / rows]);
}

TEST(copy_and_convert) {
  for (int64_t n : {0, 1, 1025, 1028, 1030, 100000}) {
    F32 x({n}), y({n, 1}), back({n});
    I32 whole({n}), whole_back({n});
    BF16 half({n}), half_from_whole({n});
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 251) - 100.75f;
    launch(device, "copy", {view(x)}, {view(y)});
    CHECK(x.values == y.values);
    launch(device, "copy", {view(x)}, {view(whole)});
    launch(device, "copy", {view(whole)}, {view(half_from_whole)});
    launch(device, "copy", {view(half_from_whole)}, {view(whole_back)});
    launch(device, "copy", {view(x)}, {view(half)});
    launch(device, "copy", {view(half)}, {view(back)});
    for (size_t i = 0; i < x.size(); ++i) {
      CHECK(whole[i] == static_cast<int32_t>(x[i]));
      CHECK(whole_back[i] == whole[i]);  // below 256: exact in bf16
      CHECK(std::fabs(back[i] - x[i]) <= std::fabs(x[i]) / 256);
    }
  }
  // Ties go to even: 1 + 2^-8 is halfway between 1 and 1 + 2^-7, 1 + 3 * 2^-8 between 1 + 2^-7 and 1 + 2^-6.
  F32 ties({3}, {1.00390625f, 1.01171875f, 3.4e38f});
  BF16 rounded({3});
  launch(device, "copy", {view(ties)}, {view(rounded)});
  CHECK(rounded[0] == 0x3f80 && rounded[1] == 0x3f82 && rounded[2] == 0x7f80);
}

namespace {

template <class T>
void check_concat_slice_pad(Device& device) {
  for (int axis = 0; axis < 3; ++axis)
    for (int64_t before : {0, 1, 3}) {
      std::vector<int64_t> shape = {4, 5, 6}, part_shape = shape, first_shape = shape, last_shape = shape;
      size_t a = static_cast<size_t>(axis);
      part_shape[a] = 1;
      first_shape[a] = before;
      last_shape[a] = shape[a] - before - 1;
      Array<T> x = counting<T>(shape), part(part_shape), first(first_shape), last(last_shape), joined(shape), padded(shape);
      launch(device, "slice", {view(x)}, {view(first)}, {double(axis), 0});
      launch(device, "slice", {view(x)}, {view(part)}, {double(axis), double(before)});
      launch(device, "slice", {view(x)}, {view(last)}, {double(axis), double(before + 1)});
      launch(device, "concat", {view(first), view(part), view(last)}, {view(joined)}, {double(axis)});
      CHECK(joined.values == x.values);
      padded.values.assign(padded.size(), T{255});
      launch(device, "pad", {view(part)}, {view(padded)}, {double(axis), double(before)});
      int64_t inner = axis == 0 ? 30 : axis == 1 ? 6 : 1;
      for (size_t i = 0; i < x.size(); ++i) {
        bool inside = static_cast<int64_t>(i) / inner % shape[a] == before;
        CHECK(padded[i] == (inside ? x[i] : T{}));
      }
      if (before == 3) continue;
      CHECK(part[0] == x[static_cast<size_t>(before * inner)]);
    }
}

}  // namespace

TEST(concat_slice_pad) {
  check_concat_slice_pad<float>(device);
  check_concat_slice_pad<uint16_t>(device);
  check_concat_slice_pad<uint8_t>(device);
  BF16 left({2, 1}, {1, 2}), right({2, 2}, {3, 4, 5, 6}), joined({2, 3});
  launch(device, "concat", {view(left), view(right)}, {view(joined)}, {1});
  CHECK(joined.values == std::vector<uint16_t>({1, 3, 4, 2, 5, 6}));
  F32 x({3}), y({2});
  CHECK(launch_error(device, "slice", {view(x)}, {view(y)}, {0, 2}).code == TREFOIL_INVALID_ARGUMENT);
  CHECK(launch_error(device, "pad", {view(y)}, {view(x)}, {0, -1}).code == TREFOIL_INVALID_ARGUMENT);
  CHECK(launch_error(device, "concat", {view(x), view(x)}, {view(y)}, {0}).code == TREFOIL_INVALID_ARGUMENT);
}

TEST(update_rows_in_place) {
  F32 cache({2, 4, 3}), rows = counting<float>({2, 2, 3});
  I32 position({2}, {2, 0});
  launch(device, "update_rows_", {view(cache), view(rows), view(position)}, {view(cache)});
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t p = 0; p < 4; ++p)
      for (int64_t d = 0; d < 3; ++d) {
        int64_t s = p - position[static_cast<size_t>(b)];
        float expected = s >= 0 && s < 2 ? rows[static_cast<size_t>((b * 2 + s) * 3 + d)] : 0.0f;
        CHECK(cache[static_cast<size_t>((b * 4 + p) * 3 + d)] == expected);
      }
  BF16 half({2, 4, 3});
  launch(device, "update_rows_", {view(half), view(rows), view(position)}, {absent()});
  CHECK(half[2 * 3 + 1] == 0x3f80);  // rows[0, 0, 1] = 1
  position[1] = 3;
  TrefoilStatus status = launch_error(device, "update_rows_", {view(cache), view(rows), view(position)}, {view(cache)});
  CHECK(status.code == TREFOIL_INDEX_OUT_OF_RANGE);
  CHECK(std::string(status.message).find("position 3") != std::string::npos);
  position[1] = -1;
  CHECK(launch_error(device, "update_rows_", {view(cache), view(rows), view(position)}, {view(cache)}).code == TREFOIL_INDEX_OUT_OF_RANGE);
  // The last of many positions is bad: nothing is written, in whatever order blocks run.
  F32 wide({300, 3, 4}), many = counting<float>({300, 1, 4});
  I32 places({300});
  for (const auto& [at, bad] : {std::pair{299, 3}, {0, 3}, {150, -1}}) {
    places[at] = bad;
    CHECK(launch_error(device, "update_rows_", {view(wide), view(many), view(places)}, {view(wide)}).code == TREFOIL_INDEX_OUT_OF_RANGE);
    places[at] = 0;
    CHECK(std::all_of(wide.values.begin(), wide.values.end(), [](float x) { return x == 0; }));
  }
  launch(device, "update_rows_", {view(wide), view(many), view(places)}, {view(wide)});
  for (int64_t b = 0; b < 300; ++b) CHECK(wide[b * 12 + 3] == many[b * 4 + 3]);
  F32 no_rows({2, 0, 3});
  launch(device, "update_rows_", {view(cache), view(no_rows), view(position)}, {view(cache)});
}
