#include "runtime/planner.h"

#include <random>

#include "harness.h"

using trefoil::runtime::plan;
using trefoil::runtime::Placement;

namespace {

// The check by brute force: at every instruction, the ranges that are alive are disjoint, aligned and inside the arena.
void check_plan(const std::vector<Placement>& placements, size_t arena, int32_t instructions) {
  for (const Placement& item : placements) {
    CHECK(item.offset % 64 == 0);
    CHECK(item.offset + item.bytes <= arena);
  }
  for (int32_t now = 0; now < instructions; ++now) {
    std::vector<bool> taken(arena / 64 + 1);
    for (const Placement& item : placements) {
      if (item.first > now || item.last < now) continue;
      for (size_t unit = item.offset / 64; unit * 64 < item.offset + item.bytes; ++unit) {
        CHECK(!taken[unit]);
        taken[unit] = true;
      }
    }
  }
}

// No plan can do with less than what is alive at the fullest instruction.
size_t lower_bound(const std::vector<Placement>& placements, int32_t instructions) {
  size_t most = 0;
  for (int32_t now = 0; now < instructions; ++now) {
    size_t alive = 0;
    for (const Placement& item : placements)
      if (item.first <= now && item.last >= now) alive += trefoil::runtime::align_up(item.bytes);
    most = std::max(most, alive);
  }
  return most;
}

}  // namespace

TEST_ONCE(planner_reuses_memory_along_a_chain) {
  // x0 -> x1 -> x2 -> x3: two are alive at a time.
  std::vector<Placement> chain{{100, 0, 1}, {100, 1, 2}, {100, 2, 3}, {100, 3, 4}};
  CHECK(plan(chain) == 256);
  check_plan(chain, 256, 5);
}

TEST_ONCE(planner_takes_the_tightest_gap) {
  // The 64-byte latecomer fits the gaps that b (128) and d (64) leave; the tight one keeps the wide one whole for e.
  std::vector<Placement> items{{512, 0, 9}, {128, 0, 3}, {256, 0, 9}, {64, 0, 3}, {192, 0, 9}, {64, 4, 9}, {128, 4, 9}};
  size_t arena = plan(items);
  check_plan(items, arena, 10);
  CHECK(arena == lower_bound(items, 10));
}

TEST_ONCE(planner_of_nothing_needs_nothing) {
  std::vector<Placement> none, empty{{0, 0, 4}, {0, 2, 3}};
  CHECK(plan(none) == 0);
  CHECK(plan(empty) == 0);
}

TEST_ONCE(planner_random_programs) {
  std::mt19937 random(7);
  double total = 0, bound = 0;
  for (int round = 0; round < 300; ++round) {
    int32_t instructions = 1 + static_cast<int32_t>(random() % 40);
    std::vector<Placement> placements(random() % 80);
    for (Placement& item : placements) {
      item.bytes = random() % 4 == 0 ? random() % 5000 : random() % 300;
      item.first = static_cast<int32_t>(random() % static_cast<uint32_t>(instructions));
      item.last = std::min(instructions - 1, item.first + static_cast<int32_t>(random() % 8));
    }
    size_t arena = plan(placements);
    check_plan(placements, arena, instructions);
    size_t least = lower_bound(placements, instructions);
    CHECK(arena >= least);
    total += static_cast<double>(arena);
    bound += static_cast<double>(least);
  }
  CHECK(total <= 1.15 * bound);  // it is a good plan, not only a legal one
}
