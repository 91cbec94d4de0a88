#include "gemm.h"

#include "epilogue.h"
#include "gemm_pack.h"
#include "gemm_plan.h"
#include "gemm_small.h"
#include "microkernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

// C[row .. row + rows, column .. column + columns] (+)= a[.., k0 .. k0 + depth] times packed B.
// `finished`: this was the last block of k, so the epilogue follows. `unpacked`: whole panels of B are not packed yet; the first panel of A
// does it on its way, hidden behind its multiply-adds.
void run_block(Context& context, const Gemm& g, const Plan& plan, int64_t row, int64_t rows, int64_t column, int64_t columns,
               int64_t k0, int64_t depth, float* packed_b, bool unpacked, float* c, int64_t c_stride, bool accumulate, bool finished) {
  bool direct = reads_a_directly(g, plan);
  float* packed_a = nullptr;
  if (!direct) {
    size_t floats = static_cast<size_t>((panel_count(rows) + 1) * panel_stride(depth));
    packed_a = static_cast<float*>(context.scratch(6, floats * sizeof(float)));
    pack_a(g.a, row, rows, k0, depth, packed_a);
  }
  // Strips of B that stay in L2 while every row passes by.
  const int64_t strip = strip_columns(plan.depth);
  for (int64_t first = 0; first < columns; first += strip) {
    const int64_t end = at_most(first + strip, columns);
    const int edge = static_cast<int>((end - first) % kTileColumns);
    const float* panel = packed_a;
    const int64_t tiles = ceil_div(end - first, kTileColumns);
    for (int64_t i = 0; i < rows;) {
      int count = panel_rows(rows - i);
      const int64_t stored = g.a.transposed ? k0 * g.a.stride + row + i : (row + i) * g.a.stride;  // rows: direct only with k0 = 0
      const float* a = direct ? static_cast<const float*>(g.a.data) + stored : panel;
      int64_t lda = direct ? g.a.stride : g.a.transposed ? count : depth;
      MicroKernel whole = g.a.transposed ? packed_kernel<Walk::columns>(count, kTileColumns) : packed_kernel<Walk::rows>(count, kTileColumns);
      MicroKernel part = g.a.transposed ? packed_kernel<Walk::columns>(count, edge) : packed_kernel<Walk::rows>(count, edge);
      const bool packing = unpacked && i == 0;
      if (packing) whole = g.a.transposed ? packing_kernel<Walk::columns>(count) : packing_kernel<Walk::rows>(count);
      for (int64_t j = first; j < end; j += kTileColumns) {
        int width = static_cast<int>(at_most(end - j, kTileColumns));
        float* panel_b = packed_b + j * depth;
        float* to = c + (row + i) * c_stride + column + j;
        if (packing && width == kTileColumns)
          whole(depth, a, lda, stored_row<float>(g.b, k0) + column + j, g.b.stride, to, c_stride, accumulate, 0,
                kStoredAhead * g.b.stride, panel_b);
        else
          (width == kTileColumns ? whole : part)(depth, a, lda, panel_b, kTileColumns, to, c_stride, accumulate,
                                                 (width - 1) % Vec::width + 1, kPackedAhead, nullptr);
        if (finished) finish(g.epilogue, c, c_stride, row + i, count, column + j, width);
        // The next rows of A, a few to a tile: they come from far, in runs too short for the hardware to foresee.
        const int64_t tile = (j - first) / kTileColumns, last = at_most((tile + 1) * count / tiles, rows - i - count);
        for (int64_t r = tile * count / tiles; direct && !g.a.transposed && r < last; ++r) prefetch_row(a + (count + r) * lda, depth);
      }
      i += count;
      if (!direct) panel += panel_stride(depth);
    }
  }
}

struct Run {
  Context& context;
  const Gemm* products;
  const Plan* plans;
  int64_t count;
  float* packed;    // all of B, for Method::shared
  float* partials;  // for plans with splits
};

