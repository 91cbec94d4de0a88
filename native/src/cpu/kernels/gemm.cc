#include "gemm.h"

#include "bf16_products.h"
#include "epilogue.h"
#include "gemm_pack.h"
#include "gemm_plan.h"
#include "gemm_small.h"
#include "microkernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

// A block of C and of k. `finished`: it is the last block of k, so the epilogue follows.
struct Block {
  Range rows, columns;
  int64_t k0, depth;
  bool accumulate, finished;
};

// What is to be in L2 soon: memory in order of addresses, brought there a part by every tile; and rows of A that no tile has read yet.
struct Later {
  const char *from = nullptr, *end = nullptr;
  bool rows_of_a = true;
};

// Rows in memory of `length` floats that are packed next: fetched into L2 a share at a time, by every tile.
struct NextToPack {
  const float* first = nullptr;
  int64_t count = 0, length = 0, stride = 0;

  void fetch_share(int64_t index, int64_t of) const {
    for (int64_t r = count * index / of; r < count * (index + 1) / of; ++r) prefetch_row<2>(first + r * stride, length);
  }
};

// The block of a with these rows and this part of k, as it is stored.
NextToPack next_to_pack(const Gemm& g, const Plan& plan, Range rows, int64_t k0) {
  if (g.a.bf16 || g.a.rows || reads_a_directly(g, plan)) return {};
  const float* a = static_cast<const float*>(g.a.data);
  const int64_t depth = at_most(g.k - k0, plan.depth);
  if (g.a.transposed) return {a + k0 * g.a.stride + rows.first, depth, rows.count, g.a.stride};
  return {a + rows.first * g.a.stride + k0, rows.count, depth, g.a.stride};
}

constexpr int64_t kFetchedPerStep = 16;  // bytes of Later to a step of k
constexpr int64_t kColumnsAhead = 48;    // steps of k that columns of A are fetched ahead

// The kernel for whole packed panels of B.
template <Walk walk>
MicroKernel kernel_for(int count, bool fetching) {
  return fetching ? whole_kernel<walk, Source::fetching>(count) : packed_kernel<walk>(count, kTileColumns);
}

// C[rows, columns] (+)= a[.., k0 .. k0 + depth] times packed B. `unpacked`: whole panels of B are not packed yet; the first panel of A does it
// on its way, hidden behind its multiply-adds. `later` moves on by what was fetched of it.
void run_block(Context& context, const Gemm& g, const Plan& plan, const Block& block, float* packed_b, bool unpacked, Later& later,
               const NextToPack& next, float* c, int64_t c_stride) {
  const auto [row, rows] = block.rows;
  const auto [column, columns] = block.columns;
  const int64_t depth = block.depth;
  const bool direct = reads_a_directly(g, plan), by_columns = g.a.transposed;
  float* packed_a = nullptr;
  if (!direct) {
    size_t floats = static_cast<size_t>((panel_count(rows) + 1) * panel_stride(depth));
    packed_a = static_cast<float*>(context.scratch(6, floats * sizeof(float)));
    pack_a(g.a, row, rows, block.k0, depth, packed_a);
  }
  const int64_t all_tiles = panel_count(rows) * ceil_div(columns, kTileColumns);
  int64_t tiles_done = 0;
  // Strips of B that stay in L2 while every row passes by.
  const int64_t strip = strip_columns(plan.depth);
  for (int64_t first = 0; first < columns; first += strip) {
    const int64_t end = at_most(first + strip, columns), tiles = ceil_div(end - first, kTileColumns);
    const int edge = static_cast<int>((end - first) % kTileColumns);
    // The next rows of A come from far, often in runs too short for the hardware to foresee: a part of them is fetched by every tile, after its
    // multiply-adds or, where it is much and in one run, between them.
    const bool fetches_rows = direct && !by_columns && later.rows_of_a && first == 0;
    const bool in_one_run = fetches_rows && g.a.stride == depth && tiles <= 4;
    const float* panel = packed_a;
    for (int64_t i = 0; i < rows;) {
      const int count = panel_rows(rows - i);
      const int64_t stored = by_columns ? block.k0 * g.a.stride + row + i : (row + i) * g.a.stride + block.k0;
      const float* a = direct ? static_cast<const float*>(g.a.data) + stored : panel;
      const int64_t lda = direct ? g.a.stride : by_columns ? count : depth;
      const int64_t next_rows = fetches_rows ? at_most(count, rows - i - count) : 0;
      const bool packing = unpacked && i == 0, fetching = !packing && count >= kTileRows / 2;
      const MicroKernel part = by_columns ? packed_kernel<Walk::columns>(count, edge) : packed_kernel<Walk::rows>(count, edge);
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t j = first + tile * kTileColumns;
        const int width = static_cast<int>(at_most(end - j, kTileColumns));
        float* panel_b = packed_b + j * depth;
        float* to = c + (row + i) * c_stride + column + j;
        if (block.finished && g.epilogue.residual)
          for (int r = 0; r < count; ++r) prefetch_row<3>(g.epilogue.residual + (row + i + r) * c_stride + column + j, width);
        const int64_t step = ceil_div(next_rows * 4, tiles);  // bytes of the next rows to a step of k
        Beside beside;
        bool takes_rows = false;
        if (fetching && width == kTileColumns) {
          if (later.from < later.end) {
            beside = {later.from, kFetchedPerStep};
            later.from += depth * kFetchedPerStep;
          } else if (direct && by_columns && j == 0) {
            beside = {reinterpret_cast<const char*>(a + kColumnsAhead * lda), lda * 4};
          } else if (in_one_run && next_rows > 0) {
            takes_rows = true;
            beside = {reinterpret_cast<const char*>(a + count * lda) + tile * step * depth, step};
          }
        }
        if (width < kTileColumns) {
          part(depth, a, lda, panel_b, kTileColumns, to, c_stride, block.accumulate, (width - 1) % Vec::width + 1, kPackedAhead, nullptr, {});
        } else if (packing) {
          const MicroKernel whole =
              by_columns ? whole_kernel<Walk::columns, Source::packing>(count) : whole_kernel<Walk::rows, Source::packing>(count);
          whole(depth, a, lda, stored_row<float>(g.b, block.k0) + column + j, g.b.stride, to, c_stride, block.accumulate, 0,
                kStoredAhead * g.b.stride, panel_b, {});
        } else {
          const MicroKernel whole = by_columns ? kernel_for<Walk::columns>(count, beside.from) : kernel_for<Walk::rows>(count, beside.from);
          whole(depth, a, lda, panel_b, kTileColumns, to, c_stride, block.accumulate, 0, kPackedAhead, nullptr, beside);
        }
        if (block.finished) finish(g.epilogue, c, c_stride, row + i, count, column + j, width);
        next.fetch_share(tiles_done++, all_tiles);
        for (int64_t r = tile * next_rows / tiles; !takes_rows && r < (tile + 1) * next_rows / tiles; ++r)
          prefetch_row<2>(a + (count + r) * lda, depth);
      }
      i += count;
      if (!direct) panel += panel_stride(depth);
    }
  }
}

