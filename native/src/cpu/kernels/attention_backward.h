// Attention backward (Dao 2023, arXiv 2307.08691, algorithm 2): the probabilities are recomputed tile by tile from lse.
#pragma once
#include "attention_masks.h"

namespace trefoil::cpu::TREFOIL_ISA {

struct AttentionGradients {
  float *dq, *dk, *dv;  // any may be null: nobody reads it
};

class AttentionBackward {
 public:
  static size_t workspace(const AttentionShape& shape) {
    int64_t parts = part_count(shape);
    return parts == 1 ? 0 : static_cast<size_t>(parts * query_elements(shape)) * sizeof(float);
  }

  AttentionBackward(const AttentionShape& shape, const float* dout, const float* q, KeyValueSource k, KeyValueSource v, const float* out,
                    const float* lse, AttentionGradients gradients, void* workspace)
      : shape_(shape), dout_(dout), q_(q), k_(k), v_(v), out_(out), lse_(lse), gradients_(gradients),
        partial_dq_(static_cast<float*>(workspace)), width_(round_up(shape.size, Vec::width)), parts_(part_count(shape)),
        part_keys_(part_keys(shape)) {}

  void run(Context& context) const {
    int64_t count = shape_.batch * shape_.groups * parts_;
    int64_t work = shape_.rows * shape_.keys * shape_.size;
    int64_t together = work < 65536 ? 65536 / (work + 1) + 1 : 1;
    context.parallel((count + together - 1) / together, [&](int64_t group) {
      for (int64_t task = group * together; task < least(count, (group + 1) * together); ++task) {
        int64_t head = task / parts_, next = (task + 1) / parts_;
        run_part(context, head / shape_.groups, head % shape_.groups, task % parts_,
                 task + 1 < count ? NextRows{next / shape_.groups, next % shape_.groups, 0, block_rows(0)} : NextRows{});
      }
    });
    if (parts_ > 1 && gradients_.dq) add_partial_dq(context);
  }

 private:
  static constexpr int64_t kBlockRowTiles = 8;
  // dk and dv are sums over rows: two tiles of rows go into them at once, so that they are loaded and stored half as often.
  static constexpr int64_t kPairLanes = 2 * kLanes;

  // Keys are split over tasks where there are few heads; each part then has a dq of its own, added up in order afterwards.
  static int64_t part_keys(const AttentionShape& shape) {
    int64_t heads = shape.batch * shape.groups;
    if (heads == 0) return shape.keys;
    int64_t parts = least((32 + heads - 1) / heads, shape.keys / 256);
    parts = least(parts, (int64_t{32} << 20) / (query_elements(shape) + 1));  // at most 128 MiB of partial sums
    return parts > 1 ? round_up((shape.keys + parts - 1) / parts, kKeyTile) : shape.keys;
  }
  static int64_t part_count(const AttentionShape& shape) {
    return shape.keys == 0 ? 1 : (shape.keys + part_keys(shape) - 1) / part_keys(shape);
  }
  static int64_t query_elements(const AttentionShape& shape) { return shape.batch * shape.queries * shape.heads * shape.size; }

  // Lanes of queries; the transposed copies feed products along the head, the others products along the queries.
  struct Tile {
    RowOffsets rows;
    float *q_transposed, *dout_transposed;  // [steps(size)][kLanes]; q is multiplied by query_factor
    float* dq_transposed;                   // [size][kLanes]
    float *q, *dout;                        // [steps(rows)][width_]; those of the next tile follow
    float *lse, *delta;                     // [kLanes]; lse in units of log 2
    LaneMask mask;
  };

  struct Buffers {
    float *keys, *values;         // [kKeyTile][steps(size)]
    float* key_columns;           // [steps(kKeyTile)][size]; the keys themselves where a step is one term
    float *scores, *dscores;      // [kKeyTile][kPairLanes]; of a tile of rows at last, in steps of a sum along the rows
    float* dscore_columns;        // [steps(kKeyTile)][kLanes], or dscores themselves
    float *dk, *dv;               // [part_keys_][width_]
    float *q, *dout;              // [kBlockRowTiles * kLanes][width_]
    float *tiles;
    int64_t tile_floats;
  };

