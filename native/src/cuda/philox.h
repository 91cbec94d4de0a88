// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3).
#pragma once
#include "language.h"

namespace trefoil::cuda {

// Block `block` of a stream under state = (seed low, seed high, step low, step high): key = seed, counter = (block, stream, step).
__device__ __forceinline__ uint4 philox(const int32_t* state, uint32_t stream, uint32_t block) {
  uint32_t x = block, y = stream, z = static_cast<uint32_t>(state[2]), w = static_cast<uint32_t>(state[3]);
  uint32_t key0 = static_cast<uint32_t>(state[0]), key1 = static_cast<uint32_t>(state[1]);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = __umulhi(0xD2511F53u, x), low0 = 0xD2511F53u * x, high1 = __umulhi(0xCD9E8D57u, z), low1 = 0xCD9E8D57u * z;
    x = high1 ^ y ^ key0;
    y = low1;
    z = high0 ^ w ^ key1;
    w = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return make_uint4(x, y, z, w);
}

// 24 bits to [0, 1).
__device__ __forceinline__ float unit_interval(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

}  // namespace trefoil::cuda
