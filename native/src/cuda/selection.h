// Selection in descending order of logits without a sort: radix select over 64-bit keys with histograms in shared memory. Weights are
// fixed-point numbers, so that their sums do not depend on an order. All functions are for a whole one-dimensional block.
#pragma once
#include "device.h"

namespace trefoil::cuda {

using Fixed = unsigned long long;
constexpr float kFixedOne = 1099511627776.0f;  // 2^40: 2^23 weights of at most 1 fit with room to spare

__device__ __forceinline__ Fixed fixed_weight(float weight) { return weight > 0.0f ? static_cast<Fixed>(weight * kFixedOne) : 0; }

// Grows as the logit falls, then with the index: the first candidate has the least key. NaN counts as -inf, -0 as +0.
__device__ __forceinline__ unsigned long long candidate_key(float logit, int64_t index) {
  const uint32_t bits = __float_as_uint(logit == logit ? logit + 0.0f : -INFINITY);
  const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(~ascending) << 32 | static_cast<uint32_t>(index);
}
__device__ __forceinline__ int64_t candidate_index(unsigned long long key) { return static_cast<int64_t>(static_cast<uint32_t>(key)); }

struct Selected {
  unsigned long long key;
  Fixed before;  // measure of all candidates ahead of it
};

// The first candidate, in order of keys, at which the running measure exceeds target. measure(i, key) is 0 for what is no candidate;
// the measures of all add up to more than target. Every thread gets the answer.
template <class Key, class Measure>
__device__ Selected block_select(int64_t n, const Key& key, const Measure& measure, Fixed target) {
  TREFOIL_SHARED(histogram, Fixed[256]);
  TREFOIL_SHARED(found, Selected);
  unsigned long long prefix = 0, mask = 0;
  Fixed before = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    if (shift < 32 && n <= int64_t{1} << shift) {  // this digit of every index is 0
      mask |= 255ull << shift;
      continue;
    }
    for (unsigned bin = threadIdx.x; bin < 256; bin += blockDim.x) histogram[bin] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const unsigned long long k = key(i);
      if ((k & mask) != prefix) continue;
      if (const Fixed m = measure(i, k)) atomicAdd(&histogram[k >> shift & 255u], m);
    }
    __syncthreads();
    if (threadIdx.x < kWarp) {  // 8 bins to a lane
      Fixed own = 0;
      for (int bin = 0; bin < 8; ++bin) own += histogram[lane_index() * 8 + bin];
      Fixed through = own;
      for (int offset = 1; offset < kWarp; offset *= 2) {
        const Fixed other = __shfl_up_sync(kFullWarp, through, static_cast<unsigned>(offset));
        if (lane_index() >= offset) through += other;
      }
      const uint32_t over = __ballot_sync(kFullWarp, before + through > target);
      if (lane_index() == __ffs(static_cast<int>(over)) - 1) {
        Fixed running = before + through - own;
        int bin = 0;
        while (bin < 7 && running + histogram[lane_index() * 8 + bin] <= target) running += histogram[lane_index() * 8 + bin++];
        found.key = prefix | static_cast<unsigned long long>(lane_index() * 8 + bin) << shift;
        found.before = running;
      }
    }
    __syncthreads();
    prefix = found.key;
    before = found.before;
    mask |= 255ull << shift;
  }
  return {prefix, before};
}

struct Smallest {
  __device__ __forceinline__ int64_t operator()(int64_t a, int64_t b) const { return a < b ? a : b; }
};

// The first index whose value is `wanted`; n if there is none.
template <class Value>
__device__ int64_t block_find(int64_t n, const Value& value, float wanted) {
  int64_t first = n;
  for (int64_t i = threadIdx.x; i < n && first == n; i += blockDim.x)
    if (value(i) == wanted) first = i;
  return block_reduce(first, n, Smallest{});
}

// What top-k and then top-p leave: candidates with keys up to `last`, of weight `total`.
struct Kept {
  unsigned long long last;
  Fixed total;
};

// weight(i) is fixed-point; total is the sum of all; it must not be 0.
template <class Key, class Weight>
__device__ Kept block_filter(int64_t n, const Key& key, const Weight& weight, Fixed total, int64_t top_k, double top_p) {
  Kept kept{~0ull, total};
  if (top_k > 0 && top_k < n) {
    kept.last = block_select(n, key, [](int64_t, unsigned long long) { return Fixed{1}; }, static_cast<Fixed>(top_k - 1)).key;
    Fixed sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
      if (key(i) <= kept.last) sum += weight(i);
    kept.total = block_sum(sum);
  }
  if (top_p < 1) {
    // Reaches top_p: running >= ceil(top_p total), at least one candidate.
    const Fixed reach = static_cast<Fixed>(ceil(top_p * static_cast<double>(kept.total)));
    const unsigned long long limit = kept.last;
    const auto measure = [&](int64_t i, unsigned long long k) { return k <= limit ? weight(i) : Fixed{0}; };
    const Selected last = block_select(n, key, measure, reach > kept.total ? kept.total - 1 : reach > 0 ? reach - 1 : 0);
    kept.last = last.key;
    kept.total = last.before + weight(candidate_index(last.key));
  }
  return kept;
}

// In ascending order of index, the first whose running weight exceeds target. Warps own stretches of `stretch`; `ahead` is the weight
// before this warp's, `own` its own. Every thread gets the answer.
template <class Weight>
__device__ int64_t block_draw(int64_t n, int64_t stretch, const Weight& weight, Fixed ahead, Fixed own, Fixed target) {
  TREFOIL_SHARED(drawn, int64_t);
  if (target >= ahead && target < ahead + own) {
    Fixed before = ahead;
    const int64_t begin = warp_index() * stretch, end = begin + stretch < n ? begin + stretch : n;
    for (int64_t base = begin; base < end; base += kWarp) {
      const int64_t i = base + lane_index();
      const Fixed mine = i < end ? weight(i) : 0;
      Fixed through = mine;
      for (int offset = 1; offset < kWarp; offset *= 2) {
        const Fixed other = __shfl_up_sync(kFullWarp, through, static_cast<unsigned>(offset));
        if (lane_index() >= offset) through += other;
      }
      const uint32_t over = __ballot_sync(kFullWarp, before + through > target);
      if (over) {
        if (lane_index() == 0) drawn = base + __ffs(static_cast<int>(over)) - 1;
        break;
      }
      before += __shfl_sync(kFullWarp, through, kWarp - 1);
    }
  }
  __syncthreads();
  return drawn;
}

// The point of [0, total) that a uniform number u in [0, 1) stands for.
__device__ __forceinline__ Fixed fixed_target(float u, Fixed total) {
  const Fixed target = static_cast<Fixed>(static_cast<double>(u) * static_cast<double>(total));
  return target < total ? target : total - 1;
}

}  // namespace trefoil::cuda