  Buffers buffers(Context& context) const {
    int64_t size = shape_.size;
    Buffers at;
    at.tile_floats = 3 * size * kLanes + 2 * kLanes + LaneMask::kFloats;
    const int64_t row_floats = kKeyTile * steps(size);
    at.keys = static_cast<float*>(context.scratch(1, static_cast<size_t>(2 * row_floats + steps(kKeyTile) * size) * sizeof(float)));
    at.values = at.keys + row_floats;
    at.key_columns = kTogether == 1 ? at.keys : at.values + row_floats;
    at.scores = static_cast<float*>(context.scratch(2, sizeof(float) * kKeyTile * (2 * kPairLanes + kLanes)));
    at.dscores = at.scores + kKeyTile * kPairLanes;
    at.dscore_columns = at.dscores + kKeyTile * kPairLanes;
    at.dk = static_cast<float*>(context.scratch(3, static_cast<size_t>(2 * part_keys_ * width_) * sizeof(float)));
    at.dv = at.dk + part_keys_ * width_;
    int64_t rows_floats = kBlockRowTiles * kLanes * width_;
    at.q = static_cast<float*>(context.scratch(0, static_cast<size_t>(2 * rows_floats + kBlockRowTiles * at.tile_floats) * sizeof(float)));
    at.dout = at.q + rows_floats;
    at.tiles = at.dout + rows_floats;
    return at;
  }

  int64_t block_rows(int64_t first) const { return least(kBlockRowTiles * kLanes, shape_.rows - first); }

  // `later`: the first rows of what this thread probably does next.
  void run_part(Context& context, int64_t b, int64_t g, int64_t part, const NextRows& later) const {
    Buffers at = buffers(context);
    int64_t begin = part * part_keys_, end = least(shape_.keys, begin + part_keys_), rows = shape_.rows;
    if (at.dk) memset(at.dk, 0, static_cast<size_t>(2 * part_keys_ * width_) * sizeof(float));  // null: no keys, or nothing of them
    for (int64_t block = 0; block < rows; block += kBlockRowTiles * kLanes) {
      const int64_t count = block_rows(block), tiles = (count + kLanes - 1) / kLanes, following = block + count;
      const NextRows next = following < rows ? NextRows{b, g, following, block_rows(following)} : later;
      int64_t visible = least(end, shape_.visible(b, following - 1));
      if (visible <= begin && part > 0) continue;  // add_partial_dq passes over it
      Tile tile[kBlockRowTiles];
      for (int64_t i = 0; i < tiles; ++i) {
        tile[i].rows = RowOffsets(shape_, b, g, block + i * kLanes, least(kLanes, count - i * kLanes));
        layout(tile[i], at, i);
      }
      if (visible > begin) {
        prefetch_keys(b, g, begin, visible, 0, 1);
        prefetch_rows(tile[0].rows);
      }
      for (int64_t i = 0; i < tiles && visible > begin; ++i) {
        if (i + 1 < tiles) prefetch_rows(tile[i + 1].rows);
        open(tile[i], b);
      }
      for (int64_t first = begin; first < visible; first += kKeyTile)
        visit_keys(at, tile, tiles, b, g, first, visible, begin, next);
      if (!gradients_.dq) continue;
      for (int64_t i = 0; i < tiles; ++i) write_dq(tile[i], part, visible > begin);
    }
    for (int64_t key = begin; key < end; ++key) {
      write_key(gradients_.dk, b, g, key, at.dk + (key - begin) * width_, shape_.scale);
      write_key(gradients_.dv, b, g, key, at.dv + (key - begin) * width_, 1.0f);
    }
  }

