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

namespace {

// Queries, keys and values of a few tokens of two sequences, and caches that hold -1 so far.
struct Decoding {
  int64_t length, heads, groups, size, capacity = 5;
  Tables tables{20, size / 2};
  F32 projected, query{{2, length, heads, size}}, keys{{2, capacity, groups, size}}, values = keys;
  BF16 half_keys{{2, capacity, groups, size}}, half_values = half_keys;
  I32 positions{{2, length}}, start{{2}, {2, 0}};

  Decoding(std::mt19937& generator, int64_t length, int64_t heads, int64_t groups, int64_t size)
      : length(length), heads(heads), groups(groups), size(size), projected(normal(generator, {2, length, (heads + 2 * groups) * size})) {
    for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i * 7 % 20);
    for (F32* cache : {&keys, &values}) cache->values.assign(cache->size(), -1.0f);
    for (BF16* cache : {&half_keys, &half_values}) cache->values.assign(cache->size(), 0xbf80);
  }
  // Token by token, heads [first, first + count) of what was projected.
  F32 part(int64_t first, int64_t count) const {
    F32 result({2, length, count, size});
    for (int64_t token = 0; token < 2 * length; ++token)
      for (int64_t i = 0; i < count * size; ++i) result[token * count * size + i] = projected[(token * (heads + 2 * groups) + first) * size + i];
    return result;
  }
  std::vector<TrefoilView> inputs(bool half) {
    return {view(projected), view(tables.cosine), view(tables.sine), view(positions), half ? view(half_keys) : view(keys), half ? view(half_values) : view(values), view(start)};
  }
  Doubles cached(const Doubles& rows) const {
    Doubles cache(keys.size(), -1);
    const int64_t width = groups * size;
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t i = 0; i < length * width; ++i) cache[(b * capacity + start[b]) * width + i] = rows[b * length * width + i];
    return cache;
  }
  bool untouched() const {
    return std::all_of(keys.values.begin(), keys.values.end(), [](float x) { return x == -1; }) && std::all_of(values.values.begin(), values.values.end(), [](float x) { return x == -1; });
  }
};

}  // namespace

TEST(rope_to_cache_matches_double) {
  std::mt19937 generator(4);
  for (int64_t size : {2, 6, 32, 80, 140})
    for (int64_t length : {1, 3}) {
      Decoding d(generator, length, 4, 2, size);
      const Doubles query = reference(d.part(0, 4), d.tables, d.positions, false, false), keys = d.cached(reference(d.part(4, 2), d.tables, d.positions, false, false)),
                    values = d.cached(doubles(d.part(6, 2)));
      launch(device, "rope_to_cache_", d.inputs(false), {view(d.query), view(d.keys), view(d.values)});
      check_close(d.query, query, 2e-7, 0, "query");
      check_close(d.keys, keys, 2e-7, 0, "keys");
      check_close(d.values, values, 0, 0, "values");
      launch(device, "rope_to_cache_", d.inputs(true), {absent(), view(d.half_keys), view(d.half_values)});
      F32 wide_keys(d.keys.shape), wide_values(d.keys.shape);
      for (size_t i = 0; i < wide_keys.size(); ++i) {
        const uint32_t key = uint32_t{d.half_keys[i]} << 16, value = uint32_t{d.half_values[i]} << 16;
        std::memcpy(&wide_keys[i], &key, 4), std::memcpy(&wide_values[i], &value, 4);
        CHECK(std::fabs(wide_keys[i] - keys[i]) <= 0x1p-8 * std::fabs(keys[i]) + 1e-6);
        CHECK(std::fabs(wide_values[i] - values[i]) <= 0x1p-8 * std::fabs(values[i]));
      }
    }
}

TEST(rope_to_cache_rejects_positions) {
  std::mt19937 generator(5);
  Decoding d(generator, 3, 40, 8, 64);  // several blocks
  const auto rejects = [&](int32_t& at, int32_t bad, const char* name) {
    const int32_t good = at;
    at = bad;
    const TrefoilStatus status = launch_error(device, "rope_to_cache_", d.inputs(false), {view(d.query), view(d.keys), view(d.values)});
    at = good;
    CHECK(status.code == TREFOIL_INDEX_OUT_OF_RANGE);
    CHECK(std::strstr(status.message, (std::string(name) + " " + std::to_string(bad)).c_str()));
    CHECK(d.untouched());
  };
  rejects(d.positions[5], 20, "position");
  rejects(d.positions[0], -1, "position");
  rejects(d.start[1], 3, "start");
  rejects(d.start[0], -1, "start");
  launch(device, "rope_to_cache_", d.inputs(false), {view(d.query), view(d.keys), view(d.values)});
  CHECK(!d.untouched());
}

// Where there is nothing to turn, or no row of the table, positions are wrong all the same.
TEST(rope_rejects_positions_of_nothing) {
  for (auto [heads, size, rows, expected] : {std::tuple{0, 4, 3, 5}, {2, 0, 3, 5}, {2, 4, 0, 0}, {0, 4, 3, 2}}) {
    F32 x({1, 2, heads, size}), y(x.shape), table({rows, size / 2});
    I32 positions({1, 2}, {0, expected});
    TrefoilStatus status = launch_error(device, "rope", {view(x), view(table), view(table), view(positions)}, {view(y)}, {0, 0});
    CHECK(status.code == (expected < rows ? TREFOIL_OK : TREFOIL_INDEX_OUT_OF_RANGE));
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
