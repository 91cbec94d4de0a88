#include "runtime/planner.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace trefoil::runtime {

size_t plan(std::vector<Placement>& placements) {
  std::vector<uint32_t> order(placements.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    const Placement &x = placements[a], &y = placements[b];
    if (x.bytes != y.bytes) return x.bytes > y.bytes;
    return x.first != y.first ? x.first < y.first : a < b;
  });

  size_t arena = 0;
  std::vector<const Placement*> placed;  // by offset
  for (uint32_t index : order) {
    Placement& item = placements[index];
    size_t bytes = align_up(item.bytes);
    if (bytes == 0) continue;
    size_t best = 0, best_gap = std::numeric_limits<size_t>::max(), end = 0;
    for (const Placement* other : placed) {
      if (other->last < item.first || other->first > item.last) continue;
      if (other->offset > end) {
        size_t gap = other->offset - end;
        if (gap >= bytes && gap < best_gap) {
          best = end;
          best_gap = gap;
        }
      }
      end = std::max(end, other->offset + align_up(other->bytes));
    }
    item.offset = best_gap == std::numeric_limits<size_t>::max() ? end : best;
    arena = std::max(arena, item.offset + bytes);
    auto position = std::upper_bound(placed.begin(), placed.end(), item.offset,
                                     [](size_t offset, const Placement* other) { return offset < other->offset; });
    placed.insert(position, &item);
  }
  return arena;
}

}  // namespace trefoil::runtime
