// An entry point of the addon, and the guard that turns every C++ exception into a JavaScript one.
#pragma once
#include <napi.h>

#include "addon/environment.h"
#include "addon/js.h"

namespace trefoil::addon {

using Call = Napi::CallbackInfo;  // arguments are undefined past the last one given

// The library's own guard knows only Napi::Error, and lets through what is thrown while it throws.
template <Napi::Value (*body)(const Call&, Environment&)>
Napi::Value guarded(const Call& call) {
  try {
    return body(call, *call.Env().GetInstanceData<Environment>());
  } catch (...) {
    throw_current(call.Env());
    return {};
  }
}

// Each file of entry points adds its own to the exports.
template <Napi::Value (*body)(const Call&, Environment&)>
void define(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<guarded<body>>(exports.Env(), name));
}
void define_devices(Napi::Object exports);
void define_buffers(Napi::Object exports);
void define_programs(Napi::Object exports);
void define_files(Napi::Object exports);
void define_stored(Napi::Object exports);

}  // namespace trefoil::addon
