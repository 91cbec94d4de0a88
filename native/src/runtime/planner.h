// Places byte ranges with lifetimes in one arena.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace trefoil::runtime {

constexpr size_t kAlignment = 64;
constexpr size_t align_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Alive during instructions first..last, both included.
struct Placement {
  size_t bytes;
  int32_t first;
  int32_t last;
  size_t offset = 0;  // the answer, a multiple of 64
};

// Fills in the offsets so that no two placements that are alive at the same instruction overlap; returns the arena's bytes.
// Largest first, each into the tightest gap among those alive with it ("greedy by size", Pisarchyk & Lee, arXiv 2001.03288).
size_t plan(std::vector<Placement>& placements);

}  // namespace trefoil::runtime
