// A stand-in for the CUDA runtime: libtrefoil_cuda, linked with it instead of libcudart, does all that its host code does with a device, but
// kernels do not run and memory has no contents. It refuses what the runtime's documentation and the machine code forbid (registers, threads,
// shared memory, clusters, grids, memory that was freed, calls that a recording does not allow) and reports what was launched:
//   TREFOIL_FAKE_DEVICE          h200 (default), h100, a100, rtx3090, rtx4090
//   TREFOIL_FAKE_CUDART_REPORT   a file to which each process adds a line of JSON when it ends
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "code.h"
#include "device.h"
#include "launches.h"
#include "memory.h"

using namespace fake_cudart;

struct CUstream_st {
  bool capturing = false, broken = false;
  bool after_kernel = false;  // the last thing recorded
  std::thread::id owner;
  std::vector<Launch> recorded;
};
struct CUevent_st {
  bool recorded = false;
  const CUstream_st* captured_by = nullptr;
};
struct CUgraph_st {
  std::vector<Launch> launches;
};
struct CUgraphExec_st {
  std::vector<Launch> launches;
};

namespace fake_cudart {

const Device& device() {
  constexpr size_t kKiB = 1024, kGB = 1'000'000'000;
  static constexpr Device known[] = {
      {"h200", "H200 (played)", 90, 132, 141 * kGB, 227 * kKiB, 228 * kKiB, 2048, 32},
      {"h100", "H100 (played)", 90, 132, 80 * kGB, 227 * kKiB, 228 * kKiB, 2048, 32},
      {"a100", "A100 (played)", 80, 108, 80 * kGB, 163 * kKiB, 164 * kKiB, 2048, 32},
      {"rtx3090", "RTX 3090 (played)", 86, 82, 24 * kGB, 99 * kKiB, 100 * kKiB, 1536, 16},
      {"rtx4090", "RTX 4090 (played)", 89, 128, 24 * kGB, 99 * kKiB, 100 * kKiB, 1536, 24},
  };
  static const Device& played = [&]() -> const Device& {
    const char* wanted = std::getenv("TREFOIL_FAKE_DEVICE");
    for (const Device& one : known)
      if (std::strcmp(one.key, wanted ? wanted : "h200") == 0) return one;
    std::fprintf(stderr, "fake cudart: TREFOIL_FAKE_DEVICE=%s is unknown\n", wanted);
    std::_Exit(2);
  }();
  return played;
}

}  // namespace fake_cudart

namespace {

struct Runtime {
  std::mutex mutex;
  std::map<void**, Module> modules;  // by handle
  std::unordered_map<const void*, std::unique_ptr<Kernel>> kernels;  // by the address of the function on the host
  std::set<const void*> live;  // streams, events, graphs
};
Runtime& runtime() {
  static Runtime& all = *[] {
    std::atexit([] {
      std::vector<const Kernel*> kernels;
      for (const auto& [function, kernel] : runtime().kernels) kernels.push_back(kernel.get());
      write_report(kernels);
    });
    return new Runtime;
  }();
  return all;
}

thread_local cudaError_t last_error = cudaSuccess;
thread_local std::vector<CUstream_st*> captures;  // under way, begun by this thread

cudaError_t finish(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}
cudaError_t wrong(cudaError_t error, const char* call, const std::string& why) {
  report_wrong(std::string(call) + ": " + why);
  return finish(error);
}

bool is_live(const void* handle) {
  std::lock_guard lock(runtime().mutex);
  return runtime().live.contains(handle);
}
template <class T>
T* born() {
  T* made = new T;
  std::lock_guard lock(runtime().mutex);
  runtime().live.insert(made);
  return made;
}
template <class T>
cudaError_t died(T* handle, const char* call) {
  {
    std::lock_guard lock(runtime().mutex);
    if (runtime().live.erase(handle)) {
      delete handle;
      return finish(cudaSuccess);
    }
  }
  return wrong(cudaErrorInvalidResourceHandle, call, "no such handle");
}

// Calls that may make other streams wait, or do wait, spoil a recording of the same thread (cudaStreamCaptureModeThreadLocal).
cudaError_t unsafe(const char* call) {
  for (CUstream_st* stream : captures) stream->broken = true;
  return captures.empty() ? cudaSuccess : wrong(cudaErrorStreamCaptureUnsupported, call, "while this thread records");
}

struct Attributes {
  unsigned cluster = 1;
  bool early = false;

