// Attention of a few queries over a long cache: K and V are read once, in their own layout, and set the time.
#pragma once
#include "attention_blocks.h"

namespace trefoil::cpu::TREFOIL_ISA {

class AttentionDecode {
 public:
  static bool suits(const AttentionShape& shape) { return shape.queries <= 4 && shape.rows <= kMaxRows && !shape.segments; }

  static size_t workspace(const AttentionShape& shape) {
    int64_t parts = splits(shape);
    return parts == 1 ? 0 : static_cast<size_t>(shape.batch * shape.groups * parts * state_floats(shape)) * sizeof(float);
  }

  AttentionDecode(const AttentionShape& shape, const float* q, KeyValueSource k, KeyValueSource v, float* out, float* lse, void* workspace)
      : shape_(shape), q_(q), k_(k), v_(v), out_(out), lse_(lse), partials_(static_cast<float*>(workspace)),
        width_(round_up(shape.size, Vec::width)), splits_(splits(shape)) {}

  void run(Context& context) const {
    context.parallel(shape_.batch * splits_, [&](int64_t task) { run_task(context, task / splits_, task % splits_); });
    if (splits_ == 1) return;
    for (int64_t head = 0; head < shape_.batch * shape_.groups; ++head) combine(head / shape_.groups, head % shape_.groups);
  }

 private:
  static constexpr int64_t kKeysTogether = 4, kLeastKeys = 32;
  static constexpr int64_t kFetchedAhead = 8192;  // bytes
  static constexpr int64_t kMaxRows = kLanes < 16 ? kLanes : 16;

  // A task takes all heads of a part of a sequence's keys, which lie together in memory; how many parts is a function of the shape alone.
  static int64_t splits(const AttentionShape& shape) {
    int64_t tasks = shape.batch > 0 ? (16 + shape.batch - 1) / shape.batch : 1;
    // Below some ten microseconds of work a task is not worth handing out.
    int64_t worth = shape.rows * shape.groups * shape.keys * shape.size / 16384 + 1;
    return least(least(tasks, worth), (shape.keys + kLeastKeys - 1) / kLeastKeys + (shape.keys == 0));
  }
  // Of one head: the sums [rows][width], then each row's maximum and total.
  static int64_t state_floats(const AttentionShape& shape) { return shape.rows * (round_up(shape.size, Vec::width) + 2); }

  struct Running {
    float* sums;  // [rows][width_]
    float *top, *total;
  };
  Running state_at(float* at) const { return {at, at + shape_.rows * width_, at + shape_.rows * (width_ + 1)}; }
  Running partial(int64_t b, int64_t g, int64_t split, float* storage) const {
    return state_at(storage + ((b * shape_.groups + g) * splits_ + split) * state_floats(shape_));
  }

  // Keys or values of a tile, of all heads.
  template <class E>
  struct Tile {
    const E* data;
    int64_t key_stride, head_stride;
  };

  void run_task(Context& context, int64_t b, int64_t split) const {
    const int64_t rows = shape_.rows, heads = shape_.groups, q_floats = rows * width_;
    float* q = static_cast<float*>(context.scratch(0, static_cast<size_t>(heads * (q_floats + state_floats(shape_))) * sizeof(float)));
    float* states = q + heads * q_floats;
    const int64_t score_floats = heads * rows * kKeyTile, lane_floats = heads * rows * kKeysTogether * Vec::width;
    const int64_t copy_floats = in_place() ? 0 : heads * width_ * kKeyTile;
    float* scores = static_cast<float*>(context.scratch(1, static_cast<size_t>(score_floats + lane_floats + copy_floats) * sizeof(float)));
    float *lanes = scores + score_floats, *copy = lanes + lane_floats;
    memset(lanes, 0, static_cast<size_t>(lane_floats) * sizeof(float));
    auto state_of = [&](int64_t i) {
      return splits_ == 1 ? state_at(states + i * state_floats(shape_)) : partial(b, i, split, partials_);
    };
    const int64_t visible = shape_.visible(b, rows - 1), begin = split * visible / splits_, end = (split + 1) * visible / splits_;
    for (int64_t i = 0; i < heads; ++i) open(b, i, q + i * q_floats, state_of(i));
    for (int64_t first = begin; first < end; first += kKeyTile) {
      const int64_t count = least(kKeyTile, end - first);
      with_tile(k_, b, first, count, copy, [&](auto keys) { score(heads, count, q, keys, lanes, scores); });
      for (int64_t i = 0; i < heads; ++i)
        for (int64_t row = 0; row < rows; ++row) {
          int64_t seen = least(count, shape_.visible(b, row) - first);
          absorb_scores(state_of(i), row, scores + (i * rows + row) * kKeyTile, seen < 0 ? 0 : seen, count);
        }
      with_tile(v_, b, first, count, copy,
                [&](auto values) { add_weighted(heads, count, scores, values, [&](int64_t i) { return state_of(i).sums; }); });
    }
    if (splits_ > 1) return;
    for (int64_t i = 0; i < heads; ++i) write(b, i, state_of(i));
  }

