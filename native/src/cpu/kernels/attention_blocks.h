// The pieces that attention is made of: a small matrix product on tiles in cache, packing, and the sizes of one launch.
#pragma once
#include "../rows.h"
#include "bf16_pairs.h"

namespace trefoil::cpu::TREFOIL_ISA {

constexpr float kLog2e = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;

// Queries sit in vector lanes, two vectors to a tile; keys and head elements are walked as scalars. A row maximum or sum is
// then a plain vector operation, and neither K nor V is ever transposed.
constexpr int kLanes = 2 * Vec::width;
constexpr int kKeyTile = 64;

#if defined(TREFOIL_ISA_AVX512) || defined(TREFOIL_ISA_NEON)
constexpr int kBlockRows = 8;  // 8 x 2 accumulators of 32 registers
#else
constexpr int kBlockRows = 6;  // 6 x 2 accumulators of 16 registers
#endif

// Neighbours in a sum that one step of a product takes: pairs of bf16 where this is compiled for instructions that multiply them, else single f32.
// Operands then are rounded, and exponentials before they are multiplied; all else is f32. The decode path multiplies f32.
#if defined(__AVX512BF16__)
constexpr int kTogether = 2;
#else
constexpr int kTogether = 1;
#endif
constexpr int64_t steps(int64_t terms) { return kTogether == 2 ? pairs(terms) : terms; }
inline Vec multiply_add(Vec left, Vec right, Vec sum) {
  if constexpr (kTogether == 2) return add_products(sum, left, right);
  else return fma(left, right, sum);
}

enum class Start { kZero, kAdd, kScale, kZeroThenScale };

// c[i][lane] = start + sum over steps t of a[i * a_row + t * a_step] * b[t * b_step + lane]. kAdd starts from c, kScale from c * scale[lane];
// kZeroThenScale multiplies the sum by *scale.
template <int rows, int vectors, Start start>
inline void multiply_block(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t count, float* c,
                           int64_t c_row, const float* scale) {
  constexpr int width = Vec::width;
  Vec sums[rows][vectors];
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      sums[i][v] = start == Start::kZero || start == Start::kZeroThenScale ? splat(0.0f) : load(c + i * c_row + v * width);
      if (start == Start::kScale) sums[i][v] = sums[i][v] * load(scale + v * width);
    }
  for (int64_t t = 0; t < count; ++t) {
    Vec right[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) right[v] = load(b + v * width);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      Vec left = splat(a[i * a_row]);
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sums[i][v] = multiply_add(left, right[v], sums[i][v]);
    }
    a += a_step;
    b += b_step;
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) store(c + i * c_row + v * width, start == Start::kZeroThenScale ? sums[i][v] * splat(*scale) : sums[i][v]);
}

// multiply_block over any number of rows.
template <int vectors, Start start>
inline void multiply(int64_t rows, const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step, int64_t count,
                     float* c, int64_t c_row, const float* scale = nullptr) {
  int64_t i = 0;
  for (; i + kBlockRows <= rows; i += kBlockRows)
    multiply_block<kBlockRows, vectors, start>(a + i * a_row, a_row, a_step, b, b_step, count, c + i * c_row, c_row, scale);
  for (; i + 4 <= rows; i += 4)
    multiply_block<4, vectors, start>(a + i * a_row, a_row, a_step, b, b_step, count, c + i * c_row, c_row, scale);
  for (; i < rows; ++i)
    multiply_block<1, vectors, start>(a + i * a_row, a_row, a_step, b, b_step, count, c + i * c_row, c_row, scale);
}

// c[rows][columns] += a b with columns, a multiple of the vector width, along the lanes.
inline void multiply_add_columns(int64_t rows, int64_t columns, const float* a, int64_t a_row, int64_t a_step, const float* b,
                                 int64_t b_step, int64_t count, float* c, int64_t c_row) {
  int64_t j = 0;
  for (; j + kLanes <= columns; j += kLanes)
    multiply<2, Start::kAdd>(rows, a, a_row, a_step, b + j, b_step, count, c + j, c_row);
  if (j < columns) multiply<1, Start::kAdd>(rows, a, a_row, a_step, b + j, b_step, count, c + j, c_row);
}

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// One launch. A "row" is one query of one query head; the rows of a key-value head are ordered by query, then by head, so that
// neighbours see nearly the same keys.
struct AttentionShape {
  int64_t batch, queries, keys, heads, groups, size;  // groups: key-value heads; size: head size
  int64_t share, rows;                                // query heads and rows per key-value head
  bool causal;
  float scale;
  const int32_t* key_lengths;
  const int32_t* segments;

  AttentionShape(const TrefoilView& q, const TrefoilView& k, const double* attributes)
      : batch(q.shape[0]), queries(q.shape[1]), keys(k.shape[1]), heads(q.shape[2]), groups(k.shape[2]), size(q.shape[3]),
        share(heads / groups), rows(queries * share), causal(attributes[0] != 0), scale(static_cast<float>(attributes[1])),
        key_lengths(nullptr), segments(nullptr) {}

