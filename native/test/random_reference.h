// Philox 4x32-10 word by word, as in the paper: what the batched generator is compared with.
#pragma once
#include <array>
#include <cstdint>

namespace trefoil::test {

inline std::array<uint32_t, 4> philox_reference(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    uint64_t a = uint64_t{0xD2511F53u} * counter[0], b = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

inline double unit_reference(uint32_t bits) { return static_cast<double>(bits >> 8) / 16777216.0; }

}  // namespace trefoil::test