// The product that task belongs to: the last whose first task, first(plan), is at most `task`.
template <class First>
int64_t product_of(const Run& run, int64_t task, const First& first) {
  int64_t low = 0, high = run.count;
  while (high - low > 1) {
    int64_t middle = (low + high) / 2;
    if (first(run.plans[middle]) <= task) low = middle;
    else high = middle;
  }
  return low;
}

// Packs one strip of columns of one depth block into the shared copy: blocks of k, each [n / kTileColumns][depth][kTileColumns].
void run_pack_task(const Run& run, int64_t task) {
  int64_t index = product_of(run, task, [](const Plan& plan) { return plan.pack_first; });
  const Gemm& g = run.products[index];
  const Plan& plan = run.plans[index];
  task -= plan.pack_first;
  int64_t strips = ceil_div(g.n, kPackColumns);
  int64_t k0 = task / strips * plan.depth, column = task % strips * kPackColumns;
  int64_t depth = at_most(g.k - k0, plan.depth);
  pack_b(g.b, k0, depth, column, at_most(column + kPackColumns, g.n),
         run.packed + plan.packed + k0 * round_up(g.n, kTileColumns) + column * depth);
}

// The product over one part of k, into that part's partial sums.
Gemm part_of_k(const Gemm& g, const Plan& plan, int64_t split, float* partials) {
  int64_t first = split * g.k / plan.splits, last = (split + 1) * g.k / plan.splits;
  Gemm part = g;
  part.k = last - first;
  if (g.a.transposed && g.a.rows) part.a.rows += first;
  else part.a.data = static_cast<const char*>(g.a.data) + first * (g.a.transposed ? g.a.stride : 1) * (g.a.bf16 ? 2 : 4);
  part.b.data = static_cast<const char*>(g.b.data) + first * g.b.stride * (g.b.bf16 ? 2 : 4);
  part.c = partials + split * g.m * g.n;
  part.c_stride = g.n;
  part.epilogue = Epilogue{};
  return part;
}

void run_task(const Run& run, int64_t task) {
  int level = 0;
  while (level + 1 < kLevels && task >= run.plans[0].task_first[level + 1]) ++level;
  int64_t index = product_of(run, task, [level](const Plan& plan) { return plan.task_first[level]; });
  const Gemm& g = run.products[index];
  const Plan& plan = run.plans[index];
  const Tile tile = tile_of(g, plan, level, task - plan.task_first[level]);
  const int64_t split = tile.split, row = tile.rows.first, rows = tile.rows.count, column = tile.columns.first, columns = tile.columns.count;
  if (plan.method == Method::dot || plan.method == Method::stream) {
    if (plan.splits == 1) return run_small_tile(run.context, g, plan, row, rows, column, columns);
    return run_small_tile(run.context, part_of_k(g, plan, split, run.partials), plan, row, rows, column, columns);
  }

  bool whole = plan.splits == 1;
  float* c = whole ? g.c : run.partials + split * g.m * g.n;
  int64_t c_stride = whole ? g.c_stride : g.n;
  int64_t first = split * plan.depth_blocks / plan.splits, last = (split + 1) * plan.depth_blocks / plan.splits;
  bool epilogue = whole && !is_trivial(g.epilogue);
  for (int64_t block = first; block < last; ++block) {
    int64_t k0 = block * plan.depth, depth = at_most(g.k - k0, plan.depth);
    float* b;
    bool unpacked = false;
    if (plan.method == Method::shared) {
      b = run.packed + plan.packed + k0 * round_up(g.n, kTileColumns) + column * depth;
    } else {
      float* mine = static_cast<float*>(
          run.context.scratch(7, static_cast<size_t>(round_up(columns, kTileColumns) * plan.depth + 1) * sizeof(float)));
      unpacked = rows > kTileRows && !g.b.transposed && !g.b.bf16 && !g.b.rows;
      int64_t later = unpacked ? columns / kTileColumns * kTileColumns : 0;
      pack_b(g.b, k0, depth, column + later, column + columns, mine + later * depth);
      b = mine;
    }
    bool accumulate = block > first || g.accumulate;
    // In pieces whose packed rows stay in L2.
    for (int64_t i = 0; i < rows; i += kBlockRows)
      run_block(run.context, g, plan, row + i, at_most(rows - i, kBlockRows), column, columns, k0, depth, b, unpacked && i == 0, c,
                c_stride, accumulate, epilogue && block + 1 == last);
  }
}

