#pragma once
#include "addon/entry.h"
#include "runtime/spec.h"

namespace trefoil::addon {

// Reads a `ProgramSpec` of native/addon.ts. The bytes of constants are borrowed from JavaScript until the entry point returns.
runtime::ProgramSpec to_program_spec(const Environment& environment, Napi::Value value);

}  // namespace trefoil::addon
