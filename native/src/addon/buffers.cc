#include "addon/entry.h"

namespace trefoil::addon {

namespace {

// Tells V8 what a small handle really holds, so that garbage collection comes in time.
void adjust_external_memory(Napi::Env env, int64_t change) { Napi::MemoryManagement::AdjustExternalMemory(env, change); }

Napi::Value create_buffer(const Call& call, Environment& environment) {
  const std::shared_ptr<runtime::Device>& device = environment.devices.at(call[0]);
  size_t bytes = to_size(call[1], "bytes");
  HeldBuffer buffer(std::make_shared<runtime::Buffer>(device, bytes));
  adjust_external_memory(call.Env(), static_cast<int64_t>(bytes));
  return environment.keep(environment.buffers, std::move(buffer));
}

Napi::Value write_buffer(const Call& call, Environment& environment) {
  const std::shared_ptr<runtime::Buffer>& buffer = environment.buffers.at(call[0]).get();
  std::span<std::byte> source = to_bytes(call[1], "source");
  check_whole(*buffer, source.size());
  if (!write_if_idle(*buffer, source.data()))
    environment.submit_unawaited(buffer->device(),
                                 std::make_unique<runtime::WriteJob>(buffer, source.data(), environment.inbox()));
  return {};
}

Napi::Value read_buffer(const Call& call, Environment& environment) {
  const std::shared_ptr<runtime::Buffer>& buffer = environment.buffers.at(call[0]).get();
  Napi::Value target = call[1];
  check_whole(*buffer, to_bytes(target, "target").size());
  return environment.submit(buffer->device(), std::make_unique<runtime::ReadJob>(buffer, environment.inbox()), {&target, 1});
}

Napi::Value release_buffer(const Call& call, Environment& environment) {
  HeldBuffer buffer = environment.buffers.remove(call[0]);
  adjust_external_memory(call.Env(), -static_cast<int64_t>(buffer.get()->bytes()));
  return {};
}

}  // namespace

void define_buffers(Napi::Object exports) {
  define<create_buffer>(exports, "createBuffer");
  define<write_buffer>(exports, "writeBuffer");
  define<read_buffer>(exports, "readBuffer");
  define<release_buffer>(exports, "releaseBuffer");
}

}  // namespace trefoil::addon
