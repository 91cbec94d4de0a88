// How one product is cut into tasks. Depends on the problem alone.
#pragma once
#include "bf16_products.h"
#include "gemm.h"
#include "microkernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

enum class Method {
  dot,     // few rows or columns, b transposed: dot products over k, nothing packed
  stream,  // few rows: b is read once, row by row, nothing packed
  local,   // each task packs its columns of b and takes every row of a
  shared,  // b is packed once for all, then tasks take tiles of C
};

struct Range {
  int64_t first, count;
};

// A dimension cut into tiles: large ones, and where threads would wait for each other at the end, smaller ones after them.
constexpr int kLevels = 3;
struct Cut {
  int64_t tile[kLevels], count[kLevels];
  int64_t tiles() const { return count[0] + count[1] + count[2]; }
  Range at(int64_t index, int64_t size) const {
    int64_t first = 0;
    int level = 0;
    for (; level + 1 < kLevels && index >= count[level]; ++level) {
      index -= count[level];
      first += count[level] * tile[level];
    }
    first += index * tile[level];
    return {first, size - first < tile[level] ? size - first : tile[level]};
  }
};

struct Plan {
  Method method;
  int64_t depth, depth_blocks;    // k is cut into blocks of `depth`
  Cut rows, columns;              // one of them has a single level
  int64_t splits;                 // > 1: partial sums over parts of the depth blocks, added in order at the end
  int64_t packed;                 // where its packed B starts, floats
  int64_t pack_first;             // index of this product's first packing task
  int64_t task_first[kLevels];    // and of its first task of each size: all products' large tasks run before anyone's small ones
};

// k per block: a panel of A (kTileRows x depth) should stay in L1 while panels of B stream past it. A k that fits one block
// needs no second pass over C, and rows of A need no packing. An A that is read as stored comes from L2 all the same, so its blocks are longer.
constexpr int64_t kWholeDepth = 512, kDepth = 320;
constexpr int64_t kStoredWholeDepth = 1024, kStoredDepth = 512;
constexpr int64_t kBlockFloats = 96 * 1024;            // a strip of packed B, in L2
constexpr int64_t kCachedFloats = 384 * 1024;          // all of A, or of C, between L2 and L3
constexpr int64_t kSharedFloats = 1024 * 1024;         // a whole packed B, in L3
constexpr int64_t kPackColumns = 4 * kTileColumns;     // columns in a packing task
// At most this many rows or columns take Method::dot.
#if defined(TREFOIL_ISA_AVX512) || defined(TREFOIL_ISA_NEON)
constexpr int64_t kDotRows = 64, kDotColumns = 8;
#else
constexpr int64_t kDotRows = 12, kDotColumns = 8;
#endif
constexpr int64_t kFewColumns = 1024;
constexpr int64_t kStreamDepth = 64, kStreamColumns = 512;  // of B, that Method::stream reads before C is stored
constexpr int64_t kLocalRows = 16 * kTileRows;         // at most this many rows take Method::local
constexpr int64_t kSplits = 16;
constexpr double kTaskWork = 1 << 19;                  // multiply-adds worth a task of its own
constexpr int64_t kTasks = 16;                         // tasks to aim for
constexpr int64_t kBlockRows = 16 * kTileRows;         // rows of A packed at once, in L2 beside a strip of B

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

// Evenly cuts `size` into tiles of at most `tile`, a multiple of `unit`.
inline int64_t even_tile(int64_t size, int64_t tile, int64_t unit) {
  return round_up(ceil_div(size, ceil_div(size, at_least(tile, unit))), unit);
}

// Columns of packed B to a block that stays in L2.
inline int64_t strip_columns(int64_t depth) { return at_least(kBlockFloats / depth / kTileColumns * kTileColumns, kTileColumns); }

inline Cut even_cut(int64_t size, int64_t tile) { return {{tile, 0, 0}, {ceil_div(size, tile), 0, 0}}; }

// Three quarters in tiles of `tile`, then tiles of a quarter of that where every thread gets equally many; else three quarters of the rest,
// and a quarter again: nobody waits for long.
inline Cut tapered_cut(int64_t size, int64_t tile, int64_t unit, int64_t threads) {
  Cut cut{};
  int64_t left = size;
  for (int level = 0; level < kLevels; ++level) {
    const bool even = level > 0 && left % (tile * threads) == 0;
    cut.tile[level] = tile;
    cut.count[level] = even || tile <= unit || level + 1 == kLevels ? ceil_div(left, tile) : left * 3 / 4 / tile;
    left -= at_most(left, cut.count[level] * tile);
    tile = round_up(ceil_div(tile, 4), unit);
  }
  return cut;
}

