// Selection in descending order of logits without sorting: quickselect by count and by accumulated weight, expected linear time.
// A candidate is one 64-bit key: the logit mapped to an integer that grows as the logit falls, then the index, so that
// keys are distinct and equal logits rank the lower index first.
#pragma once
#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {
namespace {  // each family that includes this has its own: its names stay out of the way

inline uint64_t candidate_key(float logit, int64_t index) {
  logit += 0.0f;  // -0 and +0 tie
  uint32_t bits;
  memcpy(&bits, &logit, 4);
  uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(~ascending) << 32 | static_cast<uint32_t>(index);
}
inline uint32_t candidate_index(uint64_t key) { return static_cast<uint32_t>(key); }

inline void swap_keys(uint64_t& a, uint64_t& b) {
  uint64_t kept = a;
  a = b;
  b = kept;
}

inline void insertion_sort(uint64_t* keys, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    uint64_t key = keys[i];
    int64_t at = i;
    for (; at > 0 && keys[at - 1] > key; --at) keys[at] = keys[at - 1];
    keys[at] = key;
  }
}

// Splits keys[0, n), n >= 3, around a pivot; returns m with 0 < m < n: keys[0, m) are below every one of keys[m, n).
// The pivot is the median of three places drawn from a fixed sequence: no input makes it slow except by chance.
inline int64_t split(uint64_t* keys, int64_t n, uint32_t& sequence) {
  uint64_t sample[3];
  for (uint64_t& value : sample) {
    sequence = sequence * 1664525u + 1013904223u;
    value = keys[static_cast<int64_t>(static_cast<uint64_t>(sequence) * static_cast<uint64_t>(n) >> 32)];
  }
  insertion_sort(sample, 3);
  uint64_t pivot = sample[1];
  int64_t below = 0;  // branch-free Lomuto partition: keys <= pivot to the front
  for (int64_t i = 0; i < n; ++i) {
    uint64_t key = keys[i];
    keys[i] = keys[below];
    keys[below] = key;
    below += key <= pivot;
  }
  if (below < n) return below;
  // The pivot was the largest: it stands alone at the end.
  for (int64_t i = 0; i < n; ++i)
    if (keys[i] == pivot) swap_keys(keys[i], keys[n - 1]);
  return n - 1;
}

// Moves the `count` smallest keys to the front.
inline void select_count(uint64_t* keys, int64_t n, int64_t count) {
  uint32_t sequence = 1;
  while (n > 32) {
    if (count == 0 || count == n) return;
    int64_t m = split(keys, n, sequence);
    if (count < m) {
      n = m;
    } else {
      keys += m;
      count -= m;
      n -= m;
    }
  }
  insertion_sort(keys, n);
}

struct WeightedRank {
  int64_t rank;   // position in descending order
  double before;  // weight of all candidates ahead of it
};

// First candidate in descending order at which the running weight reaches `target` (inclusive) or exceeds it; the last one if none
// does. Moves the candidates ahead of it to the front and leaves it at keys[rank]. weight is indexed by candidate.
inline WeightedRank select_weight(uint64_t* keys, int64_t n, const float* weight, double target, bool inclusive) {
  uint32_t sequence = 1;
  int64_t low = 0, high = n;
  double before = 0;
  while (high - low > 32) {
    int64_t m = low + split(keys + low, high - low, sequence);
    double left = 0;
    for (int64_t i = low; i < m; ++i) left += static_cast<double>(weight[candidate_index(keys[i])]);
    if (inclusive ? before + left >= target : before + left > target) {
      high = m;
    } else {
      before += left;
      low = m;
    }
  }
  insertion_sort(keys + low, high - low);
  for (;; ++low) {
    double through = before + static_cast<double>(weight[candidate_index(keys[low])]);
    if (low + 1 == high || (inclusive ? through >= target : through > target)) return {low, before};
    before = through;
  }
}

}  // namespace
}  // namespace trefoil::cpu::TREFOIL_ISA
