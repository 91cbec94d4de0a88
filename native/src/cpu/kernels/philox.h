// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3).
#pragma once
#include "../kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

// What a random op draws from: key = seed; counter = (block, stream, step low, step high).
struct PhiloxStream {
  uint32_t key0, key1, stream, step_low, step_high;
};

inline PhiloxStream philox_stream(const TrefoilView& state, double stream) {
  const int32_t* words = data<int32_t>(state);
  return {static_cast<uint32_t>(words[0]), static_cast<uint32_t>(words[1]), static_cast<uint32_t>(static_cast<int64_t>(stream)),
          static_cast<uint32_t>(words[2]), static_cast<uint32_t>(words[3])};
}

// Blocks [first, first + kPhiloxBatch): word w of block i is words[w][i]. One loop per round, so that lanes are blocks.
constexpr int kPhiloxBatch = 64;
inline void philox(const PhiloxStream& stream, uint32_t first, uint32_t words[4][kPhiloxBatch]) {
  for (int i = 0; i < kPhiloxBatch; ++i) {
    words[0][i] = first + static_cast<uint32_t>(i);
    words[1][i] = stream.stream;
    words[2][i] = stream.step_low;
    words[3][i] = stream.step_high;
  }
  uint32_t key0 = stream.key0, key1 = stream.key1;
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kPhiloxBatch; ++i) {
      uint64_t product0 = uint64_t{0xD2511F53u} * words[0][i], product1 = uint64_t{0xCD9E8D57u} * words[2][i];
      words[0][i] = static_cast<uint32_t>(product1 >> 32) ^ words[1][i] ^ key0;
      words[1][i] = static_cast<uint32_t>(product1);
      words[2][i] = static_cast<uint32_t>(product0 >> 32) ^ words[3][i] ^ key1;
      words[3][i] = static_cast<uint32_t>(product0);
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

// 24 bits to [0, 1).
inline float unit_interval(uint32_t bits) { return static_cast<float>(static_cast<int32_t>(bits >> 8)) * 0x1p-24f; }

}  // namespace trefoil::cpu::TREFOIL_ISA
