// Device memory in huge pages. Most tensors are smaller than a few huge pages; read from 4 KiB pages they arrive at half the
// speed (lab/NOTES-cpu.md), so they are cut from slabs.
#pragma once
#include <cstddef>
#include <map>
#include <mutex>
#include <unordered_map>

namespace trefoil::cpu {

// Zeroed, 64-byte aligned blocks. Thread-safe. The memory of a slab goes back to the system when its last block is freed.
class BlockAllocator {
 public:
  BlockAllocator() = default;
  ~BlockAllocator();
  BlockAllocator(const BlockAllocator&) = delete;
  BlockAllocator& operator=(const BlockAllocator&) = delete;

  // Null when the system has no memory.
  void* allocate(size_t bytes) noexcept;
  void release(void* pointer) noexcept;

 private:
  struct Slab {
    size_t bytes;
    size_t touched = 0;                 // from here on nothing was ever handed out: still zero
    size_t used = 0;
    std::map<size_t, size_t> free;      // offset -> bytes, neighbours joined
  };
  struct Block {
    size_t bytes;
    bool own_mapping;
  };
  void* cut(size_t bytes);

  std::mutex mutex_;
  std::map<char*, Slab> slabs_;
  std::unordered_map<void*, Block> blocks_;
};

}  // namespace trefoil::cpu