// run_block with operands rounded to bf16. B is packed.
void run_rounded_block(Context& context, const Gemm& g, const Plan& plan, const Block& block, const float* packed_b, float* c, int64_t c_stride) {
  const Bf16Products& bf16 = *context.bf16_products();
  const auto [row, rows] = block.rows;
  const auto [column, columns] = block.columns;
  const int64_t depth = pairs(block.depth);
  float* packed_a = static_cast<float*>(context.scratch(6, static_cast<size_t>((panel_count(rows) + 1) * panel_stride(depth)) * sizeof(float)));
  bf16.pack_a(g.a, row, rows, block.k0, block.depth, packed_a);
  const int64_t strip = strip_columns(pairs(plan.depth));
  for (int64_t first = 0; first < columns; first += strip) {
    const int64_t end = at_most(first + strip, columns);
    const float* panel = packed_a;
    for (int64_t i = 0; i < rows; panel += panel_stride(depth)) {
      const int count = panel_rows(rows - i);
      const PairKernel kernel = bf16.kernel(g.a.transposed, count);
      for (int64_t j = first; j < end; j += kTileColumns) {
        const int width = static_cast<int>(at_most(end - j, kTileColumns));
        if (block.finished && g.epilogue.residual)
          for (int r = 0; r < count; ++r) prefetch_row<3>(g.epilogue.residual + (row + i + r) * c_stride + column + j, width);
        kernel(depth, panel, g.a.transposed ? count : depth, packed_b + j * depth, c + (row + i) * c_stride + column + j, c_stride, block.accumulate, width);
        if (block.finished) finish(g.epilogue, c, c_stride, row + i, count, column + j, width);
      }
      i += count;
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
  int64_t depth = at_most(g.k - k0, plan.depth), end = at_most(column + kPackColumns, g.n);
  float* to = run.packed + plan.packed + steps(g, k0) * round_up(g.n, kTileColumns) + column * steps(g, depth);
  if (g.rounded) run.context.bf16_products()->pack_b(g.b, k0, depth, column, end, to);
  else pack_b(g.b, k0, depth, column, end, to);
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
  const int64_t first = split * plan.depth_blocks / plan.splits, last = (split + 1) * plan.depth_blocks / plan.splits;
  const bool epilogue = whole && !is_trivial(g.epilogue);
  auto block_of = [&](int64_t index, Range of_columns) {
    const int64_t k0 = index * plan.depth;
    return Block{tile.rows, of_columns, k0, at_most(g.k - k0, plan.depth), index > first || g.accumulate,
                 epilogue && index + 1 == last};
  };
  // In pieces whose packed rows stay in L2. `then`: what is packed after the last of them.
  auto run_rows = [&](Block block, float* b, bool unpacked, Later& later, const NextToPack& then) {
    for (int64_t i = 0; i < rows; i += kBlockRows) {
      block.rows = {row + i, at_most(rows - i, kBlockRows)};
      const Range following{row + i + kBlockRows, at_most(rows - i - kBlockRows, kBlockRows)};
      const NextToPack next = following.count > 0 ? next_to_pack(g, plan, following, block.k0) : then;
      if (g.rounded) run_rounded_block(run.context, g, plan, block, b, c, c_stride);
      else run_block(run.context, g, plan, block, b, unpacked && i == 0, later, next, c, c_stride);
    }
  };
  Later nothing;
  if (plan.method == Method::shared) {
    for (int64_t index = first; index < last; ++index) {
      const Block block = block_of(index, tile.columns);
      // After its last block this thread probably takes the rows that follow.
      const int64_t following = index + 1 < last ? row : row + rows;
      const Range rows_then{following, at_most(at_most(g.m - following, rows), kBlockRows)};
      const NextToPack then = rows_then.count > 0 ? next_to_pack(g, plan, rows_then, index + 1 < last ? block.k0 + plan.depth : first * plan.depth) : NextToPack{};
      run_rows(block, run.packed + plan.packed + steps(g, block.k0) * round_up(g.n, kTileColumns) + column * steps(g, block.depth), false, nothing, then);
    }
    return;
  }
  // Rows of a transposed b that are wanted next are fetched, whole and one after the other as the memory likes it, while those before are multiplied.
  const bool in_strips = reads_b_in_strips(g, plan);
  const int64_t strip = in_strips ? kTileColumns : columns;
  float* packed = static_cast<float*>(
      run.context.scratch(7, static_cast<size_t>(round_up(strip, kTileColumns) * steps(g, plan.depth) + 1) * sizeof(float)));
  for (int64_t j = 0; j < columns; j += strip) {
    const Range part{column + j, at_most(columns - j, strip)};
    Later later;
    later.rows_of_a = j == 0;
    if (in_strips) {
      // Past this task's columns those of the task that is probably this thread's next.
      const int64_t next = part.first + strip;
      const int64_t end = at_most(next + strip, g.n);
      if (next < end) {
        later.from = reinterpret_cast<const char*>(stored_row<float>(g.b, next));
        later.end = reinterpret_cast<const char*>(stored_row<float>(g.b, end - 1) + g.k);
      }
    }
    for (int64_t index = first; index < last; ++index) {
      const Block block = block_of(index, part);
      if (g.rounded) {
        run.context.bf16_products()->pack_b(g.b, block.k0, block.depth, part.first, part.first + part.count, packed);
        run_rows(block, packed, false, later, {});
        continue;
      }
      const bool unpacked = rows > kTileRows && !g.b.transposed && !g.b.bf16 && !g.b.rows;
      const int64_t done = unpacked ? part.count / kTileColumns * kTileColumns : 0;
      pack_b(g.b, block.k0, block.depth, part.first + done, part.first + part.count, packed + done * block.depth);
      run_rows(block, packed, unpacked, later, {});
    }
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
  // Which of the two it will be is the device's to say.
  int64_t floats = 0;
  for (int rounded = 0; rounded < 2; ++rounded) {
    Gemm g = canonical(product);
    g.rounded = rounded == 1;
    Plan plan = make_plan(g, 1, multiply_adds(g), 1);
    floats = at_least(floats, (plan.method == Method::shared ? packed_floats(g) : 0) + partial_floats(g, plan));
  }
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
    canonicals[i].rounded = context.bf16_products() != nullptr;
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
  int64_t large = 0;
  for (int level = 0; level < kLevels; ++level) {
    for (int64_t i = 0; i < count; ++i) {
      plans[i].task_first[level] = tasks;
      tasks += task_count(plans[i], level);
    }
    if (level == 0) large = tasks;
  }
  Run run{context, canonicals, plans, count, floats, floats + packed};
  context.parallel(pack_tasks, [&](int64_t task) { run_pack_task(run, task); });
  context.parallel(tasks, [&](int64_t task) { run_task(run, task); }, tasks - large);
  if (plans[0].splits > 1) context.parallel(canonicals[0].m, [&](int64_t row) { add_partials(run, canonicals[0], plans[0], row); });
}

}  // namespace trefoil::cpu::TREFOIL_ISA
