// Attention of a few queries over a long cache: K and V are read once, in their own layout, and set the time.
#pragma once
#include "attention_blocks.h"

namespace trefoil::cpu::TREFOIL_ISA {

class AttentionDecode {
 public:
  static bool suits(const AttentionShape& shape) { return shape.queries <= 4 && shape.rows <= kMaxRows && !shape.segments; }

  static size_t workspace(const AttentionShape& shape) {
    int64_t splits = cut(shape).splits;
    return splits == 1 ? 0 : static_cast<size_t>(shape.batch * shape.groups * splits * state_floats(shape)) * sizeof(float);
  }

  AttentionDecode(const AttentionShape& shape, const float* q, KeyValueSource k, KeyValueSource v, float* out, float* lse, void* workspace)
      : shape_(shape), q_(q), k_(k), v_(v), out_(out), lse_(lse), partials_(static_cast<float*>(workspace)),
        width_(round_up(shape.size, Vec::width)), cut_(cut(shape)) {}

  void run(Context& context) const {
    context.parallel(shape_.batch * cut_.splits * cut_.chunks, [&](int64_t task) {
      int64_t chunk = task % cut_.chunks, split = task / cut_.chunks % cut_.splits, b = task / cut_.chunks / cut_.splits;
      run_task(context, b, chunk * shape_.groups / cut_.chunks, (chunk + 1) * shape_.groups / cut_.chunks, split);
    });
    if (cut_.splits == 1) return;
    for (int64_t head = 0; head < shape_.batch * shape_.groups; ++head) combine(head / shape_.groups, head % shape_.groups);
  }

 private:
  static constexpr int kAddTogether = kBlockRows == 8 ? 4 : 2;  // as the registers allow
  static constexpr int64_t kMaxRows = kLanes < 16 ? kLanes : 16;

  // A task takes a chunk of the key-value heads over a part of the keys. All heads of a key lie together in memory, so that long
  // parts of few sequences are better than few heads of many; a function of the shape alone.
  struct Cut {
    int64_t splits, chunks;
  };
  static Cut cut(const AttentionShape& shape) {
    int64_t tasks = shape.batch > 0 ? (16 + shape.batch - 1) / shape.batch : 1, splits = least(tasks, (shape.keys + 255) / 256);
    if (splits < 1) splits = 1;
    // Below some ten microseconds of work a task is not worth handing out.
    int64_t worth = shape.rows * shape.groups * (shape.keys / splits) * shape.size / 16384 + 1;
    int64_t chunks = least(least((tasks + splits - 1) / splits, shape.groups), worth);
    return {splits, chunks < 1 ? 1 : chunks};
  }
  // Of one head: the sums [rows][width], then each row's maximum and total.
  static int64_t state_floats(const AttentionShape& shape) { return shape.rows * (round_up(shape.size, Vec::width) + 2); }

  struct Running {
    float* sums;  // [rows][width_]
    float *top, *total;
  };
  Running state_at(float* at) const { return {at, at + shape_.rows * width_, at + shape_.rows * (width_ + 1)}; }
  Running partial(int64_t b, int64_t g, int64_t split, float* storage) const {
    return state_at(storage + ((b * shape_.groups + g) * cut_.splits + split) * state_floats(shape_));
  }

  void run_task(Context& context, int64_t b, int64_t first_head, int64_t end_head, int64_t split) const {
    const int64_t rows = shape_.rows, heads = end_head - first_head, q_floats = rows * width_;
    float* q = static_cast<float*>(context.scratch(0, static_cast<size_t>(heads * (q_floats + state_floats(shape_))) * sizeof(float)));
    float* states = q + heads * q_floats;
    float* scores = static_cast<float*>(context.scratch(1, static_cast<size_t>(kKeyTile * (rows + 2 * width_)) * sizeof(float)));
    float* tiles = scores + rows * kKeyTile;
    auto state_of = [&](int64_t g) {
      return cut_.splits == 1 ? state_at(states + (g - first_head) * state_floats(shape_)) : partial(b, g, split, partials_);
    };
    const int64_t length = (shape_.keys + cut_.splits - 1) / cut_.splits, begin = split * length;
    const int64_t end = least(begin + length, shape_.visible(b, rows - 1));
    const bool all = heads == shape_.groups;
    if (all) k_.fetch(shape_, b, begin, least(kKeyTile, end - begin)), v_.fetch(shape_, b, begin, least(kKeyTile, end - begin));
    for (int64_t g = first_head; g < end_head; ++g) {
      if (!all) prefetch(b, g, begin, end);
      open(b, g, q + (g - first_head) * q_floats, state_of(g));
    }
    for (int64_t first = begin; first < end; first += kKeyTile)
      for (int64_t g = first_head; g < end_head; ++g) {
        prefetch(b, g, first + kKeyTile, end);
        absorb(b, g, first, least(kKeyTile, end - first), q + (g - first_head) * q_floats, state_of(g), scores, tiles);
      }
    if (cut_.splits > 1) return;
    for (int64_t g = first_head; g < end_head; ++g) write(b, g, state_of(g));
  }

