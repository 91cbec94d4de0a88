#include "gemm_plan_probe.h"

#include "kernels/gemm_plan.h"

namespace trefoil::cpu::TREFOIL_ISA {

static PlannedSums plan(const PlannedProduct& product, int threads, void (*take)(void* to, const PlannedTask& task), void* to) {
  const auto& [m, n, k, transpose_a, transpose_b, bf16_a, accumulate, count, rounded] = product;
  Gemm g;
  g.m = m, g.n = n, g.k = k, g.accumulate = accumulate, g.rounded = rounded;
  g.a.transposed = transpose_a, g.a.stride = transpose_a ? m : k, g.a.bf16 = bf16_a;
  g.b.transposed = transpose_b, g.b.stride = transpose_b ? k : n;
  const Plan plan = make_plan(g, count, static_cast<double>(count) * multiply_adds(g), threads);
  for (int level = 0; level < kLevels; ++level) {
    for (int64_t index = 0; index < task_count(plan, level); ++index) {
      const Tile tile = tile_of(g, plan, level, index);
      take(to, {tile.split, tile.rows.first, tile.rows.count, tile.columns.first, tile.columns.count});
    }
  }
  return {static_cast<int>(plan.method), plan.depth, plan.depth_blocks, plan.splits};
}

extern const PlanProbe plan_probe;
const PlanProbe plan_probe = {static_cast<int>(Method::shared), static_cast<int>(Method::local), kTileColumns, plan};

}  // namespace trefoil::cpu::TREFOIL_ISA
