// Which keys a tile of rows sees: causal limits and segments, as one value per lane.
#pragma once
#include "attention_blocks.h"

namespace trefoil::cpu::TREFOIL_ISA {

struct Range {
  int32_t low, high;
  void include(int32_t value) {
    low = value < low ? value : low;
    high = value > high ? value : high;
  }
};

// Keys of one tile that a tile of rows sees, from the first on. Where causal limits hide the last ones from the whole first vector of rows,
// it passes over them.
struct SeenKeys {
  int64_t first_vector = 0, all = 0;
  bool masked = false;  // not by every row
  int64_t by_vector(int v, int vectors) const { return v + 1 == vectors ? all : first_vector; }
  int64_t by_last_alone() const { return all - first_vector; }
};

// scores[key][lane] = <keys[key], rows[..][lane]> (* *scale), rows [count][kLanes], for what is seen.
template <int vectors, Start start>
inline void multiply_seen(const SeenKeys& seen, const float* keys, int64_t key_row, const float* rows, int64_t count, float* scores, int64_t stride,
                          const float* scale = nullptr) {
  constexpr int last = (vectors - 1) * Vec::width;
  multiply<vectors, start>(seen.first_vector, keys, key_row, 1, rows, kLanes, count, scores, stride, scale);
  multiply<1, start>(seen.by_last_alone(), keys + seen.first_vector * key_row, key_row, 1, rows + last, kLanes, count,
                     scores + seen.first_vector * stride + last, stride, scale);
}

// c[d][lane] = start + sum over the keys that are seen of keys[key][d] * weights[key][lane], keys and weights in steps of a sum along the keys.
template <int vectors, Start start>
inline void add_seen(const SeenKeys& seen, int64_t size, const float* keys, int64_t key_row, const float* weights, int64_t stride, float* c,
                     const float* scale = nullptr) {
  constexpr int last = (vectors - 1) * Vec::width;
  static_assert(kBlockRows % kTogether == 0);  // whole steps lie before the keys that the last vector sees alone
  multiply<vectors, start>(size, keys, 1, key_row, weights, stride, steps(seen.first_vector), c, kLanes, scale);
  const int64_t before = seen.first_vector / kTogether;
  if (seen.by_last_alone() > 0)
    multiply<1, Start::kAdd>(size, keys + before * key_row, 1, key_row, weights + before * stride + last, stride, steps(seen.by_last_alone()),
                             c + last, kLanes);
}

struct LaneMask {
  static constexpr int64_t kFloats = 3 * kLanes;
  float* limit;         // keys before this one are visible; exact in f32 up to 2^24 keys
  float* segment_high;  // the two halves of the segment number, each exact in f32
  float* segment_low;
  int64_t first_limit, middle_limit, last_limit;  // of the first row, the last of the first vector, the last: limits ascend with the lane
  Range segments;

  void fill(const AttentionShape& shape, int64_t b, const RowOffsets& rows, float* storage) {
    limit = storage;
    segment_high = storage + kLanes;
    segment_low = storage + 2 * kLanes;
    first_limit = shape.visible_to_query(b, rows.query[0]);
    middle_limit = shape.visible_to_query(b, rows.query[least(Vec::width, rows.count) - 1]);
    last_limit = shape.visible_to_query(b, rows.query[rows.count - 1]);
    segments = {INT32_MAX, INT32_MIN};
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      int64_t query = rows.query[lane < rows.count ? lane : rows.count - 1];
      limit[lane] = static_cast<float>(shape.visible_to_query(b, query));
      if (!shape.segments) continue;
      int32_t segment = shape.segments[b * shape.keys + query];
      segments.include(segment);
      segment_high[lane] = static_cast<float>(segment >> 16);
      segment_low[lane] = static_cast<float>(segment & 0xffff);
    }
  }

  // How many keys of the tile [first, first + count), from its first, any row of these may see.
  SeenKeys visible_keys(const AttentionShape& shape, int64_t b, int64_t first, int64_t count) const {
    count = least(count, last_limit - first);
    if (count <= 0) return {};
    SeenKeys seen = {least(count, round_up(middle_limit > first ? middle_limit - first : 0, kBlockRows)), count, first + count > first_limit};
    if (!shape.segments) return seen;
    Range range = {INT32_MAX, INT32_MIN};
    for (int64_t j = 0; j < count; ++j) range.include(shape.segments[b * shape.keys + first + j]);
    if (range.high < segments.low || range.low > segments.high) return {};
    bool uniform = range.low == range.high && segments.low == segments.high;
    seen.masked = seen.masked || !uniform;
    return seen;
  }

  // scores [seen][stride]: -inf where the row of the lane does not see the key.
  template <int vectors>
  void apply(const AttentionShape& shape, int64_t b, int64_t first, const SeenKeys& seen, float* scores, int64_t stride) const {
    Vec hidden = splat(-HUGE_VALF);
    for (int v = 0; v < vectors; ++v) {
      const int lane = v * Vec::width;
      const int64_t hides = static_cast<int64_t>(limit[lane]) - first;  // from this key on the limits hide some
      Vec limits = load(limit + lane);
      for (int64_t j = shape.segments || hides < 0 ? 0 : hides; j < seen.by_vector(v, vectors); ++j) {
        float* at = scores + j * stride + lane;
        Vec s = select(less(splat(static_cast<float>(first + j)), limits), load(at), hidden);
        if (shape.segments) {
          int32_t segment = shape.segments[b * shape.keys + first + j];
          Vec high = splat(static_cast<float>(segment >> 16)), low = splat(static_cast<float>(segment & 0xffff));
          s = select(equal(high, load(segment_high + lane)), s, hidden);
          s = select(equal(low, load(segment_low + lane)), s, hidden);
        }
        store(at, s);
      }
    }
  }

  // The first of `rows` lanes that may see this key.
  int64_t first_to_see(int64_t key, int64_t rows) const {
    int64_t lane = 0;
    while (lane < rows && limit[lane] <= static_cast<float>(key)) ++lane;
    return lane;
  }
};

}  // namespace trefoil::cpu::TREFOIL_ISA
