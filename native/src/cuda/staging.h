// Pinned memory that uploads and downloads pass through: pageable memory would make a copy wait for the stream, and at a lower rate.
// Uploads reach the device on a stream of their own, beside the kernels of the stream that they are for.
#pragma once
#include <cstddef>
#include <mutex>
#include <vector>

#include "event.h"

namespace trefoil::cuda {

class Staging {
 public:
  Staging() = default;
  ~Staging() { close(); }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Returns once the host's memory may change. Bytes travel to a landing place on the device while the stream is busy, and from there to
  // `to` when it is their turn. A large array goes in parts: one is copied by the host while the one before is on its way. More than
  // kParts parts wait for the stream; so do more than kSmallParts small arrays, which have places of their own: a run may have many.
  void copy_in(platform::Stream stream, void* to, const void* host, size_t bytes);
  // Small arrays reach the host with the next deliver(), large ones before this returns.
  void copy_out(platform::Stream stream, void* host, const void* from, size_t bytes);
  // Once the stream has been waited for.
  void deliver();
  // What was to be delivered no longer is.
  void forget();
  void close();

  static constexpr size_t kPartBytes = size_t{4} << 20, kSmallBytes = size_t{1} << 18, kParts = 4;
  static constexpr size_t kSmallPartBytes = size_t{1} << 16, kSmallParts = 64;

 private:
  struct Slot {
    void* memory = nullptr;   // of the ring's size, pinned
    void* landing = nullptr;  // as large, on the device; of uploads
    platform::Event arrived = nullptr, free = nullptr;
  };
  // Slots that take turns.
  struct Ring {
    size_t part;  // bytes of a slot
    std::vector<Slot> slots;
    size_t turn = 0;
  };
  struct Delivery {
    void* host;
    size_t offset, bytes;
  };
  static Slot& next_slot(Ring& ring);
  void send(const Ring& ring, Slot& slot, platform::Stream stream, void* to, size_t bytes);

  // A lock each: a download waits for the run that makes its numbers, and the thread that asks for the next run must not.
  std::mutex upload_mutex_, download_mutex_;
  Ring large_{kPartBytes, std::vector<Slot>(kParts)}, small_{kSmallPartBytes, std::vector<Slot>(kSmallParts)};
  platform::Stream uploads_ = nullptr;
  Ring returns_{kPartBytes, std::vector<Slot>(2)};
  char* outbox_ = nullptr;  // kPartBytes
  size_t outbox_used_ = 0;
  std::vector<Delivery> deliveries_;
};

}  // namespace trefoil::cuda
