// The CUDA backend: the C ABI over the kernel tables. Host code only; the platform below is CUDA or the emulator of the tests.
#include "trefoil/backend.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cublaslt.h"
#include "families.h"
#include "kernel.h"
#include "staging.h"

namespace trefoil::cuda {

#define DECLARE(family) extern const KernelEntry family##_kernels[];
TREFOIL_CUDA_FAMILIES(DECLARE)
#undef DECLARE

void fail(TrefoilCode code, const char* format, ...) {
  char message[sizeof TrefoilStatus::message];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  throw KernelError(code, message);
}

namespace {

constexpr KernelTable kTables[] = {
#define LIST(family) family##_kernels,
    TREFOIL_CUDA_FAMILIES(LIST)
#undef LIST
};

const std::vector<const KernelEntry*>& entries() {
  static const std::vector<const KernelEntry*> all = [] {
    std::vector<const KernelEntry*> found;
    for (KernelTable table : kTables)
      for (const KernelEntry* entry = table; entry->name; ++entry) found.push_back(entry);
    return found;
  }();
  return all;
}

int32_t report(TrefoilStatus* status, TrefoilCode code, const char* message) {
  if (status) {
    status->code = code;
    std::snprintf(status->message, sizeof status->message, "%s", message);
  }
  return code;
}

template <class Body>
int32_t guarded(TrefoilStatus* status, const Body& body) {
  try {
    body();
    if (status) status->code = TREFOIL_OK;
    return TREFOIL_OK;
  } catch (const KernelError& error) {
    return report(status, error.code, error.what());
  } catch (const std::bad_alloc&) {
    return report(status, TREFOIL_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return report(status, TREFOIL_INTERNAL, error.what());
  }
}

// "bf16-products" differs from "bf16" in what programs store, which is not the backend's concern.
Precision precision_of(const char* wanted) {
  if (!wanted || !*wanted) wanted = std::getenv("TREFOIL_PRECISION");
  if (!wanted || !*wanted || std::string_view(wanted) == "bf16" || std::string_view(wanted) == "bf16-products") return Precision::bf16;
  if (std::string_view(wanted) == "f32") return Precision::f32;
  fail(TREFOIL_INVALID_ARGUMENT, "precision \"%s\" is unknown; it must be \"bf16\", \"bf16-products\" or \"f32\"", wanted);
}

// TREFOIL_MATMUL: "auto" (cuBLASLt where it is found), "cublaslt", "own". TREFOIL_CUBLASLT: the path of the library.
std::unique_ptr<Cublaslt> open_cublaslt(Precision precision, const platform::Properties& properties) {
  const char *wanted = std::getenv("TREFOIL_MATMUL"), *path = std::getenv("TREFOIL_CUBLASLT");
  const std::string_view choice = wanted && *wanted ? wanted : "auto";
  if (path && !*path) path = nullptr;
  if (choice != "auto" && choice != "cublaslt" && choice != "own")
    fail(TREFOIL_INVALID_ARGUMENT, "TREFOIL_MATMUL is \"%s\"; it must be \"auto\", \"cublaslt\" or \"own\"", wanted);
  if (choice == "own" || precision == Precision::f32) return nullptr;
  // The library computes on a device: under the emulator only what is named is opened.
  const bool emulated = properties.capability == 0;
  std::string reason = "no path is given";
  std::unique_ptr<Cublaslt> library = emulated && !path ? nullptr : Cublaslt::open(path, reason);
  if (!library && choice == "cublaslt")
    fail(TREFOIL_DEVICE_UNAVAILABLE, "TREFOIL_MATMUL=cublaslt, but cuBLASLt cannot be used: %s; give the path of libcublasLt.so.12 or .13 in TREFOIL_CUBLASLT, or leave TREFOIL_MATMUL out",
         reason.c_str());
  return library;
}

// TREFOIL_CUDA_WGMMA=1, or the tile of products: only for compute capability 9.0, whose instructions they are; and for the emulator.
std::optional<WgmmaTile> wgmma_tile(const platform::Properties& properties) {
  const char* wanted = std::getenv("TREFOIL_CUDA_WGMMA");
  const std::string_view value = wanted ? wanted : "";
  if (value.empty() || value == "0") return {};
  std::optional<WgmmaTile> tile;
  if (value == "1") tile = WgmmaTile::by_size;
  if (value == "128") tile = WgmmaTile::narrow;
  if (value == "256") tile = WgmmaTile::wide;
  if (value == "256x2") tile = WgmmaTile::pair;
  if (!tile) fail(TREFOIL_INVALID_ARGUMENT, "TREFOIL_CUDA_WGMMA is \"%s\"; it must be \"1\", \"0\", or the tiles of products, \"128\", \"256\" or \"256x2\"", wanted);
  if (properties.capability != 90 && properties.capability != 0) return {};
  if (!platform::has_hopper_code())
    fail(TREFOIL_DEVICE_UNAVAILABLE, "TREFOIL_CUDA_WGMMA=%s, but the library was not built for sm_90a: build it again without CUDAARCHS, or with CUDAARCHS=90a-real", wanted);
  return tile;
}

// TREFOIL_CUDA_CLUSTERS=0: parts of products go through global memory also where clusters of eight blocks can add them up.
bool wants_clusters(const platform::Properties& properties) {
  const char* wanted = std::getenv("TREFOIL_CUDA_CLUSTERS");
  const std::string_view value = wanted && *wanted ? wanted : "1";
  if (value != "0" && value != "1") fail(TREFOIL_INVALID_ARGUMENT, "TREFOIL_CUDA_CLUSTERS is \"%s\"; it must be \"1\" or \"0\"", wanted);
  if (value == "0") return false;
  // Parts of a device can be too small for them.
  return properties.capability == 0 || (properties.capability == 90 && properties.multiprocessors >= 16 && platform::has_hopper_code());
}

// TREFOIL_CUDA_PDL=1: recorded kernels of a decoding step begin while those before them end (programmatic dependent launch).
bool wants_early(const platform::Properties& properties) {
  const char* wanted = std::getenv("TREFOIL_CUDA_PDL");
  const std::string_view value = wanted && *wanted ? wanted : "0";
  if (value != "0" && value != "1") fail(TREFOIL_INVALID_ARGUMENT, "TREFOIL_CUDA_PDL is \"%s\"; it must be \"1\" or \"0\"", wanted);
  if (value == "0") return false;
  if (properties.capability != 90 && properties.capability != 0) return false;
  if (!platform::has_hopper_code())
    fail(TREFOIL_DEVICE_UNAVAILABLE, "TREFOIL_CUDA_PDL=1, but the library was not built for sm_90a: build it again without CUDAARCHS, or with CUDAARCHS=90a-real");
  return true;
}

// TREFOIL_CUDA_ATTENTION_GRADIENT: "two-pass", or "one-pass" for what goes through wgmma.
bool wants_one_pass_gradient() {
  const char* wanted = std::getenv("TREFOIL_CUDA_ATTENTION_GRADIENT");
  if (!wanted || !*wanted || std::string_view(wanted) == "two-pass") return false;
  if (std::string_view(wanted) == "one-pass") return true;
  fail(TREFOIL_INVALID_ARGUMENT, "TREFOIL_CUDA_ATTENTION_GRADIENT is \"%s\"; it must be \"two-pass\" or \"one-pass\"", wanted);
}

}  // namespace

}  // namespace trefoil::cuda

using namespace trefoil::cuda;

struct TrefoilDevice {
  int index;
  platform::Properties properties;
  platform::Stream stream = nullptr;     // copies, launches and replays, in the order they were asked for
  platform::Stream recording = nullptr;  // launches while a graph is captured: copies of other threads stay out of it
  ErrorRecord* errors = nullptr;
  ErrorRecord* seen = nullptr;  // pinned: where synchronize copies it
  std::unique_ptr<Cublaslt> cublaslt;
  Staging staging;
  Recording recorded;
  Context context;

