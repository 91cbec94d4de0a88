// Loads into every environment that asks: each gets an Environment of its own; devices are shared across the process.
#include "addon/entry.h"

namespace trefoil::addon {

static Napi::Object load(Napi::Env env, Napi::Object exports) {
  try {
    Environment::create(env);
    define_devices(exports);
    define_buffers(exports);
    define_programs(exports);
    define_files(exports);
    define_stored(exports);
  } catch (...) {
    throw_current(env);
  }
  return exports;
}

NODE_API_MODULE(trefoil, load)

}  // namespace trefoil::addon