  explicit Attributes(const cudaLaunchConfig_t& config) {
    for (const cudaLaunchAttribute& attribute : std::span(config.attrs, config.numAttrs)) {
      const cudaLaunchAttributeValue& value = attribute.val;
      if (attribute.id == cudaLaunchAttributeClusterDimension) cluster = value.clusterDim.x * value.clusterDim.y * value.clusterDim.z;
      else if (attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization) early = value.programmaticStreamSerializationAllowed;
      else report_wrong("cudaLaunchKernelExC: an attribute that it does not know");
    }
  }
};

cudaError_t start(Launch launch, CUstream_st* stream, const char* call) {
  if (stream && !is_live(stream)) return wrong(cudaErrorInvalidResourceHandle, call, "no such stream");
  const std::string& name = launch.kernel->name;
  if (const std::string why = refusal(launch); !why.empty()) return wrong(cudaErrorLaunchOutOfResources, call, name + ": " + why);
  if (const std::string why = dangling(launch); !why.empty()) return wrong(cudaErrorIllegalAddress, call, name + ": " + why);
  count(launch, false);
  if (stream && stream->capturing) {
    // An edge between kernels: what it would be after a copy is not said anywhere.
    if (launch.early && !stream->after_kernel) return wrong(cudaErrorInvalidValue, call, name + ": programmatic dependent launch after something that is no kernel");
    stream->after_kernel = true;
    stream->recorded.push_back(std::move(launch));
    return cudaSuccess;
  }
  // The one kernel whose answer the host acts on.
  if (name.find("tell_hopper_kernel") != std::string::npos && !launch.pointers.empty() && launch.kernel->architecture_specific) *reinterpret_cast<int*>(launch.pointers[0]) = 1;
  return finish(cudaSuccess);
}

Kernel* kernel_of(const void* function) {
  std::lock_guard lock(runtime().mutex);
  const auto found = runtime().kernels.find(function);
  return found == runtime().kernels.end() ? nullptr : found->second.get();
}

Grid grid_of(dim3 shape) { return {shape.x, shape.y, shape.z}; }

cudaError_t move(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, const char* call) {
  const std::string why = fake_cudart::copy(to, from, bytes, kind != cudaMemcpyHostToDevice, kind != cudaMemcpyDeviceToHost);
  return why.empty() ? finish(cudaSuccess) : wrong(cudaErrorInvalidValue, call, why);
}

// What the driver's documentation asks of a tensor that the copy engine is told of.
CUresult encode_tiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address, const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                      const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  const cuuint64_t element = type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 ? 2 : 4;
  bool right = (type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32) && rank >= 1 && rank <= 5 && interleave == CU_TENSOR_MAP_INTERLEAVE_NONE &&
               reinterpret_cast<uintptr_t>(map) % 64 == 0 && reinterpret_cast<uintptr_t>(address) % 16 == 0 && box[0] * element % 16 == 0 &&
               (swizzle != CU_TENSOR_MAP_SWIZZLE_128B || box[0] * element <= 128);
  cuuint64_t last = 0;
  for (cuuint32_t i = 0; right && i < rank; ++i) {
    right = sizes[i] > 0 && sizes[i] <= cuuint64_t{1} << 32 && box[i] > 0 && box[i] <= 256 && steps[i] >= 1 && steps[i] <= 8;
    if (i > 0) right = right && strides[i - 1] % 16 == 0 && strides[i - 1] < cuuint64_t{1} << 40;
    last += (sizes[i] - 1) * (i ? strides[i - 1] : element);
  }
  if (!right) {
    report_wrong("cuTensorMapEncodeTiled: a tensor that the driver refuses");
    return CUDA_ERROR_INVALID_VALUE;
  }
  const auto found = allocation_at(reinterpret_cast<uintptr_t>(address));
  if (!found || reinterpret_cast<uintptr_t>(address) + last + element > found->begin + found->bytes) report_wrong("cuTensorMapEncodeTiled: a tensor that reaches beyond its memory");
  std::memset(static_cast<void*>(map), 0, sizeof *map);
  std::memcpy(static_cast<void*>(map), &address, sizeof address);
  return CUDA_SUCCESS;
}

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
thread_local std::vector<Configuration> configurations;

}  // namespace

