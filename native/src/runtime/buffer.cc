#include "runtime/buffer.h"

#include <cstring>

namespace trefoil::runtime {

namespace {

class WriteJob : public Job {
 public:
  WriteJob(std::shared_ptr<Buffer> buffer, const void* host, std::shared_ptr<Completions> completions)
      : Job(std::move(completions)), buffer_(std::move(buffer)), host_(buffer_->device(), buffer_->bytes()) {
    std::memcpy(host_.data(), host, buffer_->bytes());
  }
  void execute() override {
    try {
      buffer_->device().copy_in(buffer_->data(), host_.data(), buffer_->bytes());
    } catch (...) {
      buffer_->device().defer_error(std::current_exception());
    }
  }

 private:
  std::shared_ptr<Buffer> buffer_;
  HostBlock host_;
};

}  // namespace

bool write(const std::shared_ptr<Buffer>& buffer, const void* host, size_t bytes, const std::shared_ptr<Completions>& completions) {
  if (bytes != buffer->bytes()) fail(TREFOIL_INVALID_ARGUMENT, "cannot write %zu bytes to a buffer of %zu", bytes, buffer->bytes());
  if (bytes == 0) return false;
  Device& device = buffer->device();
  if (device.host_memory() && device.executor().run_if_idle([&] { std::memcpy(buffer->data(), host, bytes); })) return false;
  device.executor().submit(std::make_unique<WriteJob>(buffer, host, completions));
  return true;
}

ReadJob::ReadJob(std::shared_ptr<Buffer> buffer, size_t bytes, std::shared_ptr<Completions> completions)
    : Job(std::move(completions)), buffer_(std::move(buffer)), bytes_(bytes) {
  if (bytes != buffer_->bytes())
    fail(TREFOIL_INVALID_ARGUMENT, "cannot read a buffer of %zu bytes into an array of %zu", buffer_->bytes(), bytes);
}

void ReadJob::execute() {
  Device& device = buffer_->device();
  device.rethrow_deferred();
  host_ = HostBlock(device, bytes_);
  device.copy_out(host_.data(), buffer_->data(), bytes_);
  device.synchronize();
}

void SynchronizeJob::execute() {
  device_->rethrow_deferred();
  device_->synchronize();
}

}  // namespace trefoil::runtime
