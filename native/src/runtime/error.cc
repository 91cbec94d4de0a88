#include "runtime/error.h"

#include <cstdarg>
#include <cstdio>

namespace trefoil::runtime {

void fail(TrefoilCode code, const char* format, ...) {
  char message[1000];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  throw Error(code, message);
}

const char* code_name(int32_t code) {
  switch (code) {
    case TREFOIL_OK: return "TREFOIL_OK";
    case TREFOIL_INVALID_ARGUMENT: return "TREFOIL_INVALID_ARGUMENT";
    case TREFOIL_INDEX_OUT_OF_RANGE: return "TREFOIL_INDEX_OUT_OF_RANGE";
    case TREFOIL_UNSUPPORTED_OP: return "TREFOIL_UNSUPPORTED_OP";
    case TREFOIL_OUT_OF_MEMORY: return "TREFOIL_OUT_OF_MEMORY";
    case TREFOIL_DEVICE_UNAVAILABLE: return "TREFOIL_DEVICE_UNAVAILABLE";
    case TREFOIL_NON_FINITE: return "TREFOIL_NON_FINITE";
    default: return "TREFOIL_INTERNAL";
  }
}

const char* dtype_name(int32_t dtype) {
  switch (dtype) {
    case TREFOIL_F32: return "f32";
    case TREFOIL_I32: return "i32";
    case TREFOIL_BF16: return "bf16";
    case TREFOIL_U8: return "u8";
    default: return "unknown";
  }
}

size_t dtype_bytes(int32_t dtype) {
  switch (dtype) {
    case TREFOIL_F32:
    case TREFOIL_I32: return 4;
    case TREFOIL_BF16: return 2;
    case TREFOIL_U8: return 1;
    default: return 0;
  }
}

}  // namespace trefoil::runtime