// As many tiles of `tile` as every thread gets equally many of, and what is left in one for each.
inline Cut shared_out_cut(int64_t size, int64_t tile, int64_t unit, int64_t threads) {
  Cut cut{};
  cut.tile[0] = cut.tile[2] = tile;
  cut.count[0] = size / tile / threads * threads;
  int64_t left = size - cut.count[0] * tile;
  cut.tile[1] = at_least(round_up(ceil_div(left, threads), unit), unit);
  cut.count[1] = ceil_div(left, cut.tile[1]);
  return cut;
}

// Floats, or pairs of bf16, that a block of k takes of each row and column.
inline int64_t steps(const Gemm& g, int64_t depth) { return g.rounded ? pairs(depth) : depth; }

inline int64_t packed_floats(const Gemm& g) { return steps(g, g.k) * round_up(g.n, kTileColumns); }

inline double multiply_adds(const Gemm& g) { return static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k); }

// Whether tiles of more than kWholeDepth may read a where it lies: its rows are no multiple of 2 KiB apart, which would give the lines of
// a tile two sets of L1 or one.
inline bool stays_apart(const Matrix& a) { return !a.bf16 && !a.rows && a.stride % 512 != 0; }

// An a that is read where it lies: of one block of k, or one that too few columns of b pass by to be worth packing, or by columns of which a
// task takes all it has.
inline bool reads_a_directly(const Gemm& g, const Plan& plan) {
  if (g.a.bf16 || g.a.rows || g.rounded) return false;
  return plan.depth_blocks == 1 || (stays_apart(g.a) && g.n <= kFewColumns) || (g.a.transposed && plan.method == Method::local);
}

// A transposed b whose columns are packed a few at a time while those that follow are fetched. Rows of a pass by again for each of them.
inline bool reads_b_in_strips(const Gemm& g, const Plan& plan) {
  return plan.method == Method::local && plan.splits == 1 && g.b.transposed && !g.b.bf16 && g.m >= kTileRows && g.m * g.k <= kCachedFloats &&
         reads_a_directly(g, plan);
}

// Columns alone give tasks enough, and every row of such a strip of C stays in L2 from one block of k to the next. Rows that must
// be packed would be packed by every task again: rather b once for all, where it is small.
inline bool wide_enough(const Gemm& g, const Plan& plan, int64_t wanted, int64_t widest) {
  int64_t columns = at_most(g.n / wanted, widest);
  bool packs_again = !reads_a_directly(g, plan) && packed_floats(g) <= kSharedFloats;
  return columns >= 192 && ((plan.depth_blocks == 1 && !packs_again) || g.m * columns <= kBlockFloats);
}

// Rows of a that every task can read where they lie, out of a cache, while it packs a few columns of b for itself: nobody waits for
// a common copy of b. Only where C stays there too: strips of a larger one are slow to write.
inline bool keeps_a_in_cache(const Gemm& g, const Plan& plan) {
  return plan.depth_blocks == 1 && reads_a_directly(g, plan) && g.m * g.k <= kCachedFloats && g.m * g.n <= kCachedFloats && g.n >= 6 * kTileColumns;
}

