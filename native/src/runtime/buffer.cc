#include "runtime/buffer.h"

#include <cstring>

namespace trefoil::runtime {

void check_whole(const Buffer& buffer, size_t bytes) {
  if (bytes != buffer.bytes()) fail(TREFOIL_INVALID_ARGUMENT, "the buffer has %zu bytes, the array %zu", buffer.bytes(), bytes);
}

bool write_if_idle(Buffer& buffer, const void* host) {
  if (buffer.bytes() == 0) return true;
  Device& device = buffer.device();
  return device.host_memory() && device.executor().run_if_idle([&] { std::memcpy(buffer.data(), host, buffer.bytes()); });
}

WriteJob::WriteJob(std::shared_ptr<Buffer> buffer, const void* host, std::shared_ptr<Completions> completions)
    : Job(std::move(completions)), buffer_(std::move(buffer)), host_(buffer_->device(), buffer_->bytes()) {
  if (host_.bytes()) std::memcpy(host_.data(), host, host_.bytes());
}

void WriteJob::execute() {
  Device& device = buffer_->device();
  try {
    device.copy_in(buffer_->data(), host_.data(), host_.bytes());
    device.synchronize();
  } catch (...) {
    device.defer_error(std::current_exception());
  }
}

void ReadJob::execute() {
  Device& device = buffer_->device();
  device.rethrow_deferred();
  host_ = HostBlock(device, buffer_->bytes());
  device.copy_out(host_.data(), buffer_->data(), host_.bytes());
  device.synchronize();
}

void SynchronizeJob::execute() {
  device_->rethrow_deferred();
  device_->synchronize();
}

}  // namespace trefoil::runtime
