// For tests of kernels in bf16 precision.
#pragma once
#include <cstring>
#include <functional>

#include "harness.h"

namespace trefoil::test {

// The devices of the backend under test, opened in bf16 precision; none where a backend has but one precision.
inline void for_each_bf16_device(Device& device, const std::function<void(Device&)>& body) {
  if (device.backend->flags & TREFOIL_BACKEND_HOST_MEMORY) return;
  TrefoilStatus status{};
  const int32_t count = std::strcmp(device.backend->name, "cuda") == 0 ? 1 : device.backend->device_count(&status);
  for (int32_t index = 0; index < count; ++index) {
    TrefoilDeviceOptions options{index, 0, nullptr, "bf16"};
    TrefoilDevice* handle = device.backend->open_device(&options, &status);
    if (!handle) throw Failure{status.message};
    Device other{device.backend, handle, device.isa, 1};
    try {
      body(other);
    } catch (...) {
      device.backend->close_device(handle);
      throw;
    }
    device.backend->close_device(handle);
  }
}

// To bf16, to the nearest, ties to even.
inline double rounded(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

}  // namespace trefoil::test
