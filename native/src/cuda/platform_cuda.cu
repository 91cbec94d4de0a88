// platform.h over the CUDA runtime, which is linked statically: only the driver's library is needed where this runs.
#include "platform.h"

#include <map>
#include <mutex>
#include <utility>

#include "event.h"
#include "hopper.h"
#include "launch.h"

namespace trefoil::cuda {

void check_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // a later call must not report this one again
  const TrefoilCode code = error == cudaErrorMemoryAllocation ? TREFOIL_OUT_OF_MEMORY
                           : error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver ? TREFOIL_DEVICE_UNAVAILABLE
                                                                                                 : TREFOIL_INTERNAL;
  fail(code, "CUDA %s: %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error));
}

// The limit is the kernel's, not the launch's, and two devices of a process may be one GPU in two precisions, each with a thread of its own:
// it only ever rises, or the launch of one could fall below its need through the other's.
void allow_shared(const void* kernel, size_t bytes) {
  struct Allowed {
    std::mutex mutex;
    std::map<std::pair<int, const void*>, size_t> bytes;  // by device and kernel
  };
  static Allowed& allowed = *new Allowed;  // never destroyed: threads may outlive static destructors
  int device = 0;
  check_cuda(cudaGetDevice(&device), "device");
  std::lock_guard lock(allowed.mutex);
  size_t& most = allowed.bytes[{device, kernel}];
  if (bytes <= most) return;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), "shared memory");
  most = bytes;
}

namespace platform {

namespace {

cudaStream_t raw(Stream stream) { return reinterpret_cast<cudaStream_t>(stream); }
cudaEvent_t raw(Event event) { return reinterpret_cast<cudaEvent_t>(event); }
cudaGraphExec_t raw(Graph graph) { return reinterpret_cast<cudaGraphExec_t>(graph); }

__global__ void no_kernel() {}

// Is what runs here the code that has Hopper's instructions?
__global__ void tell_hopper_kernel(int* answer) {
#if defined(TREFOIL_HOPPER)
  *answer = 1;
#else
  *answer = 0;
#endif
}

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, which, index), "attribute");
  return value;
}

}  // namespace

const char* backend_name() { return "cuda"; }

int device_count(std::string& reason) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  int driver = 0;
  cudaDriverGetVersion(&driver);
  reason = error == cudaSuccess ? "the driver lists no device" : cudaGetErrorString(error);
  if (driver == 0)
    reason += "; no NVIDIA driver is installed";
  else
    reason += "; the driver supports CUDA " + std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10) + ", this library was built with " +
              std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  return 0;
}

Properties properties(int index) {
  cudaDeviceProp found{};
  check_cuda(cudaGetDeviceProperties(&found, index), "properties");
  return {found.name, found.major * 10 + found.minor, attribute(cudaDevAttrMultiProcessorCount, index),
          static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index))};
}

void select(int index) { check_cuda(cudaSetDevice(index), "device"); }

// All kernels are built for the same devices: one tells for all.
void check_code() {
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, no_kernel);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion) {
    cudaGetLastError();
    fail(TREFOIL_DEVICE_UNAVAILABLE, "%s: the library was built for other devices, or the driver is older than the compiler; build it again on this machine, without CUDAARCHS",
         cudaGetErrorString(error));
  }
  check_cuda(error, "kernels");
}

// Compiled for 9.0 without the a, kernels by wgmma would be empty: they would leave their results as they are, and report nothing.
bool has_hopper_code() {
  struct Answer {
    int* on_device = nullptr;
    ~Answer() { cudaFree(on_device); }
  } answer;
  int host = 0;
  check_cuda(cudaMalloc(&answer.on_device, sizeof host), "allocate");
  tell_hopper_kernel<<<1, 1>>>(answer.on_device);
  check_cuda(cudaGetLastError(), "launch");
  check_cuda(cudaMemcpy(&host, answer.on_device, sizeof host, cudaMemcpyDeviceToHost), "copy to the host");
  return host == 1;
}

// Non-blocking: work on the default stream (zeroing of new memory) neither waits for it nor makes it wait.
Stream create_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  return reinterpret_cast<Stream>(stream);
}
Stream create_copy_stream() { return create_stream(); }
void destroy_stream(Stream stream) { cudaStreamDestroy(raw(stream)); }
void synchronize(Stream stream) { check_cuda(cudaStreamSynchronize(raw(stream)), "synchronize"); }

void* allocate(size_t bytes) {
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, bytes ? bytes : 64);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check_cuda(error, "allocate");
  // On the default stream, and waited for: the memory is zero whichever thread and stream use it next.
  cudaError_t zeroed = cudaMemset(memory, 0, bytes ? bytes : 64);
  if (zeroed == cudaSuccess) zeroed = cudaStreamSynchronize(nullptr);
  if (zeroed != cudaSuccess) cudaFree(memory);
  check_cuda(zeroed, "zero");
  return memory;
}
void release(void* pointer) { cudaFree(pointer); }

void* allocate_pinned(size_t bytes) {
  void* memory = nullptr;
  check_cuda(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault), "pinned memory");
  return memory;
}
void release_pinned(void* pointer) { cudaFreeHost(pointer); }

void copy_in(Stream stream, void* to, const void* host, size_t bytes) {
  check_cuda(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, raw(stream)), "copy to the device");
}
void copy_out(Stream stream, void* host, const void* from, size_t bytes) {
  check_cuda(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, raw(stream)), "copy to the host");
}
void copy(Stream stream, void* to, const void* from, size_t bytes) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, raw(stream)), "copy");
}
void fill_zero(Stream stream, void* to, size_t bytes) { check_cuda(cudaMemsetAsync(to, 0, bytes, raw(stream)), "zero"); }

Event create_event() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
  return reinterpret_cast<Event>(event);
}
void destroy_event(Event event) { cudaEventDestroy(raw(event)); }
void record(Event event, Stream stream) { check_cuda(cudaEventRecord(raw(event), raw(stream)), "event"); }
void wait_for(Stream stream, Event event) { check_cuda(cudaStreamWaitEvent(raw(stream), raw(event), 0), "wait"); }
void wait(Event event) { check_cuda(cudaEventSynchronize(raw(event)), "wait"); }

// Thread-local: allocations and copies of other threads go on meanwhile.
void capture_begin(Stream stream) { check_cuda(cudaStreamBeginCapture(raw(stream), cudaStreamCaptureModeThreadLocal), "capture"); }
Graph capture_end(Stream stream) {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamEndCapture(raw(stream), &graph), "capture");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(error, "graph");
  return reinterpret_cast<Graph>(executable);
}
void replay(Stream stream, Graph graph) { check_cuda(cudaGraphLaunch(raw(graph), raw(stream)), "replay"); }
void release_graph(Graph graph) { cudaGraphExecDestroy(raw(graph)); }

}  // namespace platform

EncodeTensorMap find_encode_tensor_map() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
#else
  const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
  if (error != cudaSuccess) cudaGetLastError();
  return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTensorMap>(function) : nullptr;
}

}  // namespace trefoil::cuda