// C = the partial sums, added in order of k.
void add_partials(const Run& run, const Gemm& g, const Plan& plan, int64_t row) {
  float* c = g.c + row * g.c_stride;
  for (int64_t j = 0; j < g.n; j += Vec::width) {
    int lanes = static_cast<int>(at_most(g.n - j, Vec::width));
    Vec total = load_n(run.partials + row * g.n + j, lanes);
    for (int64_t s = 1; s < plan.splits; ++s) total = total + load_n(run.partials + (s * g.m + row) * g.n + j, lanes);
    store_n(c + j, total, lanes);
  }
  if (!is_trivial(g.epilogue)) finish(g.epilogue, g.c, g.c_stride, row, 1, 0, g.n);
}

int64_t partial_floats(const Gemm& g, const Plan& plan) { return plan.splits > 1 ? plan.splits * g.m * g.n : 0; }

// The same product with its operands in the form the methods expect.
Gemm canonical(Gemm g) {
  if (g.m == 1 && g.a.transposed && !g.a.rows && g.a.stride == 1) g.a.transposed = false, g.a.stride = g.k;
  if (g.n == 1 && !g.b.transposed && !g.b.rows && g.b.stride == 1) g.b.transposed = true, g.b.stride = g.k;
  return g;
}

size_t plan_bytes(int64_t count) { return static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(Plan) + sizeof(Gemm)), 64)); }

}  // namespace

size_t gemm_workspace(const Gemm& product) {
  Gemm g = canonical(product);
  Plan plan = make_plan(g, 1, multiply_adds(g), 1);
  int64_t floats = (plan.method == Method::shared ? packed_floats(g) : 0) + partial_floats(g, plan);
  return plan_bytes(1) + static_cast<size_t>(floats) * sizeof(float);
}

size_t gemm_workspace(const Gemm& largest, int64_t count, int64_t k_total) {
  if (count == 1) return gemm_workspace(largest);
  return plan_bytes(count) + static_cast<size_t>(k_total * round_up(largest.n, kTileColumns)) * sizeof(float);
}

void gemm(Context& context, const Gemm* products, int64_t count, void* workspace) {
  if (count == 0) return;
  Gemm* canonicals = static_cast<Gemm*>(workspace);
  Plan* plans = reinterpret_cast<Plan*>(canonicals + count);
  float* floats = reinterpret_cast<float*>(static_cast<char*>(workspace) + plan_bytes(count));
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += multiply_adds(products[i]);
  int64_t packed = 0, pack_tasks = 0, tasks = 0;
  for (int64_t i = 0; i < count; ++i) {
    canonicals[i] = canonical(products[i]);
    const Gemm& g = canonicals[i];
    Plan plan = make_plan(g, count, total, context.threads());
    plan.packed = packed;
    plan.pack_first = pack_tasks;
    if (plan.method == Method::shared) {
      packed += packed_floats(g);
      pack_tasks += plan.depth_blocks * ceil_div(g.n, kPackColumns);
    }
    plans[i] = plan;
  }
  for (int level = 0; level < kLevels; ++level)
    for (int64_t i = 0; i < count; ++i) {
      plans[i].task_first[level] = tasks;
      tasks += task_count(plans[i], level);
    }
  Run run{context, canonicals, plans, count, floats, floats + packed};
  context.parallel(pack_tasks, [&](int64_t task) { run_pack_task(run, task); });
  context.parallel(tasks, [&](int64_t task) { run_task(run, task); });
  if (plans[0].splits > 1) context.parallel(canonicals[0].m, [&](int64_t row) { add_partials(run, canonicals[0], plans[0], row); });
}

}  // namespace trefoil::cpu::TREFOIL_ISA