  void visit_keys(const Buffers& at, Tile* tile, int64_t tiles, int64_t b, int64_t g, int64_t first, int64_t end, int64_t begin,
                  const NextRows& next) const {
    int64_t count = least(kKeyTile, end - first), key = first - begin, pairs = (tiles + 1) / 2;
    const int64_t visits = (end - begin + kKeyTile - 1) / kKeyTile * pairs;
    const bool last_keys = first + kKeyTile >= end, last_rows = tile[tiles - 1].rows.query[tile[tiles - 1].rows.count - 1] + 1 == shape_.queries;
    bool copied = false;
    for (int64_t i = 0; i < tiles; i += 2) {
      if (!last_keys) prefetch_keys(b, g, first + kKeyTile, end, i / 2, pairs);
      next.share(shape_, key / kKeyTile * pairs + i / 2, visits, [&](const RowOffsets& rows) { prefetch_rows(rows); });
      // What is written at the end.
      if (last_keys && parts_ == 1 && gradients_.dq)
        for (int64_t of_pair = 0; of_pair < least(2, tiles - i); ++of_pair) tile[i + of_pair].rows.prefetch(gradients_.dq, shape_.size);
      if (last_rows) prefetch_key_gradients(b, g, first, count, i / 2, pairs);
      SeenKeys seen[2];
      for (int64_t of_pair = 0; of_pair < least(2, tiles - i); ++of_pair) {
        Tile& one = tile[i + of_pair];
        seen[of_pair] = one.mask.visible_keys(shape_, b, first, count);
        if (seen[of_pair].all == 0) continue;
        if (!copied) {
          k_.copy_rows(shape_, b, g, first, count, at.keys);
          v_.copy_rows(shape_, b, g, first, count, at.values);
          if (kTogether > 1 && gradients_.dq) k_.copy_columns(shape_, b, g, first, count, at.key_columns);
          copied = true;
        }
        if (one.rows.count > Vec::width)
          visit<2>(at, one, b, first, seen[of_pair], of_pair * kLanes);
        else
          visit<1>(at, one, b, first, seen[of_pair], of_pair * kLanes);
      }
      int64_t both = least(seen[0].all, seen[1].all), longer = seen[1].all > seen[0].all ? 1 : 0;
      if (both > 0) add_to_keys(at, tile[i], 0, kLanes + tile[i + 1].rows.count, first, 0, both, key);
      if (seen[longer].all > both)
        add_to_keys(at, tile[i + longer], longer * kLanes, tile[i + longer].rows.count, first, both, seen[longer].all, key);
    }
  }

  // dv and dk of the keys [begin, end) of the tile of keys at `first` += the rows from `lane` on, which begin at `tile`. Of each block of keys
  // those rows alone that may see its first.
  void add_to_keys(const Buffers& at, const Tile& tile, int64_t lane, int64_t rows, int64_t first, int64_t begin, int64_t end,
                   int64_t key) const {
    int64_t seen_by_all = tile.mask.first_limit - first, block = end - begin;
    if (seen_by_all < end) block = seen_by_all - begin >= kBlockRows ? seen_by_all - begin : kBlockRows;
    for (; begin < end; begin += block, block = kBlockRows) {
      const int64_t keys = least(block, end - begin), skip = tile.mask.first_to_see(first + begin, least(rows, kLanes)) / kTogether;
      const int64_t from = begin * kPairLanes + lane / kTogether + skip, to = (key + begin) * width_, count = steps(rows) - skip;
      multiply_add_columns(keys, width_, at.scores + from, kPairLanes, 1, tile.dout + skip * width_, width_, count, at.dv + to, width_);
      multiply_add_columns(keys, width_, at.dscores + from, kPairLanes, 1, tile.q + skip * width_, width_, count, at.dk + to, width_);
    }
  }

  void layout(Tile& tile, const Buffers& at, int64_t index) const {
    int64_t size = shape_.size;
    tile.q = at.q + index * steps(kLanes) * width_;
    tile.dout = at.dout + index * steps(kLanes) * width_;
    tile.q_transposed = at.tiles + index * at.tile_floats;
    tile.dout_transposed = tile.q_transposed + size * kLanes;
    tile.dq_transposed = tile.dout_transposed + size * kLanes;
    tile.lse = tile.dq_transposed + size * kLanes;
    tile.delta = tile.lse + kLanes;
  }

  // Asks for a share of the tile of keys from `first` on: all at once would fill the queue of outstanding loads.
  void prefetch_keys(int64_t b, int64_t g, int64_t first, int64_t end, int64_t share, int64_t shares) const {
    int64_t count = least(kKeyTile, end - first), from = count * share / shares, to = count * (share + 1) / shares;
    k_.prefetch(shape_, b, g, first + from, to - from);
    v_.prefetch(shape_, b, g, first + from, to - from);
  }
  void prefetch_key_gradients(int64_t b, int64_t g, int64_t first, int64_t count, int64_t share, int64_t shares) const {
    for (int64_t i = count * share / shares; i < count * (share + 1) / shares; ++i) {
      const int64_t at = shape_.key_offset(b, g, first + i);
      if (gradients_.dk) prefetch_row<2>(gradients_.dk + at, shape_.size);
      if (gradients_.dv) prefetch_row<2>(gradients_.dv + at, shape_.size);
    }
  }
  void prefetch_rows(const RowOffsets& rows) const {
    rows.prefetch(q_, shape_.size);
    rows.prefetch(dout_, shape_.size);
    rows.prefetch(out_, shape_.size);
  }

