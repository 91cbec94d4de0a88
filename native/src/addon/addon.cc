// Loads into every environment that asks: each gets an Environment of its own; devices are shared across the process.
#include "addon/entry.h"

NAPI_MODULE_INIT() {
  using namespace trefoil::addon;
  try {
    Environment::create(env);
    define_devices(env, exports);
    define_buffers(env, exports);
    define_programs(env, exports);
    define_files(env, exports);
  } catch (...) {
    throw_current(env);
    return nullptr;
  }
  return exports;
}
