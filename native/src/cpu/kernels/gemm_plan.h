// How one product is cut into tasks. Depends on the problem alone.
#pragma once
#include "gemm.h"
#include "microkernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

enum class Method {
  dot,     // few rows or columns, b transposed: dot products over k, nothing packed
  stream,  // few rows: b is read once, row by row, nothing packed
  local,   // each task packs its columns of b and takes every row of a
  shared,  // b is packed once for all, then tasks take tiles of C
};

struct Plan {
  Method method;
  int64_t depth, depth_blocks;    // k is cut into blocks of `depth`
  int64_t row_tile, row_tiles, column_tile, column_tiles;
  int64_t large_tiles;            // so many tiles of row_tile rows come first, then quarter-size ones even out the end
  int64_t splits;                 // > 1: partial sums over parts of the depth blocks, added in order at the end
  int64_t packed;                 // where its packed B starts, floats
  int64_t pack_first, task_first; // index of this product's first task in each phase
};

// k per block: a panel of A (kTileRows x depth) should stay in L1 while panels of B stream past it. A k that fits one block
// needs no second pass over C, and rows of A need no packing.
constexpr int64_t kWholeDepth = 512, kDepth = 320;
constexpr int64_t kBlockFloats = 96 * 1024;            // a strip of packed B, in L2
constexpr int64_t kCachedFloats = 384 * 1024;          // all of A, between L2 and L3
constexpr int64_t kSharedFloats = 1024 * 1024;         // a whole packed B, in L3
constexpr int64_t kPackColumns = 4 * kTileColumns;     // columns in a packing task
// At most this many rows or columns take Method::dot.
#if defined(TREFOIL_ISA_AVX512) || defined(TREFOIL_ISA_NEON)
constexpr int64_t kDotRows = 64, kDotColumns = 8;
#else
constexpr int64_t kDotRows = 12, kDotColumns = 8;
#endif
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

inline int64_t small_tile(int64_t row_tile) { return round_up(ceil_div(row_tile, 4), kTileRows); }

struct RowRange {
  int64_t first, count;
};
inline RowRange row_range(const Gemm& g, const Plan& plan, int64_t tile) {
  if (tile < plan.large_tiles) return {tile * plan.row_tile, at_most(g.m - tile * plan.row_tile, plan.row_tile)};
  int64_t first = plan.large_tiles * plan.row_tile + (tile - plan.large_tiles) * small_tile(plan.row_tile);
  return {first, at_most(g.m - first, small_tile(plan.row_tile))};
}

inline int64_t packed_floats(const Gemm& g) { return g.k * round_up(g.n, kTileColumns); }

inline double multiply_adds(const Gemm& g) { return static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k); }

// An a that lies as the micro-kernel reads it: of one block of k, or by columns of which a task takes all it has.
inline bool reads_a_directly(const Gemm& g, const Plan& plan) {
  return !g.a.bf16 && !g.a.rows && (plan.depth_blocks == 1 || (g.a.transposed && plan.method == Method::local));
}

// Columns alone give tasks enough, and every row of such a strip of C stays in L2 from one block of k to the next. Rows that must
// be packed would be packed by every task again: rather b once for all, where it is small.
inline bool wide_enough(const Gemm& g, const Plan& plan, int64_t wanted, int64_t widest) {
  int64_t columns = at_most(g.n / wanted, widest);
  bool packs_again = !reads_a_directly(g, plan) && packed_floats(g) <= kSharedFloats;
  return columns >= 192 && ((plan.depth_blocks == 1 && !packs_again) || g.m * columns <= kBlockFloats);
}

// Rows of a that every task can read where they lie, out of a cache, while it packs a few columns of b for itself: nobody waits for
// a common copy of b.
inline bool keeps_a_in_cache(const Gemm& g, const Plan& plan) {
  return reads_a_directly(g, plan) && g.m * g.k <= kCachedFloats && g.n >= 6 * kTileColumns;
}

