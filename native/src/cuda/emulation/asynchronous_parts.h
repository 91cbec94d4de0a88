// What asynchronous.cc (mbarriers, named barriers, registers), copy_engine.cc and products.cc share. The kernels' side is asynchronous.h.
#pragma once
#include <cstdint>

#include "emulation/asynchronous.h"
#include "emulation/block.h"

namespace trefoil::cuda::emulation {

inline Asynchronous& state() { return thread().block->asynchronous; }

// Memory at [address, address + bytes) of the window, or null.
unsigned char* at_address(const Block& block, uint32_t address, uint32_t bytes);
// The 128-byte swizzle: bits 4 to 6 of an address are exchanged by its bits 7 to 9.
inline uint32_t swizzled(uint32_t address) { return address ^ ((address >> 7 & 7u) << 4); }

Barrier* find_barrier(Block& block, const uint64_t* at);  // null: it is none
Barrier& barrier_at(uint64_t* at, const char* what);
void advance(Barrier& barrier);  // ends the phase where all have arrived and no byte is missing

// For the scheduler: one copy; the products that one warp waits for; the stores that one thread waits for. False: none is under way.
bool finish_copies(Block& block);
bool finish_warp(Block& block, bool backward);
bool finish_stores(Block& block);

template <class T, class Read>
void for_warp(const char* name, const T& value, const Read& read) {
  if (__builtin_popcount(thread().warp->members) != 32) stop("%s in a warp of fewer than 32 threads", name);
  collective(0xffffffffu, name, value, [&](const auto& lanes) {
    read(lanes);
    return 0;
  });
}

}  // namespace trefoil::cuda::emulation