  TrefoilDevice(const TrefoilDeviceOptions& options) : index(options.index), properties(platform::properties(index)) {
    if (properties.capability != 0 && properties.capability < 80)
      fail(TREFOIL_DEVICE_UNAVAILABLE, "%s has compute capability %d.%d; 8.0 (Ampere) or newer is needed", properties.name.c_str(),
           properties.capability / 10, properties.capability % 10);
    const Precision precision = precision_of(options.precision);
    const bool one_pass_gradient = wants_one_pass_gradient();
    platform::select(index);
    platform::check_code();
    try {
      stream = platform::create_stream();
      recording = platform::create_stream();
      errors = static_cast<ErrorRecord*>(platform::allocate(sizeof(ErrorRecord)));
      if (!errors) throw std::bad_alloc();
      cublaslt = open_cublaslt(precision, properties);
      seen = static_cast<ErrorRecord*>(platform::allocate_pinned(sizeof(ErrorRecord)));
      const std::optional<WgmmaTile> tile = wgmma_tile(properties);
      context = {.stream = stream,
                 .recording = nullptr,
                 .errors = errors,
                 .precision = precision,
                 .multiprocessors = properties.multiprocessors,
                 .shared_limit = properties.shared_limit,
                 .capability = properties.capability,
                 .cublaslt = cublaslt.get(),
                 .wgmma = tile.has_value(),
                 .wgmma_tile = tile.value_or(WgmmaTile::by_size),
                 .clusters = wants_clusters(properties),
                 .early = wants_early(properties),
                 .one_pass_gradient = one_pass_gradient};
    } catch (...) {
      close();
      throw;
    }
  }
  ~TrefoilDevice() {
    try {
      platform::select(index);
    } catch (const KernelError&) {
      (void)cublaslt.release();  // the driver is gone, and with it what it held
      return;
    }
    close();
  }
  void close() {
    try {
      if (stream) platform::synchronize(stream);  // what is still under way uses what goes now
    } catch (const KernelError&) {
      // the device is lost: what it held goes with the process
    }
    cublaslt.reset();
    staging.close();
    if (seen) platform::release_pinned(seen);
    if (errors) platform::release(errors);
    if (recording) platform::destroy_stream(recording);
    if (stream) platform::destroy_stream(stream);
  }
};

namespace {

int32_t device_count(TrefoilStatus* status) {
  int32_t count = 0;
  guarded(status, [&] {
    std::string reason;
    count = platform::device_count(reason);
    if (count == 0) fail(TREFOIL_DEVICE_UNAVAILABLE, "%s", reason.c_str());
  });
  return count;
}

TrefoilDevice* open_device(const TrefoilDeviceOptions* options, TrefoilStatus* status) {
  TrefoilDevice* device = nullptr;
  guarded(status, [&] {
    try {
      device = new TrefoilDevice(*options);
    } catch (const KernelError& error) {
      // Whatever CUDA says while a device is opened, that device cannot be had: it is another process's, is full, or is not what kernels were made for.
      if (error.code != TREFOIL_INTERNAL && error.code != TREFOIL_OUT_OF_MEMORY) throw;
      fail(TREFOIL_DEVICE_UNAVAILABLE, "%s", error.what());
    }
  });
  return device;
}

void close_device(TrefoilDevice* device) { delete device; }

void device_info(TrefoilDevice* device, TrefoilDeviceInfo* info) {
  std::snprintf(info->name, sizeof info->name, "%s", device->properties.name.c_str());
  const std::string precision = device->context.precision == Precision::f32 ? "f32" : device->cublaslt ? "bf16, cuBLASLt " + device->cublaslt->version() : "bf16, own products";
  std::snprintf(info->isa, sizeof info->isa, "sm_%d %s", device->properties.capability, precision.c_str());
  info->threads = device->properties.multiprocessors;
}

void* allocate(TrefoilDevice* device, size_t bytes) {
  void* memory = nullptr;
  guarded(nullptr, [&] {
    platform::select(device->index);
    memory = platform::allocate(bytes);
  });
  return memory;
}

void release(TrefoilDevice* device, void* pointer) {
  if (!pointer) return;
  guarded(nullptr, [&] {
    platform::select(device->index);
    platform::release(pointer);
  });
}

int32_t copy_in(TrefoilDevice* device, void* to, const void* host, size_t bytes, TrefoilStatus* status) {
  return guarded(status, [&] {
    platform::select(device->index);
    device->staging.copy_in(device->stream, to, host, bytes);
  });
}

int32_t copy_out(TrefoilDevice* device, void* host, const void* from, size_t bytes, TrefoilStatus* status) {
  return guarded(status, [&] {
    platform::select(device->index);
    device->staging.copy_out(device->stream, host, from, bytes);
  });
}

int32_t copy(TrefoilDevice* device, void* to, const void* from, size_t bytes, TrefoilStatus* status) {
  return guarded(status, [&] {
    platform::select(device->index);
    platform::copy(device->context.stream, to, from, bytes);
  });
}

int32_t find_op(const char* name) {
  for (size_t op = 0; op < entries().size(); ++op)
    if (std::strcmp(entries()[op]->name, name) == 0) return static_cast<int32_t>(op);
  return -1;
}

const char* op_name(int32_t op) { return op < 0 || static_cast<size_t>(op) >= entries().size() ? nullptr : entries()[static_cast<size_t>(op)]->name; }

size_t workspace_bytes(TrefoilDevice* device, int32_t op, const TrefoilLaunch* launch) {
  const KernelEntry* entry = entries()[static_cast<size_t>(op)];
  size_t bytes = 0;
  // Operands that do not fit each other are launch()'s to report.
  if (entry->workspace) guarded(nullptr, [&] { bytes = entry->workspace(device->context, *launch); });
  return bytes;
}

int32_t launch(TrefoilDevice* device, int32_t op, const TrefoilLaunch* launch, TrefoilStatus* status) {
  return guarded(status, [&] {
    platform::select(device->index);
    entries()[static_cast<size_t>(op)]->run(device->context, *launch);
  });
}

// Waits, then reports what kernels noted since the last time.
int32_t synchronize(TrefoilDevice* device, TrefoilStatus* status) {
  return guarded(status, [&] {
    platform::select(device->index);
    try {
      platform::copy_out(device->stream, device->seen, device->errors, sizeof(ErrorRecord));
      platform::synchronize(device->stream);
    } catch (...) {
      device->staging.forget();  // the host may free what it asked for
      throw;
    }
    device->staging.deliver();
    const ErrorRecord record = *device->seen;
    if (!record.set) return;
    platform::fill_zero(device->stream, device->errors, sizeof record);
    platform::synchronize(device->stream);
    // Where -1 is allowed it means "none".
    const bool none = record.least == -1;
    const long long value = record.value, least = none ? 0 : record.least, bound = record.bound;
    const char* otherwise = none ? " and is not -1" : "";
    static constexpr std::string_view kOperands[] = {
#define TREFOIL_ENTRY(operand, name) name,
        TREFOIL_CHECKED_OPERANDS(TREFOIL_ENTRY)
#undef TREFOIL_ENTRY
    };
    const std::string_view what = kOperands[static_cast<size_t>(record.what)];
    if (what.ends_with("[]"))
      fail(TREFOIL_INDEX_OUT_OF_RANGE, "%.*s[%lld] is %lld; it must be in [%lld, %lld)", static_cast<int>(what.size() - 2), what.data(),
           static_cast<long long>(record.position), value, static_cast<long long>(record.least), bound);
    char position[64];
    const long long at = record.position, width = record.width;
    if (width) std::snprintf(position, sizeof position, "[%lld, %lld]", at / width, at % width);
    else std::snprintf(position, sizeof position, "%lld", at);
    fail(TREFOIL_INDEX_OUT_OF_RANGE, "%s %lld at position %s is outside [%lld, %lld)%s", what.data(), value, position, least, bound, otherwise);
  });
}

int32_t capture_begin(TrefoilDevice* device, TrefoilStatus* status) {
  return guarded(status, [&] {
    platform::select(device->index);
    platform::capture_begin(device->recording);
    device->recorded = {};
    device->context.stream = device->recording;
    device->context.recording = &device->recorded;
  });
}

void* capture_end(TrefoilDevice* device, TrefoilStatus* status) {
  platform::Graph graph = nullptr;
  guarded(status, [&] {
    device->context.stream = device->stream;
    device->context.recording = nullptr;
    platform::select(device->index);
    graph = platform::capture_end(device->recording);
  });
  return graph;
}

int32_t replay(TrefoilDevice* device, void* graph, TrefoilStatus* status) {
  return guarded(status, [&] {
    platform::select(device->index);
    platform::replay(device->stream, static_cast<platform::Graph>(graph));
  });
}

void release_graph(TrefoilDevice* device, void* graph) {
  guarded(nullptr, [&] {
    platform::select(device->index);
    platform::release_graph(static_cast<platform::Graph>(graph));
  });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const TrefoilBackend* trefoil_backend(void) {
  static const TrefoilBackend backend = {
      TREFOIL_BACKEND_ABI_VERSION, sizeof(TrefoilBackend), platform::backend_name(), 0,
      device_count, open_device, close_device, device_info,
      allocate, release, copy_in, copy_out, copy,
      find_op, op_name, workspace_bytes, launch, synchronize,
      capture_begin, capture_end, replay, release_graph};
  return &backend;
}
