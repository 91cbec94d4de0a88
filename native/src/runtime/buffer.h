// A device buffer with shared owners: the handle, the programs whose state it is, and the jobs under way.
#pragma once
#include <memory>

#include "runtime/device.h"

namespace trefoil::runtime {

class Buffer {
 public:
  Buffer(std::shared_ptr<Device> device, size_t bytes) : device_(std::move(device)), block_(*device_, bytes) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  Device& device() const { return *device_; }
  const std::shared_ptr<Device>& shared_device() const { return device_; }
  std::byte* data() const { return block_.data(); }
  size_t bytes() const { return block_.bytes(); }

 private:
  std::shared_ptr<Device> device_;  // before the block, which it outlives
  Block block_;
};

// Copies `bytes` of `host` now; the buffer changes in the order of jobs. Without a copy of the host data where the device
// has nothing to do; else returns true, and a job comes back through `completions`. Throws if the size is not the buffer's.
bool write(const std::shared_ptr<Buffer>& buffer, const void* host, size_t bytes, const std::shared_ptr<Completions>& completions);

// Reads a buffer in the order of jobs; once complete, data() holds its bytes.
class ReadJob : public Job {
 public:
  ReadJob(std::shared_ptr<Buffer> buffer, size_t bytes, std::shared_ptr<Completions> completions);
  void execute() override;
  const std::byte* data() const { return host_.data(); }
  size_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<Buffer> buffer_;
  size_t bytes_;
  HostBlock host_;
};

// Does nothing but take its turn.
class SynchronizeJob : public Job {
 public:
  SynchronizeJob(std::shared_ptr<Device> device, std::shared_ptr<Completions> completions)
      : Job(std::move(completions)), device_(std::move(device)) {}
  void execute() override;

 private:
  std::shared_ptr<Device> device_;
};

}  // namespace trefoil::runtime
