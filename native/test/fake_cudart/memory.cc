#include "memory.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "device.h"

namespace fake_cudart {

namespace {

// Where other pointers are not. Memory begins at addresses of a kind that numbers next to what is left of a pointer, in the gaps of structs, seldom make up.
constexpr size_t kWindow = size_t{1} << 42, kReadable = 64 * 1024, kPage = 4096, kOffset = 0xb00;

struct Memory {
  std::mutex mutex;
  uintptr_t window = 0, next = 0;
  std::map<uintptr_t, Allocation> live;
  std::set<uintptr_t> freed;
  size_t used = 0, most = 0;
};
Memory& memory() {
  static Memory& all = *new Memory;  // never destroyed: libraries free memory while the process ends
  return all;
}

std::optional<Allocation> find(const Memory& all, uintptr_t address) {
  const auto after = all.live.upper_bound(address);
  if (after == all.live.begin()) return {};
  const Allocation& found = std::prev(after)->second;
  if (address > found.begin + found.bytes) return {};
  return found;
}

std::string check(Memory& all, const void* pointer, size_t bytes, bool on_device, const char* what) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (!on_device) return of_device(address) ? std::string(what) + " is device memory" : "";
  const auto found = find(all, address);
  char message[160];
  if (!found) std::snprintf(message, sizeof message, "%s %p is no device memory, or was freed", what, pointer);
  else if (address + bytes > found->begin + found->bytes) std::snprintf(message, sizeof message, "%s: %zu bytes at offset %zu of %zu", what, bytes, address - found->begin, found->bytes);
  else return "";
  return message;
}

}  // namespace

void* allocate(size_t bytes, bool on_host) {
  Memory& all = memory();
  std::lock_guard lock(all.mutex);
  if (on_host) {
    void* pointer = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pointer == MAP_FAILED) return nullptr;
    all.live[reinterpret_cast<uintptr_t>(pointer)] = {reinterpret_cast<uintptr_t>(pointer), bytes, true, true};
    return pointer;
  }
  if (all.used + bytes > device().memory) return nullptr;
  if (!all.window) {
    void* window = MAP_FAILED;
    for (uintptr_t at = 0x0b7e'0000'0000; window == MAP_FAILED && at < 0x5000'0000'0000; at += kWindow)  // V8 has some of these
      window = mmap(reinterpret_cast<void*>(at), kWindow, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (window == MAP_FAILED) return nullptr;
    all.window = reinterpret_cast<uintptr_t>(window);
    all.next = all.window;
  }
  const bool readable = bytes <= kReadable;
  const uintptr_t begin = all.next + kOffset;
  const size_t pages = (kOffset + bytes + kPage - 1) / kPage * kPage;
  if (all.next + pages + kPage > all.window + kWindow) return nullptr;
  if (readable && mprotect(reinterpret_cast<void*>(all.next), pages, PROT_READ | PROT_WRITE) != 0) return nullptr;
  all.next += pages + kPage;  // nothing lies right behind another
  all.live[begin] = {begin, bytes, false, readable};
  all.used += bytes;
  all.most = all.used > all.most ? all.used : all.most;
  return reinterpret_cast<void*>(begin);
}

bool release(void* pointer, bool on_host) {
  Memory& all = memory();
  std::lock_guard lock(all.mutex);
  const auto found = all.live.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == all.live.end() || found->second.on_host != on_host) return false;
  const Allocation gone = found->second;
  all.live.erase(found);
  if (on_host) munmap(pointer, gone.bytes);
  else {
    all.freed.insert(gone.begin);
    all.used -= gone.bytes;
    if (gone.readable) mprotect(reinterpret_cast<void*>(gone.begin - kOffset), (kOffset + gone.bytes + kPage - 1) / kPage * kPage, PROT_NONE);
  }
  return true;
}

bool of_device(uintptr_t address) {
  const Memory& all = memory();
  return all.window && address >= all.window && address < all.window + kWindow;
}

bool was_freed(uintptr_t address) {
  Memory& all = memory();
  std::lock_guard lock(all.mutex);
  return all.freed.contains(address);
}

std::optional<Allocation> allocation_at(uintptr_t address) {
  Memory& all = memory();
  std::lock_guard lock(all.mutex);
  return find(all, address);
}

std::string copy(void* to, const void* from, size_t bytes, bool from_device, bool to_device) {
  Memory& all = memory();
  std::lock_guard lock(all.mutex);
  std::string wrong = check(all, from, bytes, from_device, "the source");
  if (wrong.empty()) wrong = check(all, to, bytes, to_device, "the destination");
  if (!wrong.empty()) return wrong;
  const auto readable = [&](const void* pointer, bool on_device) { return !on_device || find(all, reinterpret_cast<uintptr_t>(pointer))->readable; };
  if (!readable(to, to_device)) return "";
  if (readable(from, from_device)) std::memmove(to, from, bytes);
  else std::memset(to, 0, bytes);
  return "";
}

std::string fill(void* to, int value, size_t bytes) {
  Memory& all = memory();
  std::lock_guard lock(all.mutex);
  std::string wrong = check(all, to, bytes, true, "the destination");
  if (wrong.empty() && find(all, reinterpret_cast<uintptr_t>(to))->readable) std::memset(to, value, bytes);
  return wrong;
}

size_t most_device_bytes() {
  Memory& all = memory();
  std::lock_guard lock(all.mutex);
  return all.most;
}

}  // namespace fake_cudart
