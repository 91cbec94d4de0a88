#include "addon/entry.h"

namespace trefoil::addon {

namespace {

Napi::Value open_device(const Call& call, Environment& environment) {
  Napi::Object options = to_object(call[0], "options");
  runtime::DeviceOptions wanted;
  wanted.backend = to_string(options.Get("backend"), "options.backend");
  wanted.index = to_int32(options.Get("index"), "options.index");
  if (Napi::Value threads = options.Get("threads"); !threads.IsUndefined()) {
    wanted.threads = to_int32(threads, "options.threads");
    if (wanted.threads < 1) runtime::fail(TREFOIL_INVALID_ARGUMENT, "options.threads is %d; leave it out or give at least 1", wanted.threads);
  }
  if (Napi::Value isa = options.Get("isa"); !isa.IsUndefined()) wanted.isa = to_string(isa, "options.isa");
  if (Napi::Value precision = options.Get("precision"); !precision.IsUndefined()) wanted.precision = to_string(precision, "options.precision");
  if (Napi::Value library = options.Get("library"); !library.IsUndefined()) wanted.library = to_string(library, "options.library");
  return environment.keep(environment.devices, runtime::Device::open(wanted));
}

Napi::Value close_device(const Call& call, Environment& environment) {
  environment.devices.remove(call[0]);
  return {};
}

Napi::Value device_info(const Call& call, Environment& environment) {
  const runtime::Device& device = *environment.devices.at(call[0]);
  TrefoilDeviceInfo info = device.info();
  auto result = Napi::Object::New(call.Env());
  result.Set("backend", device.backend().name);
  result.Set("name", info.name);
  result.Set("isa", info.isa);
  result.Set("threads", info.threads);
  return result;
}

Napi::Value device_ops(const Call& call, Environment& environment) {
  std::vector<std::string> names = environment.devices.at(call[0])->ops();
  auto result = Napi::Array::New(call.Env(), names.size());
  for (uint32_t i = 0; i < names.size(); ++i) result.Set(i, names[i]);
  return result;
}

Napi::Value memory(const Call& call, Environment& environment) {
  runtime::MemoryUse use = environment.devices.at(call[0])->memory();
  auto result = Napi::Object::New(call.Env());
  result.Set("live", use.live);
  result.Set("peak", use.peak);
  result.Set("buffers", use.buffers);
  return result;
}

Napi::Value reset_peak(const Call& call, Environment& environment) {
  environment.devices.at(call[0])->reset_peak();
  return {};
}

Napi::Value synchronize(const Call& call, Environment& environment) {
  const std::shared_ptr<runtime::Device>& device = environment.devices.at(call[0]);
  return environment.submit(*device, std::make_unique<runtime::SynchronizeJob>(device, environment.inbox()), {});
}

}  // namespace

void define_devices(Napi::Object exports) {
  define<open_device>(exports, "openDevice");
  define<close_device>(exports, "closeDevice");
  define<device_info>(exports, "deviceInfo");
  define<device_ops>(exports, "deviceOps");
  define<memory>(exports, "memory");
  define<reset_peak>(exports, "resetPeak");
  define<synchronize>(exports, "synchronize");
}

}  // namespace trefoil::addon