  void open(Tile& tile, int64_t b) const {
    int64_t size = shape_.size;
    const RowOffsets& rows = tile.rows;
    tile.mask.fill(shape_, b, rows, tile.delta + kLanes);
    pack_steps(rows, q_, size, query_factor(shape_), tile.q_transposed);
    pack_steps(rows, dout_, size, 1.0f, tile.dout_transposed);
    memset(tile.dq_transposed, 0, static_cast<size_t>(size * kLanes) * sizeof(float));
    for (int64_t lane = 0; lane < rows.count; ++lane) {
      const float *dout = dout_ + rows.element[lane], *out = out_ + rows.element[lane];
      if (lane % kTogether == 0) {
        copy_step(rows, lane, q_, tile.q + steps(lane) * width_);
        copy_step(rows, lane, dout_, tile.dout + steps(lane) * width_);
      }
      tile.delta[lane] = sum_over(size, [&](int64_t d, auto part) { return part.load(dout + d) * part.load(out + d); });
      float lse = lse_[rows.lse[lane]];
      // A row that saw no key has probabilities 0 and not e^(s + inf).
      tile.lse[lane] = lse == -HUGE_VALF ? HUGE_VALF : lse * kLog2e;
    }
    for (int64_t lane = rows.count; lane < kLanes; ++lane) {
      tile.delta[lane] = 0.0f;
      tile.lse[lane] = HUGE_VALF;
    }
  }

  // The rows of `base` that a sum along the rows takes together from `lane` on.
  void copy_step(const RowOffsets& rows, int64_t lane, const float* base, float* to) const {
    const float* row = base + rows.element[lane];
    if constexpr (kTogether == 2) pack_two_rows(row, lane + 1 < rows.count ? base + rows.element[lane + 1] : nullptr, shape_.size, to);
    else for_each_vector(shape_.size, [&](int64_t d, auto part) { store(to + d, part.load(row + d)); });
  }

  // Probabilities and their gradients of the tile of rows at `lane`, and what they add to dq.
  template <int vectors>
  void visit(const Buffers& at, Tile& tile, int64_t b, int64_t first, const SeenKeys& seen, int64_t lane) const {
    float *scores = at.scores + lane, *dscores = at.dscores + lane;
    const int64_t size = shape_.size, row = steps(size);
    const float factor = score_factor(shape_);
    multiply_seen<vectors, kScores>(seen, at.keys, row, tile.q_transposed, row, scores, kPairLanes, &factor);
    if (seen.masked) tile.mask.template apply<vectors>(shape_, b, first, seen, scores, kPairLanes);
    multiply_seen<vectors, Start::kZero>(seen, at.values, row, tile.dout_transposed, row, dscores, kPairLanes);
#if defined(__AVX512BF16__)
    pair_slopes<vectors>(at, tile, seen, lane);
    if (gradients_.dq) add_seen<vectors, Start::kAdd>(seen, size, at.key_columns, size, at.dscore_columns, kLanes, tile.dq_transposed);
#else
    slopes<vectors>(tile, seen, scores, dscores);
    add_seen<vectors, Start::kAdd>(seen, size, at.keys, size, dscores, kPairLanes, tile.dq_transposed);
#endif
  }

#if defined(__AVX512BF16__)
  // Probabilities and their gradients as pairs along the rows: where scores and dscores were, in the first half of all lanes those of the first tile
  // of rows and then those of the second. And the gradients as pairs along the keys.
  template <int vectors>
  void pair_slopes(const Buffers& at, const Tile& tile, const SeenKeys& seen, int64_t lane) const {
    int64_t j = 0;
    for (; j + 2 <= seen.first_vector; j += 2) pair_keys<0, vectors, 2>(at, tile, j, lane);
    if (j < seen.first_vector) return pair_keys<0, vectors, 1>(at, tile, j, lane);  // then these are all
    for (; j + 2 <= seen.all; j += 2) pair_keys<vectors - 1, vectors, 2>(at, tile, j, lane);
    if (j < seen.all) pair_keys<vectors - 1, vectors, 1>(at, tile, j, lane);
  }

