// Device memory that is only addresses: what is larger than a page or so cannot be read by anybody, so that host code which does so crashes. An
// address is given out once, so that one that is used after it was freed is known.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace fake_cudart {

struct Allocation {
  uintptr_t begin;
  size_t bytes;
  bool on_host;   // pinned
  bool readable;  // has contents
};

void* allocate(size_t bytes, bool on_host);  // null: the device is full
bool release(void* pointer, bool on_host);   // false: it is none
bool of_device(uintptr_t address);           // may be device memory, by its value
bool was_freed(uintptr_t address);           // memory that is gone began there
std::optional<Allocation> allocation_at(uintptr_t address);  // that is live and holds it, or ends there
// Copies what has contents; what has none reads as zeros. Why it may not be done, or nothing.
std::string copy(void* to, const void* from, size_t bytes, bool from_device, bool to_device);
std::string fill(void* to, int value, size_t bytes);
size_t most_device_bytes();  // at any time

}  // namespace fake_cudart
