// Errors of the CUDA backend on their way to TrefoilStatus.
#pragma once
#include <stdexcept>

#include "trefoil/backend.h"

namespace trefoil::cuda {

struct KernelError : std::runtime_error {
  TrefoilCode code;
  KernelError(TrefoilCode code, const char* message) : std::runtime_error(message), code(code) {}
};

// Throws a KernelError. Host code only.
[[noreturn]] void fail(TrefoilCode code, const char* format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace trefoil::cuda
