// Selection in descending order of logits without a sort: radix select over 64-bit keys with histograms in shared memory. Weights are
// fixed-point numbers, so that their sums do not depend on an order. All functions are for a whole one-dimensional block.
#pragma once
#include "device.h"
#include "error.h"

namespace trefoil::cuda {

using Fixed = unsigned long long;
constexpr float kFixedOne = 1099511627776.0f;  // 2^40: kMostLogits weights of at most 1 fit with room to spare
constexpr int64_t kMostLogits = int64_t{1} << 23;
inline void check_logits(const char* op, int64_t n) {
  if (n > kMostLogits) fail(TREFOIL_INVALID_ARGUMENT, "%s: rows of %lld logits are too long on CUDA; at most %lld", op, static_cast<long long>(n), static_cast<long long>(kMostLogits));
}

__device__ __forceinline__ Fixed fixed_weight(float weight) { return weight > 0.0f ? static_cast<Fixed>(weight * kFixedOne) : 0; }

// Grows as the logit falls, then with the index: the first candidate has the least key. NaN counts as -inf, -0 as +0.
__device__ __forceinline__ unsigned long long candidate_key(float logit, int64_t index) {
  const uint32_t bits = __float_as_uint(logit == logit ? logit + 0.0f : -INFINITY);
  const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(~ascending) << 32 | static_cast<uint32_t>(index);
}

// *to += x in shared memory, by halves: the hardware adds 32 bits there at once, and 64 only by trying until nobody else has.
__device__ __forceinline__ void add_shared(Fixed* to, Fixed x) {
  auto* halves = reinterpret_cast<unsigned*>(to);
  const unsigned low = static_cast<unsigned>(x), carry = atomicAdd(halves, low) + low < low;
  if (const unsigned high = static_cast<unsigned>(x >> 32) + carry) atomicAdd(halves + 1, high);
}

// The key of the first candidate, in order of keys, at which the running measure exceeds target. measure(i, key) is 0 for what is no candidate;
// the measures of all add up to more than target. Every thread gets the answer.
template <class Key, class Measure>
__device__ unsigned long long block_select(int64_t n, const Key& key, const Measure& measure, Fixed target) {
  TREFOIL_SHARED(histogram, Fixed[256]);
  struct Found {
    unsigned long long key;
    Fixed before;  // measure of all candidates ahead of it
  };
  TREFOIL_SHARED(found, Found);
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
      if (const Fixed m = measure(i, k)) add_shared(&histogram[k >> shift & 255u], m);
    }
    __syncthreads();
    if (threadIdx.x < kWarp) {  // 8 bins to a lane
      Fixed own = 0;
      for (int bin = 0; bin < 8; ++bin) own += histogram[lane_index() * 8 + bin];
      const Fixed through = warp_through(own);
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
  return prefix;
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

// What top-k and then top-p leave: the last of their keys. weight(i) is fixed-point; total is the sum of all; it must not be 0.
template <class Key, class Weight>
__device__ unsigned long long block_filter(int64_t n, const Key& key, const Weight& weight, Fixed total, int64_t top_k, double top_p) {
  unsigned long long last = ~0ull;
  if (top_k > 0 && top_k < n) {
    last = block_select(n, key, [](int64_t, unsigned long long) { return Fixed{1}; }, static_cast<Fixed>(top_k - 1));
    Fixed sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
      if (key(i) <= last) sum += weight(i);
    total = block_sum(sum);
  }
  if (top_p < 1) {
    // Reaches top_p: running >= ceil(top_p total), at least one candidate.
    const Fixed reach = static_cast<Fixed>(ceil(top_p * static_cast<double>(total)));
    const auto measure = [&](int64_t i, unsigned long long k) { return k <= last ? weight(i) : Fixed{0}; };
    last = block_select(n, key, measure, reach > total ? total - 1 : reach > 0 ? reach - 1 : 0);
  }
  return last;
}

// The point of [0, total) that a uniform number u in [0, 1) stands for.
__device__ __forceinline__ Fixed fixed_target(float u, Fixed total) {
  const Fixed target = static_cast<Fixed>(static_cast<double>(u) * static_cast<double>(total));
  return target < total ? target : total - 1;
}

// Elements i to i + 3 of a row of n, -inf past the last; i is a multiple of four.
__device__ __forceinline__ float4 load_logits(const float* row, int64_t i, int64_t n) {
  if (n % 4 == 0) return load4(row + i);
  return make_float4(row[i], i + 1 < n ? row[i + 1] : -INFINITY, i + 2 < n ? row[i + 2] : -INFINITY, i + 3 < n ? row[i + 3] : -INFINITY);
}

// How a warp reads: four neighbours to a lane.
constexpr int kSpan = 4 * kWarp;

// Where the warps of a block share a range: elements of each, whole spans but at the range's end.
__device__ __forceinline__ int64_t warp_share(int64_t length) {
  const unsigned step = blockDim.x * 4;
  return static_cast<int64_t>((static_cast<unsigned>(length) + step - 1) / step) * kSpan;
}
// body(i) for each four elements, i to i + 3, of this lane in its warp's share of [begin, end).
template <class Body>
__device__ __forceinline__ void each_four(int64_t begin, int64_t end, const Body& body) {
  const int64_t share = warp_share(end - begin), first = begin + warp_index() * share, last = first + share < end ? first + share : end;
#pragma unroll 4
  for (int64_t i = first + lane_index() * 4; i < last; i += kSpan) body(i);
}

// In ascending order of index, the first whose running weight exceeds the point that u stands for. four(i, w): weights of elements i to i + 3,
// 0 past the last; `own` is their sum over each_four of this thread. The warps share the range, then the share that holds the point, and so on,
// until each of them can look at what is left. Every thread gets the answer; the sum of all weights is not 0.
template <class Four>
__device__ int64_t block_draw(int64_t n, const Four& four, Fixed own, float u) {
  TREFOIL_SHARED(totals, Fixed[kWarp]);
  int64_t begin = 0, end = n;
  Fixed target = 0, w[4];
  for (bool first = true;; first = false) {
    own = warp_sum(own);
    __syncthreads();  // the last round's readers are done
    if (lane_index() == 0) totals[warp_index()] = own;
    __syncthreads();
    const Fixed part = lane_index() < static_cast<int>(blockDim.x >> 5u) ? totals[lane_index()] : 0, through = warp_through(part);
    if (first) target = fixed_target(u, __shfl_sync(kFullWarp, through, kWarp - 1));
    const int at = __ffs(static_cast<int>(__ballot_sync(kFullWarp, through > target))) - 1;
    target -= __shfl_sync(kFullWarp, through - part, at);
    const int64_t share = warp_share(end - begin);
    begin += at * share;
    if (begin + share < end) end = begin + share;
    if (end - begin <= kSpan) break;
    own = 0;
    each_four(begin, end, [&](int64_t i) {
      four(i, w);
      own += (w[0] + w[1]) + (w[2] + w[3]);
    });
  }
  w[0] = w[1] = w[2] = w[3] = 0;
  if (begin + lane_index() * 4 < end) four(begin + lane_index() * 4, w);
  const Fixed mine = (w[0] + w[1]) + (w[2] + w[3]), through = warp_through(mine);
  const int at = __ffs(static_cast<int>(__ballot_sync(kFullWarp, through > target))) - 1;
  target -= __shfl_sync(kFullWarp, through - mine, at);
  const int within = (target >= w[0]) + (target >= w[0] + w[1]) + (target >= w[0] + w[1] + w[2]);
  return begin + at * 4 + __shfl_sync(kFullWarp, within, at);
}

// A token from n logits: the largest where scale is 0 (or no largest is finite), else drawn by e^(scale (x - top)) from what top-k and top-p
// leave. x(i) is a logit, x.four(i) are four, `top` is the largest. Every thread gets the token; normaliser = sum of e^(x - top).
template <class Value>
__device__ int64_t block_sample(int64_t n, const Value& x, float top, float scale, int64_t top_k, double top_p, float u, double& normaliser) {
  const bool greedy = scale == 0 || top_k == 1 || !(top < INFINITY && top > -INFINITY);
  const auto weighed = [&](float value) { return fixed_weight(expf((value - top) * scale)); };
  Fixed own = 0;
  float sum = 0;
  each_four(0, n, [&](int64_t i) {
    const float4 v = x.four(i);
    const float a = expf(v.x - top), b = expf(v.y - top), c = expf(v.z - top), d = expf(v.w - top);
    sum += (a + b) + (c + d);
    if (scale == 1.0f) own += (fixed_weight(a) + fixed_weight(b)) + (fixed_weight(c) + fixed_weight(d));
    else if (!greedy) own += (weighed(v.x) + weighed(v.y)) + (weighed(v.z) + weighed(v.w));
  });
  normaliser = block_sum(static_cast<double>(sum));
  if (greedy) {
    const int64_t token = block_find(n, x, top);
    return token < n ? token : 0;
  }
  const auto four = [&](int64_t i, Fixed (&w)[4]) {
    const float4 v = x.four(i);
    w[0] = weighed(v.x), w[1] = weighed(v.y), w[2] = weighed(v.z), w[3] = weighed(v.w);
  };
  if ((top_k <= 0 || top_k >= n) && top_p >= 1) return block_draw(n, four, own, u);
  const auto key = [&](int64_t i) { return candidate_key(x(i), i); };
  const unsigned long long last = block_filter(n, key, [&](int64_t i) { return weighed(x(i)); }, block_sum(own), top_k, top_p);
  const auto kept = [&](int64_t i, Fixed (&w)[4]) {
    const float4 v = x.four(i);
    w[0] = candidate_key(v.x, i) <= last ? weighed(v.x) : 0, w[1] = candidate_key(v.y, i + 1) <= last ? weighed(v.y) : 0;
    w[2] = candidate_key(v.z, i + 2) <= last ? weighed(v.z) : 0, w[3] = candidate_key(v.w, i + 3) <= last ? weighed(v.w) : 0;
  };
  own = 0;
  each_four(0, n, [&](int64_t i) {
    Fixed w[4];
    kept(i, w);
    own += (w[0] + w[1]) + (w[2] + w[3]);
  });
  return block_draw(n, kept, own, u);
}

}  // namespace trefoil::cuda
