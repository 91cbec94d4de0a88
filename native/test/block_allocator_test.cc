#include "cpu/block_allocator.h"

#include <cstring>
#include <random>

#include "harness.h"

using trefoil::cpu::BlockAllocator;

namespace trefoil::test {

// Blocks of all sizes come and go; each keeps its own bytes, and starts zeroed though the memory was someone else's.
TEST_ONCE(block_allocator_hands_out_zeroed_blocks_that_never_overlap) {
  struct Held {
    unsigned char* data;
    size_t bytes;
    unsigned char mark;
  };
  BlockAllocator allocator;
  std::mt19937 generator(7);
  std::vector<Held> held;
  auto intact = [](const Held& block) {
    for (size_t i = 0; i < block.bytes; ++i)
      if (block.data[i] != block.mark) return false;
    return true;
  };
  for (int round = 0; round < 600; ++round) {
    if (held.size() < 24 && generator() % 3 != 0) {
      const size_t largest[] = {200, 9000, 300000, 3 << 20, 12 << 20};
      size_t bytes = generator() % largest[round % 60 == 0 ? 4 : generator() % 4];
      auto* data = static_cast<unsigned char*>(allocator.allocate(bytes));
      CHECK(data && reinterpret_cast<uintptr_t>(data) % 64 == 0);
      Held block{data, bytes, 0};
      CHECK(intact(block));
      block.mark = static_cast<unsigned char>(1 + generator() % 255);
      std::memset(data, block.mark, bytes);
      held.push_back(block);
    } else if (!held.empty()) {
      size_t at = generator() % held.size();
      CHECK(intact(held[at]));
      allocator.release(held[at].data);
      held.erase(held.begin() + static_cast<long>(at));
    }
  }
  for (const Held& block : held) CHECK(intact(block));
  CHECK(allocator.allocate(SIZE_MAX) == nullptr);
  CHECK(allocator.allocate(size_t{1} << 60) == nullptr);
}

// A freed neighbourhood is one place again: what filled a slab in pieces fits it whole.
TEST_ONCE(block_allocator_joins_freed_neighbours) {
  BlockAllocator allocator;
  void* anchor = allocator.allocate(1 << 20);
  std::vector<void*> pieces;
  for (int i = 0; i < 8; ++i) pieces.push_back(allocator.allocate(1 << 19));
  for (int i : {3, 1, 2, 7, 0, 5, 6, 4}) allocator.release(pieces[static_cast<size_t>(i)]);
  void* whole = allocator.allocate(8 << 19);
#if !defined(__SANITIZE_ADDRESS__)
  CHECK(whole == pieces[0]);
#endif
  allocator.release(whole);
  allocator.release(anchor);
}

}  // namespace trefoil::test