extern "C" {

// What nvcc's code calls when a library is loaded, and for <<<…>>>.

void** __cudaRegisterFatBinary(void* wrapper) {
  struct Wrapper {
    uint32_t magic, version;
    const void* data;
  };
  void** handle = new void*(wrapper);
  try {
    Module module = read_module(static_cast<const Wrapper*>(wrapper)->data, device().capability);
    std::lock_guard lock(runtime().mutex);
    runtime().modules[handle] = std::move(module);
  } catch (const std::runtime_error& error) {
    report_wrong(std::string("a fat binary: ") + error.what());
  }
  return handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterFunction(void** handle, const char* function, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  std::lock_guard lock(runtime().mutex);
  const Module& module = runtime().modules[handle];
  const auto code = module.kernels.find(name);
  if (code == module.kernels.end()) return;
  auto kernel = std::make_unique<Kernel>(Kernel{name, code->second, module.architecture_specific});
  kernel->allowed_shared = 48 * 1024 - std::min<size_t>(48 * 1024, code->second.shared_bytes);
  runtime().kernels[function] = std::move(kernel);
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  const Configuration last = configurations.back();
  configurations.pop_back();
  *grid = last.grid;
  *block = last.block;
  *shared = last.shared;
  *static_cast<cudaStream_t*>(stream) = last.stream;
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t function, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t stream) {
  Kernel* kernel = kernel_of(function);
  if (!kernel) return wrong(cudaErrorInvalidDeviceFunction, "launch", "no code for this device");
  Launch launch{kernel, grid_of(grid), grid_of(block), shared, 1, false, {}};
  find_pointers(launch, arguments);
  return start(std::move(launch), stream, "launch");
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  Kernel* kernel = kernel_of(function);
  if (!kernel) return wrong(cudaErrorInvalidDeviceFunction, "launch", "no code for this device");
  const Attributes attributes(*config);
  Launch launch{kernel, grid_of(config->gridDim), grid_of(config->blockDim), config->dynamicSmemBytes, attributes.cluster, attributes.early, {}};
  find_pointers(launch, arguments);
  return start(std::move(launch), config->stream, "launch");
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  const Kernel* kernel = kernel_of(function);
  if (!kernel) return finish(cudaErrorNoKernelImageForDevice);
  *attributes = {};
  attributes->numRegs = kernel->code.registers;
  attributes->sharedSizeBytes = kernel->code.shared_bytes;
  return finish(cudaSuccess);
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  Kernel* kernel = kernel_of(function);
  if (!kernel || attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return wrong(cudaErrorInvalidValue, "cudaFuncSetAttribute", "of another function or attribute than it knows");
  if (value < 0 || kernel->code.shared_bytes + static_cast<size_t>(value) > device().shared_per_block)
    return wrong(cudaErrorInvalidValue, "cudaFuncSetAttribute", kernel->name + ": " + std::to_string(value) + " bytes of dynamic shared memory beside " + std::to_string(kernel->code.shared_bytes));
  kernel->allowed_shared = static_cast<size_t>(value);
  return finish(cudaSuccess);
}
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* function, const cudaLaunchConfig_t* config) {
  const Kernel* kernel = kernel_of(function);
  if (!kernel) return finish(cudaErrorInvalidDeviceFunction);
  const dim3 block = config->blockDim;
  *clusters = static_cast<int>(blocks_per_multiprocessor(kernel->code, block.x * block.y * block.z, config->dynamicSmemBytes)) * device().multiprocessors / static_cast<int>(Attributes(*config).cluster);
  return finish(cudaSuccess);
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return finish(cudaSuccess);
}
cudaError_t cudaGetDevice(int* index) {
  *index = 0;
  return finish(cudaSuccess);
}
cudaError_t cudaSetDevice(int index) { return index == 0 ? finish(cudaSuccess) : wrong(cudaErrorInvalidDevice, "cudaSetDevice", "there is one device"); }
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return finish(cudaSuccess);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "%s", device().name);
  properties->major = device().capability / 10;
  properties->minor = device().capability % 10;
  return finish(cudaSuccess);
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = device().multiprocessors; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(device().shared_per_block); break;
    case cudaDevAttrComputeCapabilityMajor: *value = device().capability / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = device().capability % 10; break;
    default: return wrong(cudaErrorInvalidValue, "cudaDeviceGetAttribute", "an attribute that it does not know");
  }
  return finish(cudaSuccess);
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "refused by the stand-in for the CUDA runtime"; }
const char* cudaGetErrorName(cudaError_t error) { return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : error == cudaSuccess ? "cudaSuccess" : "cudaError"; }

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (const cudaError_t error = unsafe("cudaMalloc")) return error;
  *pointer = allocate(bytes, false);
  return finish(*pointer ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* pointer) {
  if (const cudaError_t error = unsafe("cudaFree")) return error;
  if (!pointer || release(pointer, false)) return finish(cudaSuccess);
  return wrong(cudaErrorInvalidValue, "cudaFree", "no device memory, or freed before");
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  if (const cudaError_t error = unsafe("cudaHostAlloc")) return error;
  *pointer = allocate(bytes, true);
  return finish(*pointer ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* pointer) {
  if (!pointer || release(pointer, true)) return finish(cudaSuccess);
  return wrong(cudaErrorInvalidValue, "cudaFreeHost", "no pinned memory, or freed before");
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (const cudaError_t error = unsafe("cudaMemcpy")) return error;
  return move(to, from, bytes, kind, "cudaMemcpy");
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (stream && !is_live(stream)) return wrong(cudaErrorInvalidResourceHandle, "cudaMemcpyAsync", "no such stream");
  if (stream) stream->after_kernel = false;
  return move(to, from, bytes, kind, "cudaMemcpyAsync");
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  if (const cudaError_t error = unsafe("cudaMemset")) return error;
  const std::string why = fill(to, value, bytes);
  return why.empty() ? finish(cudaSuccess) : wrong(cudaErrorInvalidValue, "cudaMemset", why);
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (stream && !is_live(stream)) return wrong(cudaErrorInvalidResourceHandle, "cudaMemsetAsync", "no such stream");
  if (stream) stream->after_kernel = false;
  const std::string why = fill(to, value, bytes);
  return why.empty() ? finish(cudaSuccess) : wrong(cudaErrorInvalidValue, "cudaMemsetAsync", why);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = born<CUstream_st>();
  return finish(cudaSuccess);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return died(stream, "cudaStreamDestroy"); }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream && !is_live(stream)) return wrong(cudaErrorInvalidResourceHandle, "cudaStreamSynchronize", "no such stream");
  if (stream && stream->capturing) stream->broken = true;
  if ((stream && stream->capturing) || (!stream && !captures.empty())) return wrong(cudaErrorStreamCaptureUnsupported, "cudaStreamSynchronize", "of a stream that records");
  return finish(cudaSuccess);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (!is_live(stream) || !is_live(event)) return wrong(cudaErrorInvalidResourceHandle, "cudaStreamWaitEvent", "no such stream or event");
  if (stream->capturing != (event->captured_by != nullptr)) return wrong(cudaErrorStreamCaptureIsolation, "cudaStreamWaitEvent", "between a recording and what is not one");
  return finish(cudaSuccess);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (!is_live(stream) || stream->capturing || mode != cudaStreamCaptureModeThreadLocal) return wrong(cudaErrorIllegalState, "cudaStreamBeginCapture", "of no stream, or twice, or in a mode that it does not know");
  stream->capturing = true;
  stream->broken = stream->after_kernel = false;
  stream->owner = std::this_thread::get_id();
  captures.push_back(stream);
  return finish(cudaSuccess);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!is_live(stream) || !stream->capturing || stream->owner != std::this_thread::get_id()) return wrong(cudaErrorStreamCaptureWrongThread, "cudaStreamEndCapture", "nothing that this thread records");
  std::erase(captures, stream);
  stream->capturing = false;
  std::vector<Launch> launches = std::exchange(stream->recorded, {});
  if (stream->broken) return finish(cudaErrorStreamCaptureInvalidated);
  *graph = born<CUgraph_st>();
  (*graph)->launches = std::move(launches);
  return finish(cudaSuccess);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  if (!is_live(graph)) return wrong(cudaErrorInvalidValue, "cudaGraphInstantiate", "no such graph");
  *executable = born<CUgraphExec_st>();
  (*executable)->launches = graph->launches;
  return finish(cudaSuccess);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return died(graph, "cudaGraphDestroy"); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return died(executable, "cudaGraphExecDestroy"); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (!is_live(executable) || !is_live(stream)) return wrong(cudaErrorInvalidResourceHandle, "cudaGraphLaunch", "no such graph or stream");
  for (const Launch& launch : executable->launches) {
    if (const std::string why = dangling(launch); !why.empty()) return wrong(cudaErrorIllegalAddress, "cudaGraphLaunch", launch.kernel->name + ": " + why);
    count(launch, true);
  }
  return finish(cudaSuccess);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = born<CUevent_st>();
  return finish(cudaSuccess);
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return died(event, "cudaEventDestroy"); }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (!is_live(event) || (stream && !is_live(stream))) return wrong(cudaErrorInvalidResourceHandle, "cudaEventRecord", "no such event or stream");
  event->recorded = true;
  event->captured_by = stream && stream->capturing ? stream : nullptr;
  return finish(cudaSuccess);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (!is_live(event)) return wrong(cudaErrorInvalidResourceHandle, "cudaEventSynchronize", "no such event");
  if (event->captured_by) return wrong(cudaErrorCapturedEvent, "cudaEventSynchronize", "of an event that is recorded");
  return finish(cudaSuccess);
}
// A thousandth of a second, for what divides by it.
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  if (!is_live(from) || !is_live(to) || !from->recorded || !to->recorded) return wrong(cudaErrorInvalidResourceHandle, "cudaEventElapsedTime", "of events that were not recorded");
  *milliseconds = 1;
  return finish(cudaSuccess);
}

#if CUDART_VERSION >= 12050
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* result) {
#else
cudaError_t cudaGetDriverEntryPoint(const char* symbol, void** function, unsigned long long, cudaDriverEntryPointQueryResult* result) {
#endif
  const bool known = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(&encode_tiled) : nullptr;
  *result = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return finish(cudaSuccess);
}

}  // extern "C"
