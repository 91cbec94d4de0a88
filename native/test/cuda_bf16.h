// For tests of kernels in bf16 precision.
#pragma once
#include <cstdlib>
#include <cstring>
#include <functional>
#include <optional>
#include <string>

#include "attention_reference.h"

namespace trefoil::test {

// body with another device of the backend under test.
inline void with_device(const Device& device, const TrefoilDeviceOptions& options, const std::function<void(Device&)>& body) {
  TrefoilStatus status{};
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

// The devices of the backend under test, opened in bf16 precision; none where a backend has but one precision.
inline void for_each_bf16_device(Device& device, const std::function<void(Device&)>& body) {
  if (device.backend->flags & TREFOIL_BACKEND_HOST_MEMORY) return;
  TrefoilStatus status{};
  const int32_t count = std::strcmp(device.backend->name, "cuda") == 0 ? 1 : device.backend->device_count(&status);
  for (int32_t index = 0; index < count; ++index) with_device(device, {index, 0, nullptr, "bf16"}, body);
}

// A CPU device whose products round their operands.
inline void with_bf16_products(Device& device, const std::function<void(Device&)>& body) {
  if (device.backend->flags & TREFOIL_BACKEND_HOST_MEMORY) with_device(device, {0, 1, device.isa.c_str(), "bf16-products"}, body);
}

// Whether the CPU has instructions for pairs of bf16.
inline bool multiplies_pairs(Device& device) {
  TrefoilDeviceInfo info{};
  device.backend->device_info(device.handle, &info);
  return std::strstr(info.isa, "-BF16") != nullptr;
}

// An environment variable for as long as the scope lasts. What it was before is what the tests after it run with.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value, 1);
  }
  ~Variable() {
    if (before_) setenv(name_, before_->c_str(), 1);
    else unsetenv(name_);
  }
  Variable(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

// Tests that ask for wgmma themselves run on a device only where its run is about that: elsewhere a kernel that hangs would cost a minute
// of every run, those under compute-sanitizer too.
inline bool tries_wgmma(const Device& device) {
  const char* wanted = std::getenv("TREFOIL_CUDA_WGMMA");
  return emulated(device) || (wanted && *wanted && std::strcmp(wanted, "0") != 0);
}

// For attention by Hopper's own kernels. Its gradients are made as TREFOIL_CUDA_ATTENTION_GRADIENT says, in two passes where nothing does; the tests of one pass ask for it
// themselves, on a device only in the run that is about it.
inline void for_each_wgmma_device(Device& device, bool one_pass, const std::function<void(Device&)>& body) {
  if (!tries_wgmma(device) || (one_pass && !emulated(device) && !std::getenv("TREFOIL_CUDA_ATTENTION_GRADIENT"))) return;
  const Variable wgmma("TREFOIL_CUDA_WGMMA", "1");
  std::optional<Variable> gradient;
  if (one_pass) gradient.emplace("TREFOIL_CUDA_ATTENTION_GRADIENT", "one-pass");
  for_each_bf16_device(device, body);
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

// f32 arithmetic of a few steps on every term: relative to the sum of their sizes.
inline constexpr double kFew = 0x1p-20;
// Sums of k terms, in any order, through tensor cores that may truncate where they align.
inline double sum_slack(int64_t k) { return static_cast<double>(k + 8) * 0x1p-23; }

// Numbers that bf16 holds, to be given to an op as f32 or as bf16; or a result that it leaves as either.
class Stored {
 public:
  Stored(std::mt19937& generator, std::vector<int64_t> shape, float scale = 1.0f) : wide_(normal(generator, std::move(shape), scale)), half_(wide_.shape) {
    for (size_t i = 0; i < wide_.size(); ++i) wide_[i] = from_bf16(half_[i] = to_bf16(wide_[i]));
  }
  explicit Stored(std::vector<int64_t> shape) : wide_(std::move(shape)), half_(wide_.shape) {}

  TrefoilView as(bool half) { return in_half_ = half, half ? view(half_) : view(wide_); }
  TrefoilView cleared(bool half) {
    std::fill(wide_.values.begin(), wide_.values.end(), 0.0f);
    std::fill(half_.values.begin(), half_.values.end(), uint16_t{0});
    return as(half);
  }
  double operator[](size_t i) const { return in_half_ ? from_bf16(half_[i]) : wide_[i]; }
  size_t size() const { return wide_.size(); }

  // Of a result: each element within 2^-8 of itself, half a unit of bf16's 8 significant bits, where it is stored as bf16; and within `slack`
  // of the sum of its terms' sizes.
  void check(const Doubles& exact, const Doubles& terms, double slack, const char* what) const {
    for (size_t i = 0; i < exact.size(); ++i) {
      const double bound = (in_half_ ? 0x1p-8 * std::fabs(exact[i]) : 0) + slack * 1.01 * terms[i] + 1e-30, error = std::fabs((*this)[i] - exact[i]);
      if (error <= bound) continue;
      char text[200];
      std::snprintf(text, sizeof text, "%s[%zu] in %s is %.9g, expected %.9g (error %.3g, bound %.3g)", what, i, in_half_ ? "bf16" : "f32", (*this)[i], exact[i], error, bound);
      return wrong_result(text);
    }
  }

 private:
  F32 wide_;
  BF16 half_;
  bool in_half_ = false;
};

}  // namespace trefoil::test
