// How products are cut into tasks, at every ISA: all of C, each element once, and nothing that a sum depends on by the number of threads.
#include "gemm_plan_probe.h"

#include <tuple>

#include "harness.h"

namespace trefoil::cpu {
#define TREFOIL_DECLARE_PLAN(isa)     \
  namespace isa {                     \
  extern const PlanProbe plan_probe;  \
  }
TREFOIL_DECLARE_PLAN(scalar)
#if defined(TREFOIL_HAVE_AVX2)
TREFOIL_DECLARE_PLAN(avx2)
#endif
#if defined(TREFOIL_HAVE_AVX512)
TREFOIL_DECLARE_PLAN(avx512)
#endif
#if defined(TREFOIL_HAVE_NEON)
TREFOIL_DECLARE_PLAN(neon)
#endif
}  // namespace trefoil::cpu

using namespace trefoil::test;
using trefoil::cpu::PlannedProduct;
using trefoil::cpu::PlannedSums;
using trefoil::cpu::PlannedTask;
using trefoil::cpu::PlanProbe;

namespace {

const PlanProbe& probe_of(const Device& device) {
#if defined(TREFOIL_HAVE_AVX2)
  if (device.isa == "avx2") return trefoil::cpu::avx2::plan_probe;
#endif
#if defined(TREFOIL_HAVE_AVX512)
  if (device.isa == "avx512") return trefoil::cpu::avx512::plan_probe;
#endif
#if defined(TREFOIL_HAVE_NEON)
  if (device.isa == "neon") return trefoil::cpu::neon::plan_probe;
#endif
  return trefoil::cpu::scalar::plan_probe;
}

std::string text(const PlannedProduct& p, int threads) {
  return std::to_string(p.count) + " of " + std::to_string(p.m) + "x" + std::to_string(p.k) + "x" + std::to_string(p.n) +
         (p.transpose_a ? " t" : " n") + (p.transpose_b ? "t" : "n") + (p.bf16_a ? ", bf16 a" : "") + (p.accumulate ? ", added" : "") + (p.rounded ? ", rounded" : "") + ", " +
         std::to_string(threads) + " threads";
}

// The tiles of each part of k are rows of tiles one below the other, each row from the first column of C to the last.
bool cover_once(std::vector<PlannedTask> tasks, const PlannedProduct& p, int64_t splits) {
  std::sort(tasks.begin(), tasks.end(), [](const PlannedTask& a, const PlannedTask& b) {
    return std::tie(a.split, a.row, a.column) < std::tie(b.split, b.row, b.column);
  });
  size_t at = 0;
  for (int64_t split = 0; split < splits; ++split) {
    for (int64_t row = 0; row < p.m;) {
      const int64_t rows = at < tasks.size() ? tasks[at].rows : 0;
      for (int64_t column = 0; column < p.n;) {
        if (at == tasks.size()) return false;
        const PlannedTask& task = tasks[at++];
        if (task.split != split || task.row != row || task.rows != rows || task.column != column) return false;
        if (task.rows < 1 || task.columns < 1) return false;
        column += task.columns;
        if (column > p.n) return false;
      }
      row += rows;
      if (row > p.m) return false;
    }
  }
  return at == tasks.size();
}

void check_plan(const PlanProbe& probe, const PlannedProduct& product) {
  PlannedSums first{};
  for (int threads : {1, 2, 3, 8, 61}) {
    std::vector<PlannedTask> tasks;
    const PlannedSums sums = probe.plan(
        product, threads, [](void* to, const PlannedTask& task) { static_cast<std::vector<PlannedTask>*>(to)->push_back(task); }, &tasks);
    auto require = [&](bool holds, const char* what) {
      if (!holds) throw Failure{std::string(what) + ": " + text(product, threads)};
    };
    if (product.m == 0 || product.n == 0) {
      require(tasks.empty(), "tasks without a result");
      continue;
    }
    require(cover_once(tasks, product, sums.splits), "tiles do not cover C exactly once");
    const bool blocks = sums.method == probe.local || sums.method == probe.shared;
    // Each part of k has something to sum, or its partial sums would be whatever was there.
    require(sums.splits >= 1 && sums.splits <= std::max<int64_t>(blocks ? sums.depth_blocks : product.k, 1), "an empty part of k");
    require(sums.splits == 1 || (product.count == 1 && !product.accumulate), "partial sums where there is no room for them");
    require(sums.depth * sums.depth_blocks >= product.k && sums.depth * (sums.depth_blocks - 1) < std::max<int64_t>(product.k, 1),
            "blocks that are not k");
    if (sums.method == probe.shared)
      for (const PlannedTask& task : tasks) require(task.column % probe.tile_columns == 0, "a tile that begins inside a panel of packed B");
    if (threads == 1) first = sums;
    require(std::tie(sums.method, sums.depth, sums.depth_blocks, sums.splits) ==
                std::tie(first.method, first.depth, first.depth_blocks, first.splits),
            "the order of sums depends on the number of threads");
  }
}

}  // namespace

TEST(gemm_plan) {
  const PlanProbe& probe = probe_of(device);
  for (int64_t m : {0, 1, 3, 7, 12, 13, 64, 65, 200, 1000, 4096})
    for (int64_t n : {0, 1, 8, 31, 32, 97, 384, 1025, 8192})
      for (int64_t k : {0, 1, 64, 321, 512, 513, 1024, 1025, 9000, 20000})
        for (int bits = 0; bits < 4; ++bits)
          for (int64_t count : {1, 4, 64}) {
            PlannedProduct product{m, n, k, (bits & 1) != 0, (bits & 2) != 0, false, false, count};
            check_plan(probe, product);
            product.rounded = true;
            check_plan(probe, product);
            product.rounded = false;
            if (count > 1) continue;
            product.accumulate = true;
            check_plan(probe, product);
            product.accumulate = false, product.bf16_a = true;
            check_plan(probe, product);
          }
}