  bool in_place() const { return width_ == shape_.size; }

  // In place where heads are whole vectors, else widened and padded.
  template <class Body>
  void with_tile(const KeyValueSource& source, int64_t b, int64_t first, int64_t count, float* copy, const Body& body) const {
    const int64_t at = shape_.key_offset(b, 0, first), key_stride = shape_.groups * shape_.size;
    if (!in_place()) {
      for (int64_t i = 0; i < shape_.groups; ++i)
        source.copy(shape_, b, i, first, count, copy + i * kKeyTile * width_, width_);
      body(Tile<float>{copy, width_, kKeyTile * width_});
    } else if (source.bf16) {
      body(Tile<uint16_t>{static_cast<const uint16_t*>(source.data) + at, key_stride, shape_.size});
    } else {
      body(Tile<float>{static_cast<const float*>(source.data) + at, key_stride, shape_.size});
    }
  }

  void open(int64_t b, int64_t g, float* q, const Running& state) const {
    RowOffsets offsets(shape_, b, g, 0, shape_.rows);
    for (int64_t row = 0; row < shape_.rows; ++row) {
      const float* from = q_ + offsets.element[row];
      for (int64_t d = 0; d < width_; ++d) q[row * width_ + d] = d < shape_.size ? from[d] * (shape_.scale * kLog2e) : 0.0f;
      state.top[row] = -HUGE_VALF;
      state.total[row] = 0.0f;
    }
    memset(state.sums, 0, static_cast<size_t>(shape_.rows * width_) * sizeof(float));
  }

  // scores[i][row][j] = <q[i][row], keys[j][i]>. Keys are read one after the other with all their heads, and so is every address: rows
  // side by side come at half the memory's speed. The lanes of a few keys are then added together.
  template <class E>
  void score(int64_t heads, int64_t count, const float* q, Tile<E> keys, float* lanes, float* scores) const {
    const int64_t rows = shape_.rows;
    for (int64_t j = 0; j < count; j += kKeysTogether) {
      const int64_t some = least(kKeysTogether, count - j);
      for (int64_t t = 0; t < some; ++t) {
        prefetch_row<2>(keys.data + (j + t) * keys.key_stride + kFetchedAhead / sizeof(E), heads * keys.head_stride);
        for (int64_t i = 0; i < heads; ++i) {
          const E* key = keys.data + (j + t) * keys.key_stride + i * keys.head_stride;
          int64_t row = i * rows;
          const int64_t end = row + rows;
          for (; row + 4 <= end; row += 4) multiply_key<4>(q + row * width_, key, lanes + (row * kKeysTogether + t) * Vec::width);
          for (; row < end; ++row) multiply_key<1>(q + row * width_, key, lanes + (row * kKeysTogether + t) * Vec::width);
        }
      }
      for (int64_t row = 0; row < heads * rows; ++row) {
        const float* of_row = lanes + row * kKeysTogether * Vec::width;
        sums_of_four(load(of_row), load(of_row + Vec::width), load(of_row + 2 * Vec::width), load(of_row + 3 * Vec::width),
                     scores + row * kKeyTile + j);
      }
    }
  }
  template <int rows, class E>
  void multiply_key(const float* q, const E* key, float* lanes) const {
    Vec sums[rows];
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i) sums[i] = splat(0.0f);
    for (int64_t d = 0; d < width_; d += Vec::width) {
      Vec right = widened(key + d);
#pragma GCC unroll 4
      for (int i = 0; i < rows; ++i) sums[i] = fma(load(q + i * width_ + d), right, sums[i]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i) store(lanes + i * kKeysTogether * Vec::width, sums[i]);
  }

