// launch(context, {blocks, threads, shared_bytes}, kernel, arguments…): how kernels start, on a device or in the emulator.
#pragma once
#include <tuple>
#include <type_traits>
#include <utility>

#include "context.h"
#include "error.h"

namespace trefoil::cuda {

struct Shape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic shared memory
};

// A grid without blocks, or of more than the hardware's 65535 in y or z, is a mistake of the caller.
inline void check_shape(const Context& context, const Shape& shape) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0 || shape.grid.x > 0x7fffffffu || shape.grid.y > 65535 || shape.grid.z > 65535)
    fail(TREFOIL_INTERNAL, "a grid of %u x %u x %u blocks cannot be launched", shape.grid.x, shape.grid.y, shape.grid.z);
  if (shape.shared_bytes > context.shared_limit)
    fail(TREFOIL_INTERNAL, "a block asks for %zu bytes of shared memory; the device has %zu", shape.shared_bytes, context.shared_limit);
}

#if defined(TREFOIL_CUDA_EMULATED)

template <class... Parameters, class... Arguments>
void launch(const Context& context, const Shape& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
  check_shape(context, shape);
  std::tuple<std::remove_cv_t<Parameters>...> values(std::forward<Arguments>(arguments)...);
  emulation::submit(context.stream, shape.grid, shape.block, shape.shared_bytes, [kernel, values] { std::apply(kernel, values); });
}

#else

// platform_cuda.cu
void check_cuda(cudaError_t error, const char* what);
void allow_shared(const void* kernel, size_t bytes);  // at least so much dynamic shared memory, on the selected device

template <class... Parameters, class... Arguments>
void launch(const Context& context, const Shape& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
  check_shape(context, shape);
  const void* function = reinterpret_cast<const void*>(kernel);
  // More than 48 KiB, with what the kernel declares itself (less than 16 KiB anywhere), must be asked for by name.
  if (shape.shared_bytes > 32 * 1024) allow_shared(function, shape.shared_bytes);
  std::tuple<std::remove_cv_t<Parameters>...> values(std::forward<Arguments>(arguments)...);
  std::apply(
      [&](auto&... value) {
        void* pointers[] = {const_cast<void*>(static_cast<const void*>(&value))..., nullptr};
        check_cuda(cudaLaunchKernel(function, shape.grid, shape.block, pointers, shape.shared_bytes, reinterpret_cast<cudaStream_t>(context.stream)),
                   "launch");
      },
      values);
}

#endif

}  // namespace trefoil::cuda