  // Reads the optional inputs at `first`; a key length outside [0, keys] is an error.
  void read_masks(const char* op, const TrefoilLaunch& launch, int first) {
    if (launch.input_count > first) key_lengths = data<int32_t>(launch.inputs[first]);
    if (launch.input_count > first + 1) segments = data<int32_t>(launch.inputs[first + 1]);
    if (!key_lengths) return;
    for (int64_t b = 0; b < batch; ++b)
      if (key_lengths[b] < 0 || key_lengths[b] > keys)
        fail(TREFOIL_INDEX_OUT_OF_RANGE, "%s: key_lengths[%lld] is %d, outside [0, %lld], the keys there are", op,
             static_cast<long long>(b), key_lengths[b], static_cast<long long>(keys));
  }

  int64_t key_length(int64_t b) const { return key_lengths ? key_lengths[b] : keys; }
  // How many keys, from the first, a query may see.
  int64_t visible_to_query(int64_t b, int64_t query) const {
    int64_t n = key_length(b);
    if (!causal) return n;
    int64_t seen = n - queries + query + 1;
    return seen < 0 ? 0 : least(seen, n);
  }
  int64_t visible(int64_t b, int64_t row) const { return visible_to_query(b, row / share); }
  int64_t key_offset(int64_t b, int64_t g, int64_t key) const { return ((b * keys + key) * groups + g) * size; }
};

// Where the rows [first, first + count) of a key-value head lie; count is at most kLanes.
struct RowOffsets {
  int64_t count;
  int32_t query[kLanes];
  int64_t element[kLanes];  // in q, out and their gradients
  int64_t lse[kLanes];

  RowOffsets() = default;
  RowOffsets(const AttentionShape& shape, int64_t b, int64_t g, int64_t first, int64_t count) : count(count) {
    int64_t at = first / shape.share, head = first % shape.share;
    for (int64_t i = 0; i < count; ++i) {
      query[i] = static_cast<int32_t>(at);
      element[i] = ((b * shape.queries + at) * shape.heads + g * shape.share + head) * shape.size;
      lse[i] = (b * shape.heads + g * shape.share + head) * shape.queries + at;
      if (++head == shape.share) {
        head = 0;
        ++at;
      }
    }
  }

  void prefetch(const float* base, int64_t size) const {
    for (int64_t i = 0; i < count; ++i) prefetch_row<2>(base + element[i], size);
  }
};

// Rows of a key-value head that are wanted next. They are asked for in shares between products: a head's rows lie far apart, where the hardware
// does not look ahead, and all at once would fill the queue of outstanding loads.
struct NextRows {
  int64_t b = 0, g = 0, first = 0, count = 0;

  // prefetch(rows) for share `index` of `of`.
  template <class Prefetch>
  void share(const AttentionShape& shape, int64_t index, int64_t of, const Prefetch& prefetch) const {
    const int64_t end = first + count * (index + 1) / of;
    for (int64_t row = first + count * index / of; row < end; row += kLanes) prefetch(RowOffsets(shape, b, g, row, least(kLanes, end - row)));
  }
};

// k or v: f32, or bf16 that is widened on load.
struct KeyValueSource {
  const void* data;
  bool bf16;
  explicit KeyValueSource(const TrefoilView& view) : data(view.data), bf16(view.dtype == TREFOIL_BF16) {}

  // Asks for keys [first, first + count): a head's rows lie far apart, where the hardware does not look ahead.
  void prefetch(const AttentionShape& shape, int64_t b, int64_t g, int64_t first, int64_t count) const {
    int64_t bytes = bf16 ? 2 : 4;
    for (int64_t i = 0; i < count; ++i)
      prefetch_row<2>(static_cast<const char*>(data) + shape.key_offset(b, g, first + i) * bytes, shape.size * bytes);
  }

  // tile[i] [stride] = keys first + i, zero from size to stride.
  void copy(const AttentionShape& shape, int64_t b, int64_t g, int64_t first, int64_t count, float* tile, int64_t stride) const {
    for (int64_t i = 0; i < count; ++i) {
      int64_t from = shape.key_offset(b, g, first + i);
      float* to = tile + i * stride;
      int64_t d = 0;
      if (bf16) {
        const uint16_t* row = static_cast<const uint16_t*>(data) + from;
        for (; d + Vec::width <= shape.size; d += Vec::width) store(to + d, load_bf16(row + d));
        for (; d < shape.size; ++d) to[d] = bf16_to_f32(row[d]);
      } else {
        const float* row = static_cast<const float*>(data) + from;
        for_each_vector(shape.size, [&](int64_t e, auto lanes) { lanes.store(to + e, lanes.load(row + e)); });
        d = shape.size;
      }
      for (; d < stride; ++d) to[d] = 0.0f;
    }
  }

