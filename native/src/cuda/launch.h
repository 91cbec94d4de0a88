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
  unsigned cluster = 1;     // neighbouring blocks that run together; the grid is a multiple of it
  bool early = false;
};
// For kernels in which every thread calls wait_for_previous (hopper.h) before it touches memory that the program writes, or ends: recorded after
// another kernel, and where the context says so, they begin before that has ended (programmatic dependent launch).
inline Shape early(Shape shape) {
  shape.early = true;
  return shape;
}

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
  emulation::submit(context.stream, {shape.grid, shape.block, shape.shared_bytes, shape.cluster, shape.early && context.early, [kernel, values] { std::apply(kernel, values); }});
}

// Clusters of such blocks that the device runs at once.
template <class... Parameters>
int resident_clusters(const Context& context, const Shape& shape, void (*)(Parameters...)) {
  const int clusters = context.multiprocessors / static_cast<int>(shape.cluster);
  return clusters > 0 ? clusters : 1;
}

#else

// platform_cuda.cu
void check_cuda(cudaError_t error, const char* what);
void allow_shared(const void* kernel, size_t bytes);  // at least so much dynamic shared memory, on the selected device

// More than 48 KiB, with what the kernel declares itself (less than 16 KiB anywhere), must be asked for by name.
inline void allow_shared(const Shape& shape, const void* function) {
  if (shape.shared_bytes > 32 * 1024) allow_shared(function, shape.shared_bytes);
}
struct Configuration {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attributes[2]{};

  Configuration(const Context& context, const Shape& shape) {
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = reinterpret_cast<cudaStream_t>(context.stream);
    config.attrs = attributes;
    if (shape.cluster > 1) {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim.x = shape.cluster;
      attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    }
    if (shape.early && context.early && context.recording && context.recording->after_kernel) {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attribute.val.programmaticStreamSerializationAllowed = 1;
    }
  }
  Configuration(const Configuration&) = delete;
};

// Clusters of such blocks that the device runs at once. Parts of a device may have a number of multiprocessors that clusters do not fill.
template <class... Parameters>
int resident_clusters(const Context& context, const Shape& shape, void (*kernel)(Parameters...)) {
  if (shape.cluster == 1) return context.multiprocessors;
  const void* function = reinterpret_cast<const void*>(kernel);
  allow_shared(shape, function);
  const Configuration configuration(context, shape);
  int clusters = 0;
  check_cuda(cudaOccupancyMaxActiveClusters(&clusters, function, &configuration.config), "clusters");
  return clusters > 0 ? clusters : 1;
}

template <class... Parameters, class... Arguments>
void launch(const Context& context, const Shape& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
  check_shape(context, shape);
  const void* function = reinterpret_cast<const void*>(kernel);
  allow_shared(shape, function);
  const Configuration configuration(context, shape);
  std::tuple<std::remove_cv_t<Parameters>...> values(std::forward<Arguments>(arguments)...);
  std::apply(
      [&](auto&... value) {
        void* pointers[] = {const_cast<void*>(static_cast<const void*>(&value))..., nullptr};
        check_cuda(cudaLaunchKernelExC(&configuration.config, function, pointers), "launch");
      },
      values);
  if (context.recording) context.recording->after_kernel = true;
}

#endif

inline void copy_memory(const Context& context, void* to, const void* from, size_t bytes) {
  context.note_other();
  platform::copy(context.stream, to, from, bytes);
}
inline void zero_memory(const Context& context, void* to, size_t bytes) {
  context.note_other();
  platform::fill_zero(context.stream, to, bytes);
}

}  // namespace trefoil::cuda
