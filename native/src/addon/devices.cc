#include "addon/entry.h"

namespace trefoil::addon {

namespace {

napi_value open_device(Call& call) {
  napi_env env = call.env;
  napi_value options = call.arguments[0];
  auto get = [&](const char* name) { return property(env, options, name, "options"); };
  runtime::DeviceOptions wanted;
  wanted.backend = to_string(env, get("backend"), "options.backend");
  wanted.index = to_int32(env, get("index"), "options.index");
  if (napi_value threads = get("threads"); !is_undefined(env, threads)) {
    wanted.threads = to_int32(env, threads, "options.threads");
    if (wanted.threads < 1) runtime::fail(TREFOIL_INVALID_ARGUMENT, "options.threads is %d; leave it out or give at least 1", wanted.threads);
  }
  if (napi_value isa = get("isa"); !is_undefined(env, isa)) wanted.isa = to_string(env, isa, "options.isa");
  if (napi_value library = get("library"); !is_undefined(env, library)) wanted.library = to_string(env, library, "options.library");
  std::shared_ptr<runtime::Device> device = runtime::Device::open(wanted);
  int64_t handle = call.environment.next_handle();
  call.environment.devices.add(handle, std::move(device));
  return make_number(env, static_cast<double>(handle));
}

napi_value close_device(Call& call) {
  call.environment.devices.remove(call.env, call.arguments[0]);
  return nullptr;
}

napi_value device_info(Call& call) {
  napi_env env = call.env;
  const runtime::Device& device = *call.environment.devices.at(env, call.arguments[0]);
  TrefoilDeviceInfo info = device.info();
  napi_value result;
  check(env, napi_create_object(env, &result));
  set(env, result, "backend", make_string(env, device.backend().name));
  set(env, result, "name", make_string(env, info.name));
  set(env, result, "isa", make_string(env, info.isa));
  set(env, result, "threads", make_number(env, info.threads));
  return result;
}

napi_value device_ops(Call& call) {
  napi_env env = call.env;
  std::vector<std::string> names = call.environment.devices.at(env, call.arguments[0])->ops();
  napi_value result;
  check(env, napi_create_array_with_length(env, names.size(), &result));
  for (uint32_t i = 0; i < names.size(); ++i) check(env, napi_set_element(env, result, i, make_string(env, names[i])));
  return result;
}

napi_value memory(Call& call) {
  napi_env env = call.env;
  runtime::MemoryUse use = call.environment.devices.at(env, call.arguments[0])->memory();
  napi_value result;
  check(env, napi_create_object(env, &result));
  set(env, result, "live", make_number(env, static_cast<double>(use.live)));
  set(env, result, "peak", make_number(env, static_cast<double>(use.peak)));
  set(env, result, "buffers", make_number(env, static_cast<double>(use.buffers)));
  return result;
}

napi_value reset_peak(Call& call) {
  call.environment.devices.at(call.env, call.arguments[0])->reset_peak();
  return nullptr;
}

napi_value synchronize(Call& call) {
  const std::shared_ptr<runtime::Device>& device = call.environment.devices.at(call.env, call.arguments[0]);
  return call.environment.submit(*device, std::make_unique<runtime::SynchronizeJob>(device, call.environment.inbox()), nullptr, 0);
}

}  // namespace

void define_devices(napi_env env, napi_value exports) {
  define<open_device>(env, exports, "openDevice");
  define<close_device>(env, exports, "closeDevice");
  define<device_info>(env, exports, "deviceInfo");
  define<device_ops>(env, exports, "deviceOps");
  define<memory>(env, exports, "memory");
  define<reset_peak>(env, exports, "resetPeak");
  define<synchronize>(env, exports, "synchronize");
}

}  // namespace trefoil::addon