  void prefetch(int64_t b, int64_t g, int64_t first, int64_t end) const {
    k_.prefetch(shape_, b, g, first, least(kKeyTile, end - first));
    v_.prefetch(shape_, b, g, first, least(kKeyTile, end - first));
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

  // Keys [first, first + count) of one head.
  void absorb(int64_t b, int64_t g, int64_t first, int64_t count, const float* q, const Running& state, float* scores,
              float* tiles) const {
    const int64_t rows = shape_.rows;
    int64_t stride;
    const float* keys = tile(k_, b, g, first, count, tiles, stride);
    int64_t row = 0;
    for (; row + 4 <= rows; row += 4) dot_products<4>(q + row * width_, keys, stride, count, scores + row * kKeyTile);
    for (; row < rows; ++row) dot_products<1>(q + row * width_, keys, stride, count, scores + row * kKeyTile);
    for (row = 0; row < rows; ++row) {
      int64_t seen = least(count, shape_.visible(b, row) - first);
      absorb_scores(state, row, scores + row * kKeyTile, seen < 0 ? 0 : seen, count);
    }
    const float* values = tile(v_, b, g, first, count, tiles + kKeyTile * width_, stride);
    row = rows / 4 * 4;
    if (row > 0) multiply_add_columns(row, width_, scores, kKeyTile, 1, values, stride, count, state.sums, width_);
    for (; row < rows; ++row) add_weighted(scores + row * kKeyTile, values, stride, count, state.sums + row * width_);
  }

  // sums += weights [count] values [count][width_]. Four keys at a time in sums of their own: additions would wait for each other.
  void add_weighted(const float* weights, const float* values, int64_t stride, int64_t count, float* sums) const {
    int64_t d = 0;
    for (; d + 4 * Vec::width <= width_; d += 4 * Vec::width) add_weighted_block<4>(weights, values + d, stride, count, sums + d);
    for (; d < width_; d += Vec::width) add_weighted_block<1>(weights, values + d, stride, count, sums + d);
  }
  template <int vectors>
  void add_weighted_block(const float* weights, const float* values, int64_t stride, int64_t count, float* to) const {
    constexpr int kTogether = vectors == 4 ? kAddTogether : 4;
    Vec sums[kTogether][vectors];
#pragma GCC unroll 4
    for (int i = 0; i < kTogether; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[i][v] = i == 0 ? load(to + v * Vec::width) : splat(0.0f);
    int64_t j = 0;
    for (; j + kTogether <= count; j += kTogether)
#pragma GCC unroll 4
      for (int i = 0; i < kTogether; ++i) {
        Vec weight = splat(weights[j + i]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sums[i][v] = fma(weight, load(values + (j + i) * stride + v * Vec::width), sums[i][v]);
      }
    for (; j < count; ++j)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[0][v] = fma(splat(weights[j]), load(values + j * stride + v * Vec::width), sums[0][v]);
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      Vec total = sums[0][v];
#pragma GCC unroll 4
      for (int i = 1; i < kTogether; ++i) total = total + sums[i][v];
      store(to + v * Vec::width, total);
    }
  }

  // Keys or values in place where they are f32 in whole vectors, else a widened copy.
  const float* tile(const KeyValueSource& source, int64_t b, int64_t g, int64_t first, int64_t count, float* copy, int64_t& stride) const {
    if (!source.bf16 && width_ == shape_.size) {
      stride = shape_.groups * shape_.size;
      return static_cast<const float*>(source.data) + shape_.key_offset(b, g, first);
    }
    stride = width_;
    source.copy(shape_, b, g, first, count, copy, stride);
    return copy;
  }

  // scores[row][j] = <q[row], keys[j]>
  template <int rows>
  void dot_products(const float* q, const float* keys, int64_t stride, int64_t count, float* scores) const {
    constexpr int kTogether = 16 / rows;
    int64_t j = 0;
    for (; j + kTogether <= count; j += kTogether) dot_block<rows, kTogether>(q, keys + j * stride, stride, scores + j);
    for (; j + 4 <= count; j += 4) dot_block<rows, 4>(q, keys + j * stride, stride, scores + j);
    for (; j < count; ++j) dot_block<rows, 1>(q, keys + j * stride, stride, scores + j);
  }
  template <int rows, int keys_together>
  void dot_block(const float* q, const float* keys, int64_t stride, float* scores) const {
    Vec sums[rows][keys_together];
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < keys_together; ++j) sums[i][j] = splat(0.0f);
    for (int64_t d = 0; d < width_; d += Vec::width)
#pragma GCC unroll 4
      for (int i = 0; i < rows; ++i) {
        Vec left = load(q + i * width_ + d);
#pragma GCC unroll 16
        for (int j = 0; j < keys_together; ++j) sums[i][j] = fma(left, load(keys + j * stride + d), sums[i][j]);
      }
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < keys_together; j += 4) {
        float* to = scores + i * kKeyTile + j;
        if constexpr (keys_together == 1) to[0] = sum(sums[i][0]);
        else sums_of_four(sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3], to);
      }
  }

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
      for (int64_t split = 1; split < cut_.splits; ++split) {
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
  Cut cut_;
};

}  // namespace trefoil::cpu::TREFOIL_ISA
