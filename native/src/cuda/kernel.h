// What every CUDA kernel file sees: the launch, the context, checks, and the language. See README.md for how such a file looks.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "device.h"
#include "error.h"
#include "launch.h"
#include "trefoil/backend.h"

namespace trefoil::cuda {

using KernelFunction = void (*)(const Context&, const TrefoilLaunch&);
using WorkspaceFunction = size_t (*)(const Context&, const TrefoilLaunch&);  // null: none; may depend on shapes, not on data

struct KernelEntry {
  const char* name;
  KernelFunction run;
  WorkspaceFunction workspace;
};
using KernelTable = const KernelEntry*;  // ends in {nullptr, nullptr, nullptr}

inline int64_t elements(const TrefoilView& view) {
  int64_t count = 1;
  for (int i = 0; i < view.rank; ++i) count *= view.shape[i];
  return count;
}
inline int64_t last_dimension(const TrefoilView& view) { return view.rank ? view.shape[view.rank - 1] : 1; }
inline int64_t row_count(const TrefoilView& view) {
  int64_t count = 1;
  for (int i = 0; i + 1 < view.rank; ++i) count *= view.shape[i];
  return count;
}
// A size that kernels count in 32 bits.
inline int side(const char* op, int64_t size) {
  if (size > INT32_MAX) fail(TREFOIL_INVALID_ARGUMENT, "%s: a side has 2^31 elements or more", op);
  return static_cast<int>(size);
}
inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t element_bytes(int32_t dtype) {
  switch (dtype) {
    case TREFOIL_F32:
    case TREFOIL_I32: return 4;
    case TREFOIL_BF16: return 2;
    case TREFOIL_U8: return 1;
    default: fail(TREFOIL_INVALID_ARGUMENT, "unknown dtype %d", dtype);
  }
}

template <class T>
inline T* data(const TrefoilView& view) { return static_cast<T*>(view.data); }
// The optional operand `index`, or null.
template <class T>
inline T* optional_input(const TrefoilLaunch& launch, int index) {
  return launch.input_count > index ? data<T>(launch.inputs[index]) : nullptr;
}
template <class T>
inline T* optional_output(const TrefoilLaunch& launch, int index) {
  return launch.output_count > index ? data<T>(launch.outputs[index]) : nullptr;
}

}  // namespace trefoil::cuda