  // sums of head i += its weights [rows][count] times values [count], in order of addresses.
  template <class E, class SumsOf>
  void add_weighted(int64_t heads, int64_t count, const float* weights, Tile<E> values, const SumsOf& sums_of) const {
    const int64_t rows = shape_.rows;
    for (int64_t j = 0; j < count; ++j) {
      prefetch_row<2>(values.data + j * values.key_stride + kFetchedAhead / sizeof(E), heads * values.head_stride);
      for (int64_t i = 0; i < heads; ++i) {
        const E* value = values.data + j * values.key_stride + i * values.head_stride;
        const float* weight = weights + i * rows * kKeyTile + j;
        float* sums = sums_of(i);
        int64_t row = 0;
        for (; row + 4 <= rows; row += 4) add_value<4>(weight + row * kKeyTile, value, sums + row * width_);
        for (; row < rows; ++row) add_value<1>(weight + row * kKeyTile, value, sums + row * width_);
      }
    }
  }
  template <int rows, class E>
  void add_value(const float* weights, const E* value, float* sums) const {
    Vec weight[rows];
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i) weight[i] = splat(weights[i * kKeyTile]);
    for (int64_t d = 0; d < width_; d += Vec::width) {
      Vec right = widened(value + d);
#pragma GCC unroll 4
      for (int i = 0; i < rows; ++i) store(sums + i * width_ + d, fma(weight[i], right, load(sums + i * width_ + d)));
    }
  }

  static Vec widened(const float* p) { return load(p); }
  static Vec widened(const uint16_t* p) { return load_bf16(p); }

  // scores become probabilities, zero from `seen` to `count`; the sums so far are brought to the new maximum.
  void absorb_scores(const Running& state, int64_t row, float* scores, int64_t seen, int64_t count) const {
    for (int64_t j = seen; j < count; ++j) scores[j] = 0.0f;
    if (seen == 0) return;
    float old = state.top[row], found = largest(scores, seen), top = found > old ? found : old;
    float shift = top == -HUGE_VALF ? 0.0f : top;
    float total = sum_over(seen, [&](int64_t j, auto lanes) {
      Vec p = exp2_bounded(lanes.load(scores + j) - splat(shift));
      lanes.store(scores + j, p);
      return p;
    });
    float correction = ::exp2f(old - shift);
    state.top[row] = top;
    state.total[row] = state.total[row] * correction + total;
    if (correction == 1.0f) return;
    float* sums = state.sums + row * width_;
    for (int64_t d = 0; d < width_; d += Vec::width) store(sums + d, load(sums + d) * splat(correction));
  }

  // Brings the splits of one head to a common maximum and adds them in order, into the first.
  void combine(int64_t b, int64_t g) const {
    Running whole = partial(b, g, 0, partials_);
    for (int64_t row = 0; row < shape_.rows; ++row) {
      float* sums = whole.sums + row * width_;
      for (int64_t split = 1; split < splits_; ++split) {
        Running part = partial(b, g, split, partials_);
        float top = part.top[row] > whole.top[row] ? part.top[row] : whole.top[row];
        float shift = top == -HUGE_VALF ? 0.0f : top;
        float ours = ::exp2f(whole.top[row] - shift), theirs = ::exp2f(part.top[row] - shift);
        whole.top[row] = top;
        whole.total[row] = whole.total[row] * ours + part.total[row] * theirs;
        for (int64_t d = 0; d < width_; d += Vec::width)
          store(sums + d, fma(load(part.sums + row * width_ + d), splat(theirs), load(sums + d) * splat(ours)));
      }
    }
    write(b, g, whole);
  }

  void write(int64_t b, int64_t g, const Running& state) const {
    RowOffsets offsets(shape_, b, g, 0, shape_.rows);
    for (int64_t row = 0; row < shape_.rows; ++row) {
      float total = state.total[row], inverse = total == 0.0f ? 0.0f : 1.0f / total;
      float* out = out_ + offsets.element[row];
      for (int64_t d = 0; d < shape_.size; ++d) out[d] = state.sums[row * width_ + d] * inverse;
      if (lse_) lse_[offsets.lse[row]] = state.top[row] * kLn2 + ::logf(total);
    }
  }

  AttentionShape shape_;
  const float* q_;
  KeyValueSource k_, v_;
  float *out_, *lse_, *partials_;
  int64_t width_;  // the head size rounded up to whole vectors
  int64_t splits_;
};

}  // namespace trefoil::cpu::TREFOIL_ISA
