#include "toy_backend.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "runtime/registry.h"

struct TrefoilDevice {
  uintptr_t shift;  // added to every pointer that leaves allocate()
  std::atomic<int64_t> blocks{0};
};

namespace trefoil::test {

namespace {

constexpr uintptr_t kShift = uintptr_t{1} << 50;  // not a canonical address: following it faults
const char* const kOps[] = {"add", "scale", "accumulate_", "sum_via_workspace", "nap", "fail", "divide_by_zero"};
enum Op { kAdd, kScale, kAccumulate, kSumViaWorkspace, kNap, kFail, kDivideByZero };

template <class T = float>
T* host(TrefoilDevice* device, const void* pointer) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(pointer) - device->shift);
}

size_t count(const TrefoilView& view) {
  size_t result = 1;
  for (int i = 0; i < view.rank; ++i) result *= static_cast<size_t>(view.shape[i]);
  return result;
}

int32_t ok(TrefoilStatus* status) { return status->code = TREFOIL_OK; }

int32_t device_count(TrefoilStatus* status) {
  ok(status);
  return 1;
}
template <uintptr_t shift>
TrefoilDevice* open_device(const TrefoilDeviceOptions*, TrefoilStatus*) { return new TrefoilDevice{shift}; }
std::atomic<int64_t> blocks_left{0};
void close_device(TrefoilDevice* device) {
  blocks_left += device->blocks;
  delete device;
}
void device_info(TrefoilDevice*, TrefoilDeviceInfo* info) { std::snprintf(info->name, sizeof info->name, "toy"); }
void* allocate(TrefoilDevice* device, size_t bytes) {
  size_t rounded = (bytes + 63) / 64 * 64 + 64;
  void* pointer = std::aligned_alloc(64, rounded);
  if (!pointer) return nullptr;
  std::memset(pointer, 0, rounded);
  ++device->blocks;
  return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(pointer) + device->shift);
}
void release(TrefoilDevice* device, void* pointer) {
  --device->blocks;
  std::free(host(device, pointer));
}
int32_t copy_in(TrefoilDevice* device, void* to, const void* from, size_t bytes, TrefoilStatus* status) {
  std::memcpy(host(device, to), from, bytes);
  return ok(status);
}
int32_t copy_out(TrefoilDevice* device, void* to, const void* from, size_t bytes, TrefoilStatus* status) {
  std::memcpy(to, host(device, from), bytes);
  return ok(status);
}
int32_t copy(TrefoilDevice* device, void* to, const void* from, size_t bytes, TrefoilStatus* status) {
  std::memcpy(host(device, to), host(device, from), bytes);
  return ok(status);
}
const char* op_name(int32_t op) { return op < 0 || op >= static_cast<int32_t>(std::size(kOps)) ? nullptr : kOps[op]; }
int32_t find_op(const char* name) {
  for (int32_t op = 0; const char* known = op_name(op); ++op)
    if (std::strcmp(known, name) == 0) return op;
  return -1;
}
size_t workspace_bytes(TrefoilDevice*, int32_t op, const TrefoilLaunch* launch) {
  return op == kSumViaWorkspace && launch->inputs[0].data ? count(launch->inputs[0]) * sizeof(float) : 0;
}

int32_t launch(TrefoilDevice* device, int32_t op, const TrefoilLaunch* args, TrefoilStatus* status) {
  auto in = [&](int i) { return host(device, args->inputs[i].data); };
  float* out = host(device, args->outputs[0].data);
  size_t n = count(args->outputs[0]);
  switch (op) {
    case kAdd:
      for (size_t i = 0; i < n; ++i) out[i] = in(0)[i] + in(1)[i];
      break;
    case kScale:
      for (size_t i = 0; i < n; ++i) out[i] = in(0)[i] * static_cast<float>(args->attributes[0]);
      break;
    case kAccumulate:
      for (size_t i = 0; i < n; ++i) out[i] += in(1)[i];
      break;
    case kSumViaWorkspace: {
      float* workspace = host(device, args->workspace);
      size_t length = count(args->inputs[0]);
      std::memcpy(workspace, in(0), length * sizeof(float));
      float sum = 0;
      for (size_t i = 0; i < length; ++i) sum += workspace[i];
      out[0] = sum;
      break;
    }
    case kNap:
      std::this_thread::sleep_for(std::chrono::milliseconds(static_cast<int>(args->attributes[0])));
      out[0] = 1;
      break;
    case kDivideByZero:
      for (size_t i = 0; i < n; ++i) out[i] = in(0)[i] / (i == n - 1 ? 0.0f : 1.0f);
      break;
    default:
      std::snprintf(status->message, sizeof status->message, "index 9 is outside [0, 4)");
      return status->code = TREFOIL_INDEX_OUT_OF_RANGE;
  }
  return ok(status);
}
int32_t synchronize(TrefoilDevice*, TrefoilStatus* status) { return ok(status); }

constexpr TrefoilBackend table(const char* name, uint32_t flags, TrefoilDevice* (*open)(const TrefoilDeviceOptions*, TrefoilStatus*)) {
  return {TREFOIL_BACKEND_ABI_VERSION, sizeof(TrefoilBackend), name, flags,
          device_count, open, close_device, device_info, allocate, release, copy_in, copy_out, copy,
          find_op, op_name, workspace_bytes, launch, synchronize, nullptr, nullptr, nullptr, nullptr};
}
constexpr TrefoilBackend kHost = table("toy", TREFOIL_BACKEND_HOST_MEMORY, open_device<0>);
constexpr TrefoilBackend kRemote = table("remote_toy", 0, open_device<kShift>);

}  // namespace

std::shared_ptr<runtime::Device> open_toy_device(bool host_memory) {
  const TrefoilBackend& backend = host_memory ? kHost : kRemote;
  runtime::register_backend(&backend);
  runtime::DeviceOptions options;
  options.backend = backend.name;
  return runtime::Device::open(options);
}

int64_t toy_blocks_left() { return blocks_left; }

}  // namespace trefoil::test
