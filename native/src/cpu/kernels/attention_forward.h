// Attention forward for many queries: flash attention (Dao 2023, arXiv 2307.08691, algorithm 1) with queries in lanes.
#pragma once
#include "attention_masks.h"

namespace trefoil::cpu::TREFOIL_ISA {

class AttentionForward {
 public:
  AttentionForward(const AttentionShape& shape, const float* q, KeyValueSource k, KeyValueSource v, float* out, float* lse)
      : shape_(shape), q_(q), k_(k), v_(v), out_(out), lse_(lse) {}

  void run(Context& context) const {
    int64_t task_rows = kTaskRows;
    while (task_rows > kTaskRows / 2 && shape_.batch * shape_.groups * (shape_.rows / task_rows) < 32) task_rows /= 2;
    int64_t parts = (shape_.rows + task_rows - 1) / task_rows, count = shape_.batch * shape_.groups * parts;
    // Tasks below some ten microseconds are run in one go.
    int64_t work = least(shape_.rows, task_rows) * shape_.keys * shape_.size;
    int64_t together = work < 131072 ? 131072 / (work + 1) + 1 : 1;
    context.parallel((count + together - 1) / together, [&](int64_t group) {
      for (int64_t task = group * together; task < least(count, (group + 1) * together); ++task)
        run_task(context, rows_of(task, parts, task_rows), task + 1 < count ? rows_of(task + 1, parts, task_rows) : NextRows{});
    });
  }

 private:
  static constexpr int64_t kTaskRows = 512;  // so many rows share a copy of a tile of keys; half as many where tasks would be few

  struct Tile {
    RowOffsets rows;
    float *q, *out;       // [steps(size)][kLanes], times query_factor, and [size][kLanes]
    float *top, *total;   // running maximum, in units of log 2, and sum
    float* correction;    // what the maximum's rise multiplies earlier sums by
    LaneMask mask;
  };

  NextRows rows_of(int64_t task, int64_t parts, int64_t task_rows) const {
    // Late rows first: under a causal mask they are the long ones.
    int64_t first = (parts - 1 - task % parts) * task_rows, head = task / parts;
    return {head / shape_.groups, head % shape_.groups, first, least(task_rows, shape_.rows - first)};
  }

  // `next`: the task that this thread probably takes next.
  void run_task(Context& context, const NextRows& task, const NextRows& next) const {
    const auto [b, g, first_row, rows] = task;
    int64_t size = shape_.size, tiles = (rows + kLanes - 1) / kLanes;
    int64_t stride = 2 * size * kLanes + 3 * kLanes + LaneMask::kFloats;
    float* storage = static_cast<float*>(context.scratch(0, static_cast<size_t>(tiles * stride) * sizeof(float)));
    float* keys = static_cast<float*>(context.scratch(1, static_cast<size_t>(2 * kKeyTile * size) * sizeof(float)));
    float* values = keys + kKeyTile * size;
    float* scores = static_cast<float*>(context.scratch(2, sizeof(float) * kKeyTile * kLanes));
    Tile tile[kTaskRows / kLanes];
    int64_t end = shape_.visible(b, first_row + rows - 1);
    prefetch_keys(b, g, 0, end, 0, 1);
    for (int64_t i = 0; i < tiles; ++i) {
      tile[i].rows = RowOffsets(shape_, b, g, first_row + i * kLanes, least(kLanes, rows - i * kLanes));
      tile[i].rows.prefetch(q_, size);
    }
    for (int64_t i = 0; i < tiles; ++i) open(tile[i], b, storage + i * stride);

    // A copy pays for itself where several tiles of rows read it.
    const bool in_place = kTogether == 1 && tiles == 1 && !k_.bf16 && !v_.bf16;
    const int64_t key_row = in_place ? shape_.groups * size : steps(size), value_row = in_place ? key_row : size;
    const int64_t visits = (end + kKeyTile - 1) / kKeyTile * tiles;
    for (int64_t first = 0; first < end; first += kKeyTile) {
      int64_t count = least(kKeyTile, end - first);
      const float *key = keys, *value = values;
      bool copied = in_place;
      if (in_place) {
        key = static_cast<const float*>(k_.data) + shape_.key_offset(b, g, first);
        value = static_cast<const float*>(v_.data) + shape_.key_offset(b, g, first);
      }
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t visit = first / kKeyTile * tiles + i;
        if (first + kKeyTile < end) prefetch_keys(b, g, first + kKeyTile, end, i, tiles);
        else if (next.count > 0) prefetch_keys(next.b, next.g, 0, shape_.key_length(next.b), i, tiles);
        next.share(shape_, visit, visits, [&](const RowOffsets& of_next) { of_next.prefetch(q_, size); });
        SeenKeys seen = tile[i].mask.visible_keys(shape_, b, first, count);
        if (seen.all == 0) continue;
        if (!copied) {
          k_.copy_rows(shape_, b, g, first, count, keys);
          v_.copy_columns(shape_, b, g, first, count, values);
          copied = true;
        }
        if (tile[i].rows.count > Vec::width)
          absorb<2>(tile[i], b, first, seen, key, key_row, value, value_row, scores);
        else
          absorb<1>(tile[i], b, first, seen, key, key_row, value, value_row, scores);
      }
    }
    for (int64_t i = 0; i < tiles; ++i) close(tile[i]);
  }

