// Attention of a few queries over a long cache: K and V are read once, in their own layout, and set the time.
#pragma once
#include "attention_blocks.h"

namespace trefoil::cpu::TREFOIL_ISA {

class AttentionDecode {
 public:
  static bool suits(const AttentionShape& shape) { return shape.queries <= 4 && shape.rows <= kMaxRows && !shape.segments; }

  static size_t workspace(const AttentionShape& shape) {
    int64_t splits = split_count(shape);
    return splits == 1 ? 0 : static_cast<size_t>(shape.batch * shape.groups * splits * partial_floats(shape)) * sizeof(float);
  }

  AttentionDecode(const AttentionShape& shape, const float* q, KeyValueSource k, KeyValueSource v, float* out, float* lse, void* workspace)
      : shape_(shape), q_(q), k_(k), v_(v), out_(out), lse_(lse), partials_(static_cast<float*>(workspace)),
        width_(round_up(shape.size, Vec::width)), splits_(split_count(shape)) {}

  void run(Context& context) const {
    int64_t count = shape_.batch * shape_.groups * splits_;
    int64_t work = shape_.rows * shape_.keys / splits_ * shape_.size;
    int64_t together = splits_ == 1 && work < 32768 ? 32768 / (work + 1) + 1 : 1;
    context.parallel((count + together - 1) / together, [&](int64_t group) {
      for (int64_t task = group * together; task < least(count, (group + 1) * together); ++task) {
        int64_t head = task / splits_;
        run_split(context, head / shape_.groups, head % shape_.groups, task % splits_);
      }
    });
    if (splits_ == 1) return;
    for (int64_t head = 0; head < shape_.batch * shape_.groups; ++head) combine(head / shape_.groups, head % shape_.groups);
  }

 private:
  static constexpr int64_t kMaxRows = kLanes < 16 ? kLanes : 16;

  // Keys are split where there are too few heads to share the work; a function of the shape alone.
  static int64_t split_count(const AttentionShape& shape) {
    int64_t wanted = (16 + shape.batch * shape.groups - 1) / (shape.batch * shape.groups);
    int64_t most = (shape.keys + 255) / 256;
    return wanted < most ? wanted : (most > 0 ? most : 1);
  }
  // Of one split: the sums [rows][size], then each row's maximum and total.
  static int64_t partial_floats(const AttentionShape& shape) { return shape.rows * (round_up(shape.size, Vec::width) + 2); }

  struct Running {
    float* sums;  // [rows][width_]
    float *top, *total;
  };
  Running partial(int64_t b, int64_t g, int64_t split, float* storage) const {
    float* at = storage + ((b * shape_.groups + g) * splits_ + split) * partial_floats(shape_);
    return {at, at + shape_.rows * width_, at + shape_.rows * (width_ + 1)};
  }

  void run_split(Context& context, int64_t b, int64_t g, int64_t split) const {
    int64_t rows = shape_.rows;
    float* storage = static_cast<float*>(context.scratch(0, static_cast<size_t>(rows * (2 * width_ + 2 + kKeyTile)) * sizeof(float)));
    float* tiles = static_cast<float*>(context.scratch(1, static_cast<size_t>(2 * kKeyTile * width_) * sizeof(float)));
    float *q = storage, *scores = q + rows * width_, *local = scores + rows * kKeyTile;
    Running state = splits_ == 1 ? Running{local, local + rows * width_, local + rows * (width_ + 1)} : partial(b, g, split, partials_);
    RowOffsets offsets(shape_, b, g, 0, rows);
    for (int64_t row = 0; row < rows; ++row) {
      const float* from = q_ + offsets.element[row];
      for (int64_t d = 0; d < width_; ++d) q[row * width_ + d] = d < shape_.size ? from[d] * (shape_.scale * kLog2e) : 0.0f;
      state.top[row] = -HUGE_VALF;
      state.total[row] = 0.0f;
    }
    memset(state.sums, 0, static_cast<size_t>(rows * width_) * sizeof(float));

    int64_t length = (shape_.keys + splits_ - 1) / splits_;
    int64_t end = least((split + 1) * length, shape_.visible(b, rows - 1));
    for (int64_t first = split * length; first < end; first += kKeyTile) {
      int64_t count = least(kKeyTile, end - first), stride;
      const float* keys = tile(k_, b, g, first, count, tiles, stride);
      k_.prefetch(shape_, b, g, first + count, least(kKeyTile, end - first - count));
      v_.prefetch(shape_, b, g, first + count, least(kKeyTile, end - first - count));
      for (int64_t row = 0; row < rows;) {
        int64_t together = rows - row >= 4 ? 4 : 1;
        if (together == 4)
          dot_products<4>(q + row * width_, keys, stride, count, scores + row * kKeyTile);
        else
          dot_products<1>(q + row * width_, keys, stride, count, scores + row * kKeyTile);
        row += together;
      }
      for (int64_t row = 0; row < rows; ++row) {
        int64_t seen = least(count, shape_.visible(b, row) - first);
        absorb_scores(state, row, scores + row * kKeyTile, seen < 0 ? 0 : seen, count);
      }
      const float* values = tile(v_, b, g, first, count, tiles + kKeyTile * width_, stride);
      multiply_add_columns(rows, width_, scores, kKeyTile, 1, values, stride, count, state.sums, width_);
    }
    if (splits_ == 1) write(b, g, state);
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
      for (int j = 0; j < keys_together; ++j) scores[i * kKeyTile + j] = sum(sums[i][j]);
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
  int64_t width_, splits_;  // width_: the head size rounded up to whole vectors
};

}  // namespace trefoil::cpu::TREFOIL_ISA
