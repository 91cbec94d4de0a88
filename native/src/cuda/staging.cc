#include "staging.h"

#include <algorithm>
#include <cstring>

namespace trefoil::cuda {

// The slot whose turn it is, once its last copy is done.
Staging::Slot& Staging::next_slot(Ring& ring) {
  Slot& slot = ring.slots[ring.turn++ % ring.slots.size()];
  if (!slot.free) slot.free = platform::create_event();  // not waited for before it is recorded
  if (!slot.memory) slot.memory = platform::allocate_pinned(ring.part);
  platform::wait(slot.free);
  return slot;
}

void Staging::send(const Ring& ring, Slot& slot, platform::Stream stream, void* to, size_t bytes) {
  if (!uploads_) uploads_ = platform::create_copy_stream();
  if (!slot.arrived) slot.arrived = platform::create_event();
  if (!slot.landing) slot.landing = platform::allocate(ring.part);
  if (!slot.landing) {  // no memory left for it: in turn, as kernels
    platform::copy_in(stream, to, slot.memory, bytes);
  } else {
    platform::copy_in(uploads_, slot.landing, slot.memory, bytes);
    platform::record(slot.arrived, uploads_);
    platform::wait_for(stream, slot.arrived);
    platform::copy(stream, to, slot.landing, bytes);
  }
  platform::record(slot.free, stream);
}

void Staging::copy_in(platform::Stream stream, void* to, const void* host, size_t bytes) {
  std::lock_guard lock(upload_mutex_);
  Ring& ring = bytes <= kSmallPartBytes ? small_ : large_;
  for (size_t at = 0; at < bytes; at += ring.part) {
    const size_t part = std::min(bytes - at, ring.part);
    Slot& slot = next_slot(ring);
    std::memcpy(slot.memory, static_cast<const char*>(host) + at, part);
    send(ring, slot, stream, static_cast<char*>(to) + at, part);
  }
}

void Staging::copy_out(platform::Stream stream, void* host, const void* from, size_t bytes) {
  std::lock_guard lock(download_mutex_);
  if (bytes <= kSmallBytes && outbox_used_ + bytes <= kPartBytes) {
    if (!outbox_) outbox_ = static_cast<char*>(platform::allocate_pinned(kPartBytes));
    platform::copy_out(stream, outbox_ + outbox_used_, from, bytes);
    deliveries_.push_back({host, outbox_used_, bytes});
    outbox_used_ += (bytes + 63) / 64 * 64;
    return;
  }
  Slot* before = nullptr;
  size_t before_at = 0;
  const auto take = [&](size_t end) {
    if (!before) return;
    platform::wait(before->free);
    std::memcpy(static_cast<char*>(host) + before_at, before->memory, end - before_at);
  };
  for (size_t at = 0; at < bytes; at += kPartBytes) {
    Slot& slot = next_slot(returns_);
    platform::copy_out(stream, slot.memory, static_cast<const char*>(from) + at, std::min(bytes - at, kPartBytes));
    platform::record(slot.free, stream);
    take(at);
    before = &slot;
    before_at = at;
  }
  take(bytes);
}

void Staging::deliver() {
  std::lock_guard lock(download_mutex_);
  for (const Delivery& delivery : deliveries_) std::memcpy(delivery.host, outbox_ + delivery.offset, delivery.bytes);
  deliveries_.clear();
  outbox_used_ = 0;
}

void Staging::forget() {
  std::lock_guard lock(download_mutex_);
  deliveries_.clear();
  outbox_used_ = 0;
}

void Staging::close() {
  for (Ring* ring : {&large_, &small_, &returns_})
    for (Slot& slot : ring->slots) {
      if (slot.memory) platform::release_pinned(slot.memory);
      if (slot.landing) platform::release(slot.landing);
      for (platform::Event event : {slot.arrived, slot.free})
        if (event) platform::destroy_event(event);
      slot = {};
    }
  if (uploads_) platform::destroy_stream(uploads_);
  uploads_ = nullptr;
  if (outbox_) platform::release_pinned(outbox_);
  outbox_ = nullptr;
}

}  // namespace trefoil::cuda
