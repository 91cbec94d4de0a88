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

struct LaneMask {
  static constexpr int64_t kFloats = 3 * kLanes;
  float* limit;         // keys before this one are visible; exact in f32 up to 2^24 keys
  float* segment_high;  // the two halves of the segment number, each exact in f32
  float* segment_low;
  int64_t first_limit, last_limit;  // of the first and the last row: limits ascend with the lane
  Range segments;

  void fill(const AttentionShape& shape, int64_t b, const RowOffsets& rows, float* storage) {
    limit = storage;
    segment_high = storage + kLanes;
    segment_low = storage + 2 * kLanes;
    first_limit = shape.visible_to_query(b, rows.query[0]);
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

  // Keys of the tile [first, first + count) that any row of these may see: a prefix of it, or none.
  int64_t visible_keys(const AttentionShape& shape, int64_t b, int64_t first, int64_t count, bool& masked) const {
    count = least(count, last_limit - first);
    if (count <= 0) return 0;
    masked = first + count > first_limit;
    if (!shape.segments) return count;
    Range seen = {INT32_MAX, INT32_MIN};
    for (int64_t j = 0; j < count; ++j) seen.include(shape.segments[b * shape.keys + first + j]);
    if (seen.high < segments.low || seen.low > segments.high) return 0;
    bool uniform = seen.low == seen.high && segments.low == segments.high;
    masked = masked || !uniform;
    return count;
  }

  // scores [count][stride]: -inf where the row of the lane does not see the key.
  template <int vectors>
  void apply(const AttentionShape& shape, int64_t b, int64_t first, int64_t count, float* scores, int64_t stride) const {
    Vec hidden = splat(-HUGE_VALF);
    for (int64_t j = 0; j < count; ++j)
      for (int v = 0; v < vectors; ++v) {
        float* at = scores + j * stride + v * Vec::width;
        Vec s = select(less(splat(static_cast<float>(first + j)), load(limit + v * Vec::width)), load(at), hidden);
        if (shape.segments) {
          int32_t segment = shape.segments[b * shape.keys + first + j];
          Vec high = splat(static_cast<float>(segment >> 16)), low = splat(static_cast<float>(segment & 0xffff));
          s = select(equal(high, load(segment_high + v * Vec::width)), s, hidden);
          s = select(equal(low, load(segment_low + v * Vec::width)), s, hidden);
        }
        store(at, s);
      }
  }
};

}  // namespace trefoil::cpu::TREFOIL_ISA
