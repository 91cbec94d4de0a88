// An entry point of the addon: its arguments, and the guard that turns every C++ exception into a JavaScript one.
#pragma once
#include <node_api.h>

#include "addon/environment.h"
#include "addon/js.h"

namespace trefoil::addon {

constexpr size_t kMaxArguments = 4;

struct Call {
  napi_env env;
  Environment& environment;
  napi_value arguments[kMaxArguments];  // undefined past the last one given
};

template <napi_value (*body)(Call&)>
napi_value entry(napi_env env, napi_callback_info info) {
  try {
    Call call{env, Environment::of(env), {}};
    size_t count = kMaxArguments;
    check(env, napi_get_cb_info(env, info, &count, call.arguments, nullptr, nullptr));
    return body(call);
  } catch (...) {
    throw_current(env);
    return nullptr;
  }
}

// Each file of entry points adds its own to the exports.
template <napi_value (*body)(Call&)>
void define(napi_env env, napi_value exports, const char* name) {
  napi_value function;
  check(env, napi_create_function(env, name, NAPI_AUTO_LENGTH, entry<body>, nullptr, &function));
  set(env, exports, name, function);
}
void define_devices(napi_env env, napi_value exports);
void define_buffers(napi_env env, napi_value exports);
void define_programs(napi_env env, napi_value exports);
void define_files(napi_env env, napi_value exports);

}  // namespace trefoil::addon
