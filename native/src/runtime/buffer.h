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

// Throws unless a host array of `bytes` can be read from or written to all of the buffer.
void check_whole(const Buffer& buffer, size_t bytes);

// Writes now, without a copy on the way, if the device has nothing to do and the host may touch its memory; else returns
// false, and a WriteJob is needed.
bool write_if_idle(Buffer& buffer, const void* host);

// Copies the host data now; the buffer changes in the order of jobs. An error is reported by the next job that is awaited.
class WriteJob : public Job {
 public:
  WriteJob(std::shared_ptr<Buffer> buffer, const void* host, std::shared_ptr<Completions> completions);
  void execute() override;

 private:
  std::shared_ptr<Buffer> buffer_;
  HostBlock host_;
};

// Reads a buffer in the order of jobs; output 0 is its bytes.
class ReadJob : public Job {
 public:
  ReadJob(std::shared_ptr<Buffer> buffer, std::shared_ptr<Completions> completions)
      : Job(std::move(completions)), buffer_(std::move(buffer)) {}
  void execute() override;
  std::span<const std::byte> output(size_t) const override { return {host_.data(), host_.bytes()}; }

 private:
  std::shared_ptr<Buffer> buffer_;
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
