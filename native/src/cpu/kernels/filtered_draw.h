// A draw from weights by the inverse of their running sum in order of index, after top-k and top-p. In that order weights that differ by
// rounding move the bounds of a token by rounding; in descending order two that are nearly equal would change places.
#pragma once
#include "partial.h"
#include "weighted_select.h"

namespace trefoil::cpu::TREFOIL_ISA {
namespace {  // each family that includes this has its own

constexpr int64_t kBlock = 256;  // f32 lanes sum blocks of weights, f64 sums the blocks

inline float block_sum(const float* weight, int64_t n) {
  Vec total = splat(0.0f);
  for (int64_t i = 0; i < n; i += Vec::width) total = total + load_n(weight + i, lanes_left(n, i));
  return sum(total);
}

inline double total_of(const float* weight, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; i += kBlock) total += static_cast<double>(block_sum(weight + i, n - i < kBlock ? n - i : kBlock));
  return total;
}

// The first index at which the running total exceeds `target`; the last of any weight where rounding leaves none.
inline int64_t draw(const float* weight, int64_t n, double target) {
  double before = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t end = n - i < kBlock ? n : i + kBlock;
    const double block = static_cast<double>(block_sum(weight + i, end - i));
    if (before + block <= target && end < n) {
      before += block;
      continue;
    }
    for (int64_t k = i; k < end; ++k) {
      if (weight[k] > 0) last = k;
      before += static_cast<double>(weight[k]);
      if (before > target && weight[k] > 0) return k;
    }
  }
  return last;
}

// Zero weight for all but the top_k largest logits, then all but the fewest of those that reach top_p.
inline void filter(Context& context, const float* x, int64_t n, int64_t top_k, double top_p, float* weight) {
  const int64_t limit = top_k > 0 && top_k < n ? top_k : n;
  if (limit == n && top_p >= 1) return;
  uint64_t* keys = static_cast<uint64_t*>(context.scratch(2, static_cast<size_t>(n) * sizeof(uint64_t)));
  for (int64_t i = 0; i < n; ++i) keys[i] = candidate_key(x[i] == x[i] ? x[i] : -HUGE_VALF, i);
  if (limit < n) select_count(keys, n, limit);
  int64_t kept = limit;
  if (top_p < 1) {
    double total = 0;
    for (int64_t i = 0; i < limit; ++i) total += static_cast<double>(weight[candidate_index(keys[i])]);
    kept = select_weight(keys, limit, weight, top_p * total, true).rank + 1;
  }
  for (int64_t i = kept; i < n; ++i) weight[candidate_index(keys[i])] = 0;
}

}  // namespace
}  // namespace trefoil::cpu::TREFOIL_ISA