// `count` products run together, `total` multiply-adds in all. Threads only bear on the size of the tiles of Method::shared,
// which no sum depends on.
inline Plan make_plan(const Gemm& g, int64_t count, double total, int threads) {
  Plan plan{};
  plan.splits = 1;
  if (g.m == 0 || g.n == 0) return plan;  // no tasks
  plan.depth_blocks = g.k <= kWholeDepth ? 1 : ceil_div(g.k, kDepth);
  plan.depth = at_least(round_up(ceil_div(g.k, plan.depth_blocks), 8), 8);
  plan.depth_blocks = at_least(ceil_div(g.k, plan.depth), 1);
  // As many tasks as this product's share of the work, but none too small to be worth handing out.
  double work = multiply_adds(g), share = total > 0 ? kTasks * work / total : 0, worth = work / kTaskWork;
  int64_t wanted = at_least(static_cast<int64_t>(share < worth ? share + 0.999 : worth), 1);
  plan.row_tile = at_least(g.m, 1);
  plan.column_tile = at_least(g.n, 1);
  const bool can_split = count == 1 && !g.accumulate && plan.depth_blocks > 1;
  const int64_t widest = strip_columns(plan.depth);

  if ((g.b.transposed && g.m <= kDotRows) || (g.n <= kDotColumns && g.m > kDotRows && !g.a.transposed && !g.b.rows)) {
    plan.method = Method::dot;
    // Reading b or a bounds the time: a task's share is worth 32 Ki elements at least.
    int64_t parts = at_least(at_most(ceil_div(at_least(g.m, g.n) * g.k, 32 * 1024), 2 * kTasks), 1);
    if (g.m > g.n) plan.row_tile = even_tile(g.m, ceil_div(g.m, parts), 8);
    else plan.column_tile = even_tile(g.n, ceil_div(g.n, parts), 8);
  } else if (!g.b.transposed && !g.b.rows && g.m <= kTileRows) {
    plan.method = Method::stream;
    // C stays in L1, and runs along the rows of b are long enough for the memory.
    plan.column_tile = even_tile(g.n, kStreamColumns, 128);
    int64_t parts = at_most(g.n * g.k / (64 * 1024), kTasks) / ceil_div(g.n, plan.column_tile);
    if (count == 1 && !g.accumulate) plan.splits = at_least(at_most(parts, g.k / (16 * g.m)), 1);
  } else if (can_split && g.k >= 8192 && g.m * g.n <= 1 << 18) {
    // A small C under a long k (weight gradients over many rows): cutting k packs both operands once.
    plan.method = Method::local;
    plan.column_tile = even_tile(g.n, at_least(widest, 16 * kTileColumns), kTileColumns);
    plan.splits = at_most(g.k / 1024, kSplits);
  } else if (g.m <= kLocalRows || count >= 4 * kTasks || wide_enough(g, plan, wanted, widest) || keeps_a_in_cache(g, plan)) {
    plan.method = Method::local;
    int64_t columns = at_least(ceil_div(g.n, wanted), can_split ? 4 * kTileColumns : 1);
    plan.column_tile = even_tile(g.n, at_most(columns, widest), kTileColumns);
    if (can_split) plan.splits = at_least(at_most(at_most(wanted / ceil_div(g.n, plan.column_tile), plan.depth_blocks), kSplits), 1);
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
    plan.row_tile = rows;
    plan.column_tile = columns;
    if (plan.row_tile > kTileRows) plan.large_tiles = g.m * 3 / 4 / plan.row_tile;
  }
  plan.row_tiles = ceil_div(g.m, plan.row_tile);
  if (plan.large_tiles > 0) plan.row_tiles = plan.large_tiles + ceil_div(g.m - plan.large_tiles * plan.row_tile, small_tile(plan.row_tile));
  else plan.large_tiles = plan.row_tiles;
  plan.column_tiles = ceil_div(g.n, plan.column_tile);
  return plan;
}

}  // namespace trefoil::cpu::TREFOIL_ISA