  // Of one or two keys from j on, which the vectors of rows from `first` on see.
  template <int first, int vectors, int keys>
  void pair_keys(const Buffers& at, const Tile& tile, int64_t j, int64_t lane) const {
    Vec p[2][2], slope[2][2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        p[i][v] = slope[i][v] = splat(0.0f);
        if (i >= keys || v < first || v >= vectors) continue;
        const int64_t of_tile = v * Vec::width, offset = (j + i) * kPairLanes + lane + of_tile;
        p[i][v] = exp2_bounded(load(at.scores + offset) - load(tile.lse + of_tile));
        slope[i][v] = p[i][v] * (load(at.dscores + offset) - load(tile.delta + of_tile));
      }
#pragma GCC unroll 2
    for (int i = 0; i < keys; ++i) {
      const int64_t to = (j + i) * kPairLanes + lane / 2;
      store(at.scores + to, neighbours(p[i][0], p[i][1]));
      store(at.dscores + to, neighbours(slope[i][0], slope[i][1]));
    }
#pragma GCC unroll 2
    for (int v = first; v < vectors; ++v) store(at.dscore_columns + j / 2 * kLanes + v * Vec::width, interleaved(slope[0][v], slope[1][v]));
  }
#else
  // Probabilities and their gradients where scores and dscores were, [seen][kPairLanes].
  template <int vectors>
  void slopes(const Tile& tile, const SeenKeys& seen, float* scores, float* dscores) const {
    for (int v = 0; v < vectors; ++v) {
      int64_t lane = v * Vec::width, count = seen.by_vector(v, vectors);
      Vec lse = load(tile.lse + lane), delta = load(tile.delta + lane);
      for (int64_t j = 0; j < count; ++j) {
        float *score = scores + j * kPairLanes + lane, *dscore = dscores + j * kPairLanes + lane;
        Vec p = exp2_bounded(load(score) - lse);
        store(score, p);
        store(dscore, p * (load(dscore) - delta));
      }
      // Rows of both vectors are summed over together.
      for (int64_t j = count; j < seen.all; ++j) {
        store(scores + j * kPairLanes + lane, splat(0.0f));
        store(dscores + j * kPairLanes + lane, splat(0.0f));
      }
    }
  }
#endif

  void write_dq(const Tile& tile, int64_t part, bool any) const {
    float* to = parts_ == 1 ? gradients_.dq : partial_dq_ + part * query_elements(shape_);
    if (!any) {
      for (int64_t lane = 0; lane < tile.rows.count; ++lane)
        memset(to + tile.rows.element[lane], 0, static_cast<size_t>(shape_.size) * sizeof(float));
      return;
    }
    float scale[kLanes];
    for (float& lane : scale) lane = shape_.scale;
    unpack_transposed(tile.rows, to, shape_.size, tile.dq_transposed, scale);
  }

  void write_key(float* gradient, int64_t b, int64_t g, int64_t key, const float* sums, float scale) const {
    if (!gradient) return;
    float* to = gradient + shape_.key_offset(b, g, key);
    for_each_vector(shape_.size, [&](int64_t d, auto part) { part.store(to + d, load(sums + d) * splat(scale)); });
  }

  // In order of the parts, of which a query sees the first few.
  void add_partial_dq(Context& context) const {
    int64_t total = query_elements(shape_), row = shape_.heads * shape_.size, grain = 16384 / row + 1;
    int64_t count = shape_.batch * shape_.queries;
    context.parallel((count + grain - 1) / grain, [&](int64_t task) {
      for (int64_t query = task * grain; query < least(count, (task + 1) * grain); ++query) {
        int64_t visible = shape_.visible_to_query(query / shape_.queries, query % shape_.queries);
        int64_t parts = visible > part_keys_ ? (visible + part_keys_ - 1) / part_keys_ : 1;
        const float* from = partial_dq_ + query * row;
        for_each_vector(row, [&](int64_t i, auto lanes) {
          Vec sum = lanes.load(from + i);
          for (int64_t part = 1; part < parts; ++part) sum = sum + lanes.load(from + part * total + i);
          lanes.store(gradients_.dq + query * row + i, sum);
        });
      }
    });
  }

  AttentionShape shape_;
  const float *dout_, *q_;
  KeyValueSource k_, v_;
  const float *out_, *lse_;
  AttentionGradients gradients_;
  float* partial_dq_;
  int64_t width_;  // the head size rounded up to whole vectors
  int64_t parts_, part_keys_;
};

}  // namespace trefoil::cpu::TREFOIL_ISA