// `count` products run together, `total` multiply-adds in all. Threads only bear on the size of tiles, which no sum depends on.
inline Plan make_plan(const Gemm& g, int64_t count, double total, int threads) {
  Plan plan{};
  plan.splits = 1;
  if (g.m == 0 || g.n == 0) return plan;  // no tasks
  const bool apart = stays_apart(g.a) && !g.rounded;
  const bool whole = steps(g, g.k) <= (apart ? kStoredWholeDepth : kWholeDepth);
  plan.depth_blocks = whole ? 1 : ceil_div(steps(g, g.k), apart && g.n <= kFewColumns ? kStoredDepth : kDepth);
  plan.depth = at_least(round_up(ceil_div(g.k, plan.depth_blocks), 8), 8);
  plan.depth_blocks = at_least(ceil_div(g.k, plan.depth), 1);
  // As many tasks as this product's share of the work, but none too small to be worth handing out.
  double work = multiply_adds(g), share = total > 0 ? kTasks * work / total : 0, worth = work / kTaskWork;
  int64_t wanted = at_least(static_cast<int64_t>(share < worth ? share + 0.999 : worth), 1);
  plan.rows = even_cut(g.m, g.m);
  plan.columns = even_cut(g.n, g.n);
  const bool can_split = count == 1 && !g.accumulate && plan.depth_blocks > 1;
  const int64_t widest = strip_columns(steps(g, plan.depth));

  if ((g.b.transposed && g.m <= kDotRows) || (g.n <= kDotColumns && g.m > kDotRows && !g.a.transposed && !g.b.rows)) {
    plan.method = Method::dot;
    // Reading b or a bounds the time: a task's share is worth 32 Ki elements at least.
    int64_t parts = at_least(at_most(ceil_div(at_least(g.m, g.n) * g.k, 32 * 1024), 2 * kTasks), 1);
    if (g.m > g.n) plan.rows = even_cut(g.m, even_tile(g.m, ceil_div(g.m, parts), 8));
    else plan.columns = even_cut(g.n, even_tile(g.n, ceil_div(g.n, parts), 8));
  } else if (!g.b.transposed && !g.b.rows && g.m <= kTileRows) {
    plan.method = Method::stream;
    // C stays in L1, and runs along the rows of b are long enough for the memory.
    plan.columns = even_cut(g.n, even_tile(g.n, kStreamColumns, 128));
    int64_t parts = at_most(g.n * g.k / (64 * 1024), kTasks) / plan.columns.tiles();
    if (count == 1 && !g.accumulate) plan.splits = at_least(at_most(parts, g.k / (16 * g.m)), 1);
  } else if (can_split && g.k >= 8192 && g.m * g.n <= 1 << 18) {
    // A small C under a long k (weight gradients over many rows): cutting k packs both operands once.
    plan.method = Method::local;
    plan.columns = even_cut(g.n, even_tile(g.n, at_least(widest, 16 * kTileColumns), kTileColumns));
    plan.splits = at_most(g.k / 1024, kSplits);
  } else if (g.m <= kLocalRows || count >= 4 * kTasks || wide_enough(g, plan, wanted, widest) || keeps_a_in_cache(g, plan)) {
    plan.method = Method::local;
    // Strips give tasks enough without partial sums, where there are some columns.
    const bool splits = can_split && !(g.n >= 8 * kTileColumns && reads_b_in_strips(g, plan));
    int64_t columns = at_least(ceil_div(g.n, wanted), splits ? 4 * kTileColumns : 1);
    int64_t tile = even_tile(g.n, at_most(columns, widest), kTileColumns), tiles = ceil_div(g.n, tile);
    if (splits) plan.splits = at_least(at_most(at_most(wanted / tiles, plan.depth_blocks), kSplits), 1);
    if (plan.splits > 1 && plan.splits * tiles % threads != 0)
      tile = at_least(even_tile(g.n, ceil_div(g.n, at_least(tiles / threads, 1) * threads), Vec::width), kTileColumns);
    plan.columns = plan.splits > 1 || tiles < threads ? even_cut(g.n, tile) : shared_out_cut(g.n, tile, Vec::width, threads);
  } else {
    plan.method = Method::shared;
    // Whole rows of C, so that A is packed once; narrower only where there are too few rows to go round.
    int64_t rows = kBlockRows, columns = g.n;
    wanted = at_most(wanted, at_least(ceil_div(wanted * 3 * threads, kTasks), 1));
    while (ceil_div(g.m, rows) * ceil_div(g.n, columns) < wanted) {
      if (rows > 4 * kTileRows) rows -= kTileRows;
      else if (columns > 8 * kTileColumns) columns = round_up(ceil_div(columns, 2), kTileColumns);
      else if (rows > kTileRows) rows -= kTileRows;
      else break;
    }
    plan.rows = tapered_cut(g.m, rows, kTileRows, threads);
    plan.columns = even_cut(g.n, columns);
  }
  return plan;
}

// Tasks of one size, of every part of k. Within a size, tiles of a row lie side by side.
inline int64_t task_count(const Plan& plan, int level) {
  return plan.splits * (plan.rows.count[1] + plan.rows.count[2] > 0 ? plan.rows.count[level] * plan.columns.tiles()
                                                                    : plan.rows.tiles() * plan.columns.count[level]);
}

struct Tile {
  int64_t split;
  Range rows, columns;
};
// Task `index` of those of this size.
inline Tile tile_of(const Gemm& g, const Plan& plan, int level, int64_t index) {
  const int64_t tiles = task_count(plan, level) / plan.splits, tile = index % tiles;
  int64_t row_first = 0, column_first = 0, across = plan.columns.tiles();
  if (plan.rows.count[1] + plan.rows.count[2] > 0) {
    for (int l = 0; l < level; ++l) row_first += plan.rows.count[l];
  } else {
    for (int l = 0; l < level; ++l) column_first += plan.columns.count[l];
    across = plan.columns.count[level];
  }
  return {index / tiles, plan.rows.at(row_first + tile / across, g.m), plan.columns.at(column_first + tile % across, g.n)};
}

}  // namespace trefoil::cpu::TREFOIL_ISA
