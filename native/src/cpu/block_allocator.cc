#include "block_allocator.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>
#include <utility>

namespace trefoil::cpu {

namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kSlab = 16 * kHugePage;
// Smaller blocks stay with malloc, where they are cheap; larger ones are mappings of their own, given back at once.
constexpr size_t kLeastInSlab = size_t{4} << 10;
constexpr size_t kMostInSlab = kSlab / 4;
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kUseSlabs = false;  // a write past a block should be seen
#else
constexpr bool kUseSlabs = true;
#endif

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Zeroed pages that begin at a huge page, which the system fills without touching them. Null where there are none.
void* map_pages(size_t bytes) {
  size_t reserved = bytes + kHugePage;
  void* mapped = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* start = static_cast<char*>(mapped);
  char* aligned = reinterpret_cast<char*>(round_up(reinterpret_cast<uintptr_t>(start), kHugePage));
  if (aligned > start) munmap(start, static_cast<size_t>(aligned - start));
  char *end = aligned + bytes, *reserved_end = start + reserved;
  if (reserved_end > end) munmap(end, static_cast<size_t>(reserved_end - end));
#if defined(MADV_HUGEPAGE)
  madvise(aligned, bytes, MADV_HUGEPAGE);
#endif
  return aligned;
}

}  // namespace

BlockAllocator::~BlockAllocator() {
  for (auto& [pointer, block] : blocks_)
    if (block.own_mapping) munmap(pointer, block.bytes);
  for (auto& [pointer, slab] : slabs_) munmap(pointer, slab.bytes);
}

void* BlockAllocator::allocate(size_t bytes) noexcept {
  if (bytes > SIZE_MAX - 2 * kHugePage) return nullptr;
  try {
    if (bytes < kLeastInSlab || (!kUseSlabs && bytes <= kMostInSlab)) {
      size_t rounded = round_up(bytes > 0 ? bytes : 1, kAlignment);
      void* pointer = std::aligned_alloc(kAlignment, rounded);
      if (pointer) std::memset(pointer, 0, rounded);
      return pointer;
    }
    std::lock_guard lock(mutex_);
    if (bytes <= kMostInSlab) return cut(round_up(bytes, kAlignment));
    size_t rounded = round_up(bytes, 4096);
    void* pointer = map_pages(rounded);
    if (!pointer) return nullptr;
    try {
      blocks_.emplace(pointer, Block{rounded, true});
    } catch (...) {
      munmap(pointer, rounded);
      return nullptr;
    }
    return pointer;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

// The first place that is large enough, slab by slab in order of address.
void* BlockAllocator::cut(size_t bytes) {
  auto at = slabs_.begin();
  std::map<size_t, size_t>::iterator place;
  for (; at != slabs_.end(); ++at) {
    auto& free = at->second.free;
    for (place = free.begin(); place != free.end() && place->second < bytes; ++place) {
    }
    if (place != free.end()) break;
  }
  if (at == slabs_.end()) {
    void* pages = map_pages(kSlab);
    if (!pages) return nullptr;
    try {
      at = slabs_.emplace(static_cast<char*>(pages), Slab{kSlab, 0, 0, {{0, kSlab}}}).first;
    } catch (...) {
      munmap(pages, kSlab);
      throw;
    }
    place = at->second.free.begin();
  }
  Slab& slab = at->second;
  const auto [offset, room] = *place;
  char* pointer = at->first + offset;
  blocks_.emplace(pointer, Block{bytes, false});
  auto node = slab.free.extract(place);
  if (room > bytes) {
    node.key() = offset + bytes;
    node.mapped() = room - bytes;
    slab.free.insert(std::move(node));
  }
  slab.used += bytes;
  if (offset < slab.touched) std::memset(pointer, 0, offset + bytes < slab.touched ? bytes : slab.touched - offset);
  if (slab.touched < offset + bytes) slab.touched = offset + bytes;
  return pointer;
}

void BlockAllocator::release(void* pointer) noexcept {
  if (!pointer) return;
  std::lock_guard lock(mutex_);
  auto found = blocks_.find(pointer);
  if (found == blocks_.end()) {
    std::free(pointer);
    return;
  }
  const Block block = found->second;
  blocks_.erase(found);
  if (block.own_mapping) {
    munmap(pointer, block.bytes);
    return;
  }
  auto at = std::prev(slabs_.upper_bound(static_cast<char*>(pointer)));
  Slab& slab = at->second;
  slab.used -= block.bytes;
  if (slab.used == 0) {
    munmap(at->first, slab.bytes);
    slabs_.erase(at);
    return;
  }
  size_t offset = static_cast<size_t>(static_cast<char*>(pointer) - at->first), bytes = block.bytes;
  auto next = slab.free.lower_bound(offset);
  if (next != slab.free.end() && next->first == offset + bytes) {
    bytes += next->second;
    next = slab.free.erase(next);
  }
  if (next != slab.free.begin()) {
    auto previous = std::prev(next);
    if (previous->first + previous->second == offset) {
      previous->second += bytes;
      return;
    }
  }
  try {
    slab.free.emplace_hint(next, offset, bytes);
  } catch (const std::bad_alloc&) {
    // This stretch is lost until its slab is empty.
  }
}

}  // namespace trefoil::cpu
