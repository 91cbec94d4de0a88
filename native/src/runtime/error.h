// The one exception of the runtime: becomes a JavaScript error with `code`, `op` and `instruction`.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

#include "trefoil/backend.h"

namespace trefoil::runtime {

struct Error : std::runtime_error {
  TrefoilCode code;
  std::string op;            // empty: no op is to blame
  int64_t instruction = -1;  // its number in the program
  Error(TrefoilCode code, const std::string& message) : std::runtime_error(message), code(code) {}
  Error(TrefoilCode code, const std::string& message, std::string op, int64_t instruction)
      : std::runtime_error(message), code(code), op(std::move(op)), instruction(instruction) {}
};

// printf-style; throws Error.
[[noreturn]] void fail(TrefoilCode code, const char* format, ...) __attribute__((format(printf, 2, 3)));

// "TREFOIL_INVALID_ARGUMENT", …
const char* code_name(int32_t code);

// "f32", …; "dtype 9" has no name: "unknown".
const char* dtype_name(int32_t dtype);
// Bytes of one element; 0 for an unknown dtype.
size_t dtype_bytes(int32_t dtype);

}  // namespace trefoil::runtime
