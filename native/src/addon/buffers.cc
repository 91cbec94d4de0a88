#include "addon/entry.h"

namespace trefoil::addon {

namespace {

// Tells V8 what a small handle really holds, so that garbage collection comes in time. Only on the environment's thread.
void adjust_external_memory(napi_env env, int64_t change) {
  int64_t total;
  check(env, napi_adjust_external_memory(env, change, &total));
}

napi_value create_buffer(Call& call) {
  napi_env env = call.env;
  const std::shared_ptr<runtime::Device>& device = call.environment.devices.at(env, call.arguments[0]);
  size_t bytes = to_size(env, call.arguments[1], "bytes");
  HeldBuffer buffer(std::make_shared<runtime::Buffer>(device, bytes));
  int64_t handle = call.environment.next_handle();
  call.environment.buffers.add(handle, std::move(buffer));
  adjust_external_memory(env, static_cast<int64_t>(bytes));
  return make_number(env, static_cast<double>(handle));
}

napi_value write_buffer(Call& call) {
  const std::shared_ptr<runtime::Buffer>& buffer = call.environment.buffers.at(call.env, call.arguments[0]).get();
  Bytes source = to_bytes(call.env, call.arguments[1], "source");
  check_whole(*buffer, source.size);
  if (!write_if_idle(*buffer, source.data))
    call.environment.submit_unawaited(buffer->device(),
                                      std::make_unique<runtime::WriteJob>(buffer, source.data, call.environment.inbox()));
  return nullptr;
}

napi_value read_buffer(Call& call) {
  const std::shared_ptr<runtime::Buffer>& buffer = call.environment.buffers.at(call.env, call.arguments[0]).get();
  Bytes target = to_bytes(call.env, call.arguments[1], "target");
  check_whole(*buffer, target.size);
  return call.environment.submit(buffer->device(), std::make_unique<runtime::ReadJob>(buffer, call.environment.inbox()),
                                 &call.arguments[1], 1);
}

napi_value release_buffer(Call& call) {
  HeldBuffer buffer = call.environment.buffers.remove(call.env, call.arguments[0]);
  adjust_external_memory(call.env, -static_cast<int64_t>(buffer.get()->bytes()));
  return nullptr;
}

}  // namespace

void define_buffers(napi_env env, napi_value exports) {
  define<create_buffer>(env, exports, "createBuffer");
  define<write_buffer>(env, exports, "writeBuffer");
  define<read_buffer>(env, exports, "readBuffer");
  define<release_buffer>(env, exports, "releaseBuffer");
}

}  // namespace trefoil::addon