  // tile[i] [steps(size)] = key first + i, for sums along the head.
  void copy_rows(const AttentionShape& shape, int64_t b, int64_t g, int64_t first, int64_t count, float* tile) const {
    if constexpr (kTogether == 1) return copy(shape, b, g, first, count, tile, shape.size);
    for (int64_t i = 0; i < count; ++i, tile += steps(shape.size)) {
      const int64_t from = shape.key_offset(b, g, first + i);
      if (bf16) pack_row(static_cast<const uint16_t*>(data) + from, shape.size, tile);
      else pack_row(static_cast<const float*>(data) + from, shape.size, tile);
    }
  }
  // tile[i] [size], steps(count) of them, for sums along the keys.
  void copy_columns(const AttentionShape& shape, int64_t b, int64_t g, int64_t first, int64_t count, float* tile) const {
    if constexpr (kTogether == 1) return copy(shape, b, g, first, count, tile, shape.size);
    const int64_t next = shape.groups * shape.size;
    for (int64_t i = 0; i < count; i += 2, tile += shape.size) {
      const int64_t from = shape.key_offset(b, g, first + i);
      const auto pack = [&](const auto* row) { pack_two_rows(row, i + 1 < count ? row + next : nullptr, shape.size, tile); };
      if (bf16) pack(static_cast<const uint16_t*>(data) + from);
      else pack(static_cast<const float*>(data) + from);
    }
  }
};

// to[d * kLanes + lane] = base[rows.element[lane] + d] * factor; the lanes past the rows, up to a whole vector, become 0.
inline void pack_transposed(const RowOffsets& rows, const float* base, int64_t size, float factor, float* to) {
  constexpr int width = Vec::width;
  for (int64_t lane = 0; lane < rows.count; lane += width)
    for_each_vector(size, [&](int64_t d, auto part) {
      Vec block[width];
      if (lane + width <= rows.count) {
#pragma GCC unroll 16
        for (int i = 0; i < width; ++i) block[i] = part.load(base + rows.element[lane + i] + d) * splat(factor);
      } else {
        for (int i = 0; i < width; ++i)
          block[i] = lane + i < rows.count ? part.load(base + rows.element[lane + i] + d) * splat(factor) : splat(0.0f);
      }
      transpose(block);
      if (d + width <= size) {
#pragma GCC unroll 16
        for (int i = 0; i < width; ++i) store(to + (d + i) * kLanes + lane, block[i]);
      } else {
        for (int64_t i = 0; i < size - d; ++i) store(to + (d + i) * kLanes + lane, block[i]);
      }
    });
}

// The same for sums along the head, steps(size) times [kLanes]; pairs of the numbers as they are.
inline void pack_steps(const RowOffsets& rows, const float* base, int64_t size, float factor, float* to) {
#if defined(__AVX512BF16__)
  constexpr int width = Vec::width;
  for (int64_t lane = 0; lane < rows.count; lane += width)
    for (int64_t d = 0; d < size; d += 2 * width) {
      Vec block[width];
      for (int i = 0; i < width; ++i)
        block[i] = lane + i < rows.count ? load_pairs_of_row(base + rows.element[lane + i] + d, size - d) : splat(0.0f);
      transpose(block);
      const int64_t first = d / 2, count = least(width, steps(size) - first);
      for (int64_t i = 0; i < count; ++i) store(to + (first + i) * kLanes + lane, block[i]);
    }
#else
  pack_transposed(rows, base, size, factor, to);
#endif
}

// Scores are in units of log 2: queries are multiplied by this before they are packed, or, where they are rounded, their products with the keys.
inline float score_factor(const AttentionShape& shape) { return shape.scale * kLog2e; }
inline float query_factor(const AttentionShape& shape) { return kTogether == 1 ? score_factor(shape) : 1.0f; }
constexpr Start kScores = kTogether == 1 ? Start::kZero : Start::kZeroThenScale;

// base[rows.element[lane] + d] = from[d * kLanes + lane] * scale[lane].
inline void unpack_transposed(const RowOffsets& rows, float* base, int64_t size, const float* from, const float* scale) {
  constexpr int width = Vec::width;
  for (int64_t lane = 0; lane < rows.count; lane += width) {
    Vec factor = load(scale + lane);
    for_each_vector(size, [&](int64_t d, auto part) {
      Vec block[width];
      if (d + width <= size) {
#pragma GCC unroll 16
        for (int i = 0; i < width; ++i) block[i] = load(from + (d + i) * kLanes + lane) * factor;
      } else {
        for (int i = 0; i < width; ++i) block[i] = d + i < size ? load(from + (d + i) * kLanes + lane) * factor : splat(0.0f);
      }
      transpose(block);
      if (lane + width <= rows.count) {
#pragma GCC unroll 16
        for (int i = 0; i < width; ++i) part.store(base + rows.element[lane + i] + d, block[i]);
      } else {
        for (int64_t i = 0; i < rows.count - lane; ++i) part.store(base + rows.element[lane + i] + d, block[i]);
      }
    });
  }
}

}  // namespace trefoil::cpu::TREFOIL_ISA