  // Asks for a share of the tile of keys from `first` on: all at once would fill the queue of outstanding loads.
  void prefetch_keys(int64_t b, int64_t g, int64_t first, int64_t end, int64_t share, int64_t shares) const {
    int64_t count = least(kKeyTile, end - first), from = count * share / shares, to = count * (share + 1) / shares;
    k_.prefetch(shape_, b, g, first + from, to - from);
    v_.prefetch(shape_, b, g, first + from, to - from);
  }

  void open(Tile& tile, int64_t b, float* storage) const {
    tile.q = storage;
    tile.out = tile.q + shape_.size * kLanes;
    tile.top = tile.out + shape_.size * kLanes;
    tile.total = tile.top + kLanes;
    tile.correction = tile.total + kLanes;
    tile.mask.fill(shape_, b, tile.rows, tile.correction + kLanes);
    pack_steps(tile.rows, q_, shape_.size, query_factor(shape_), tile.q);
    memset(tile.out, 0, static_cast<size_t>(shape_.size * kLanes) * sizeof(float));
    for (int lane = 0; lane < kLanes; ++lane) {
      tile.top[lane] = -HUGE_VALF;
      tile.total[lane] = 0.0f;
    }
  }

  template <int vectors>
  void absorb(Tile& tile, int64_t b, int64_t first, const SeenKeys& seen, const float* keys, int64_t key_row, const float* values,
              int64_t value_row, float* scores) const {
    const float factor = score_factor(shape_);
    multiply_seen<vectors, kScores>(seen, keys, key_row, tile.q, steps(shape_.size), scores, kLanes, &factor);
    if (seen.masked) tile.mask.template apply<vectors>(shape_, b, first, seen, scores, kLanes);
    for (int v = 0; v < vectors; ++v) {
      int64_t lane = v * Vec::width, count = seen.by_vector(v, vectors);
      Vec old = load(tile.top + lane), top = old;
      for (int64_t j = 0; j < count; ++j) top = max(load(scores + j * kLanes + lane), top);
      // A row that has seen no key yet has no finite maximum to subtract.
      Vec shift = select(equal(top, splat(-HUGE_VALF)), splat(0.0f), top);
      Vec correction = exp2_bounded(old - shift), total = splat(0.0f);
#if defined(__AVX512BF16__)
      for (int64_t j = 0; j < count; j += 2) {  // the pair takes the place of a score that has been read
        const float* score = scores + j * kLanes + lane;
        Vec even = exp2_bounded(load(score) - shift), odd = j + 1 < count ? exp2_bounded(load(score + kLanes) - shift) : splat(0.0f);
        store(scores + j / 2 * kLanes + lane, interleaved(even, odd));
        total = total + (even + odd);
      }
#else
      for (int64_t j = 0; j < count; ++j) {
        Vec p = exp2_bounded(load(scores + j * kLanes + lane) - shift);
        store(scores + j * kLanes + lane, p);
        total = total + p;
      }
#endif
      store(tile.top + lane, top);
      store(tile.correction + lane, correction);
      store(tile.total + lane, fma(load(tile.total + lane), correction, total));
    }
    add_seen<vectors, Start::kScale>(seen, shape_.size, values, value_row, scores, kLanes, tile.out, tile.correction);
  }

  void close(Tile& tile) const {
    float* inverse = tile.correction;
    for (int lane = 0; lane < kLanes; lane += Vec::width) {
      Vec total = load(tile.total + lane);
      store(inverse + lane, select(equal(total, splat(0.0f)), splat(0.0f), splat(1.0f) / total));
      store(tile.top + lane, fma(load(tile.top + lane), splat(kLn2), log(total)));
    }
    unpack_transposed(tile.rows, out_, shape_.size, tile.out, inverse);
    if (!lse_) return;
    for (int64_t lane = 0; lane < tile.rows.count; ++lane) lse_[tile.rows.lse[lane]] = tile.top[lane];
  }

  AttentionShape shape_;
  const float* q_;
  KeyValueSource k_, v_;
  float *out_, *lse_;
};

}  // namespace trefoil::cpu::TREFOIL_ISA
