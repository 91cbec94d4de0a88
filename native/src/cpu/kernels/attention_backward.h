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
        int64_t head = task / parts_;
        run_part(context, head / shape_.groups, head % shape_.groups, task % parts_);
      }
    });
    if (parts_ > 1 && gradients_.dq) add_partial_dq(context);
  }

 private:
  static constexpr int64_t kBlockRowTiles = 8;

  // Keys are split over tasks where there are few heads; each part then has a dq of its own, added up in order afterwards.
  static int64_t part_keys(const AttentionShape& shape) {
    int64_t heads = shape.batch * shape.groups;
    int64_t parts = least((32 + heads - 1) / heads, shape.keys / 256);
    parts = least(parts, (int64_t{32} << 20) / (query_elements(shape) + 1));  // at most 128 MiB of partial sums
    return parts > 1 ? round_up((shape.keys + parts - 1) / parts, kKeyTile) : shape.keys;
  }
  static int64_t part_count(const AttentionShape& shape) {
    return shape.keys == 0 ? 1 : (shape.keys + part_keys(shape) - 1) / part_keys(shape);
  }
  static int64_t query_elements(const AttentionShape& shape) { return shape.batch * shape.queries * shape.heads * shape.size; }

  // Lanes of queries; the transposed copies feed products along the head, the plain ones products along the queries.
  struct Tile {
    RowOffsets rows;
    float *q_transposed, *dout_transposed, *dq_transposed;  // [size][kLanes]; q is multiplied by scale * log2 e
    float *q, *dout;                                        // [rows][width_]
    float *lse, *delta;                                     // [kLanes]; lse in units of log 2
    LaneMask mask;
  };

  struct Buffers {
    float *keys, *values;         // [kKeyTile][size]
    float *scores, *dscores;      // [kKeyTile][kLanes]
    float *dk, *dv;               // [part_keys_][width_]
    float *tiles;
    int64_t tile_floats;
  };

  Buffers buffers(Context& context) const {
    int64_t size = shape_.size;
    Buffers at;
    at.tile_floats = 3 * size * kLanes + 2 * kLanes * width_ + 2 * kLanes + LaneMask::kFloats;
    at.keys = static_cast<float*>(context.scratch(1, static_cast<size_t>(2 * kKeyTile * size) * sizeof(float)));
    at.values = at.keys + kKeyTile * size;
    at.scores = static_cast<float*>(context.scratch(2, sizeof(float) * 2 * kKeyTile * kLanes));
    at.dscores = at.scores + kKeyTile * kLanes;
    at.dk = static_cast<float*>(context.scratch(3, static_cast<size_t>(2 * part_keys_ * width_) * sizeof(float)));
    at.dv = at.dk + part_keys_ * width_;
    at.tiles = static_cast<float*>(context.scratch(0, static_cast<size_t>(kBlockRowTiles * at.tile_floats) * sizeof(float)));
    return at;
  }

  void run_part(Context& context, int64_t b, int64_t g, int64_t part) const {
    Buffers at = buffers(context);
    int64_t begin = part * part_keys_, end = least(shape_.keys, begin + part_keys_), rows = shape_.rows;
    memset(at.dk, 0, static_cast<size_t>(2 * part_keys_ * width_) * sizeof(float));
    for (int64_t block = 0; block < rows; block += kBlockRowTiles * kLanes) {
      int64_t block_rows = least(kBlockRowTiles * kLanes, rows - block), tiles = (block_rows + kLanes - 1) / kLanes;
      int64_t visible = least(end, shape_.visible(b, block + block_rows - 1));
      Tile tile[kBlockRowTiles];
      for (int64_t i = 0; i < tiles; ++i) {
        tile[i].rows = RowOffsets(shape_, b, g, block + i * kLanes, least(kLanes, block_rows - i * kLanes));
        layout(tile[i], at.tiles + i * at.tile_floats);
      }
      if (visible > begin) {
        prefetch_keys(b, g, begin, visible);
        prefetch_rows(tile[0]);
      }
      for (int64_t i = 0; i < tiles && visible > begin; ++i) {
        if (i + 1 < tiles) prefetch_rows(tile[i + 1]);
        open(tile[i], b);
      }
      for (int64_t first = begin; first < visible; first += kKeyTile)
        visit_keys(at, tile, tiles, b, g, first, visible, begin);
      if (!gradients_.dq) continue;
      for (int64_t i = 0; i < tiles; ++i) write_dq(tile[i], part, visible > begin);
    }
    for (int64_t key = begin; key < end; ++key) {
      write_key(gradients_.dk, b, g, key, at.dk + (key - begin) * width_, shape_.scale);
      write_key(gradients_.dv, b, g, key, at.dv + (key - begin) * width_, 1.0f);
    }
  }

  void visit_keys(const Buffers& at, Tile* tile, int64_t tiles, int64_t b, int64_t g, int64_t first, int64_t end, int64_t begin) const {
    int64_t count = least(kKeyTile, end - first);
    bool copied = false;
    for (int64_t i = 0; i < tiles; ++i) {
      bool masked = false;
      int64_t seen = tile[i].mask.visible_keys(shape_, b, first, count, masked);
      if (seen == 0) continue;
      if (!copied) {
        k_.copy(shape_, b, g, first, count, at.keys, shape_.size);
        v_.copy(shape_, b, g, first, count, at.values, shape_.size);
        prefetch_keys(b, g, first + kKeyTile, end);
        copied = true;
      }
      if (tile[i].rows.count > Vec::width)
        visit<2>(at, tile[i], b, first, seen, masked, first - begin);
      else
        visit<1>(at, tile[i], b, first, seen, masked, first - begin);
    }
  }

  void layout(Tile& tile, float* storage) const {
    int64_t size = shape_.size;
    tile.q_transposed = storage;
    tile.dout_transposed = tile.q_transposed + size * kLanes;
    tile.dq_transposed = tile.dout_transposed + size * kLanes;
    tile.q = tile.dq_transposed + size * kLanes;
    tile.dout = tile.q + kLanes * width_;
    tile.lse = tile.dout + kLanes * width_;
    tile.delta = tile.lse + kLanes;
  }

  void prefetch_keys(int64_t b, int64_t g, int64_t first, int64_t end) const {
    k_.prefetch(shape_, b, g, first, least(kKeyTile, end - first));
    v_.prefetch(shape_, b, g, first, least(kKeyTile, end - first));
  }
  void prefetch_rows(const Tile& tile) const {
    tile.rows.prefetch(q_, shape_.size);
    tile.rows.prefetch(dout_, shape_.size);
    tile.rows.prefetch(out_, shape_.size);
  }

  void open(Tile& tile, int64_t b) const {
    int64_t size = shape_.size;
    const RowOffsets& rows = tile.rows;
    tile.mask.fill(shape_, b, rows, tile.delta + kLanes);
    pack_transposed(rows, q_, size, shape_.scale * kLog2e, tile.q_transposed);
    pack_transposed(rows, dout_, size, 1.0f, tile.dout_transposed);
    memset(tile.dq_transposed, 0, static_cast<size_t>(size * kLanes) * sizeof(float));
    for (int64_t lane = 0; lane < rows.count; ++lane) {
      const float *dout = dout_ + rows.element[lane], *out = out_ + rows.element[lane];
      copy_row(q_ + rows.element[lane], tile.q + lane * width_);
      copy_row(dout, tile.dout + lane * width_);
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

  void copy_row(const float* from, float* to) const {
    for_each_vector(shape_.size, [&](int64_t d, auto part) { store(to + d, part.load(from + d)); });
  }

  template <int vectors>
  void visit(const Buffers& at, Tile& tile, int64_t b, int64_t first, int64_t count, bool masked, int64_t key) const {
    int64_t size = shape_.size;
    multiply<vectors, Start::kZero>(count, at.keys, size, 1, tile.q_transposed, kLanes, size, at.scores, kLanes);
    if (masked) tile.mask.template apply<vectors>(shape_, b, first, count, at.scores);
    multiply<vectors, Start::kZero>(count, at.values, size, 1, tile.dout_transposed, kLanes, size, at.dscores, kLanes);
    for (int v = 0; v < vectors; ++v) {
      int64_t lane = v * Vec::width;
      Vec lse = load(tile.lse + lane), delta = load(tile.delta + lane);
      for (int64_t j = 0; j < count; ++j) {
        float *score = at.scores + j * kLanes + lane, *dscore = at.dscores + j * kLanes + lane;
        Vec p = exp2_bounded(load(score) - lse);
        store(score, p);
        store(dscore, p * (load(dscore) - delta));
      }
    }
    multiply_add_columns(count, width_, at.scores, kLanes, 1, tile.dout, width_, tile.rows.count, at.dv + key * width_, width_);
    multiply_add_columns(count, width_, at.dscores, kLanes, 1, tile.q, width_, tile.rows.count, at.dk + key * width_, width_);
    multiply<vectors, Start::kAdd>(size, at.keys, 1, size, at.dscores, kLanes, count, tile.dq_transposed, kLanes);
  }

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

  void add_partial_dq(Context& context) const {
    int64_t total = query_elements(shape_);
    constexpr int64_t piece = 16384;
    context.parallel((total + piece - 1) / piece, [&](int64_t task) {
      int64_t begin = task * piece;
      for_each_vector(least(piece, total - begin), [&](int64_t i, auto lanes) {
        Vec sum = lanes.load(partial_dq_ + begin + i);
        for (int64_t part = 1; part < parts_; ++part) sum = sum + lanes.load(partial_dq_ + part * total + begin + i);
        lanes.store(gradients_.dq + begin + i, sum);
      });
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
