// What cuda_bench times: tensors on the device, the calls of a line, and the lines.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "trefoil/backend.h"

extern const TrefoilBackend* backend;
extern TrefoilDevice* device;
extern int32_t activation;  // dtype of values between ops: bf16 with --precision=bf16, else f32

void check(int32_t code, const TrefoilStatus& status);
void synchronize();

// A tensor on the device. Values repeat after 64 Ki elements: enough that nothing is special about them.
struct Tensor {
  TrefoilView view{};
  ~Tensor() {
    if (view.data) backend->release(device, view.data);
  }
  Tensor() = default;
  Tensor(Tensor&& other) noexcept { std::swap(view, other.view); }
  Tensor& operator=(Tensor&& other) noexcept {
    std::swap(view, other.view);
    return *this;
  }
  int64_t count() const {
    int64_t result = 1;
    for (int i = 0; i < view.rank; ++i) result *= view.shape[i];
    return result;
  }
  double bytes() const { return static_cast<double>(count()) * (view.dtype == TREFOIL_BF16 ? 2 : 4); }
};

Tensor empty(std::vector<int64_t> shape, int32_t dtype = TREFOIL_F32);
Tensor normal(std::vector<int64_t> shape, float scale = 1.0f, int32_t dtype = TREFOIL_F32);
Tensor integers(std::vector<int64_t> shape, const std::function<int32_t(int64_t)>& value);
// From one number on the host per element.
template <class T>
Tensor filled(std::vector<int64_t> shape, int32_t dtype, const std::function<T(int64_t)>& value) {
  Tensor tensor = empty(std::move(shape), dtype);
  std::vector<T> host(static_cast<size_t>(tensor.count()));
  for (size_t i = 0; i < host.size(); ++i) host[i] = value(static_cast<int64_t>(i));
  TrefoilStatus status{};
  if (!host.empty()) check(backend->copy_in(device, tensor.view.data, host.data(), host.size() * sizeof(T), &status), status);
  synchronize();
  return tensor;
}
// The bits of i in an order that looks random: indices without a pattern.
inline int64_t scramble(int64_t i) { return static_cast<int64_t>((static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15ull) >> 33); }

// An op of a line. Operands are numbers of tensors; -1: left out.
struct Call {
  std::string op;
  std::vector<int> inputs, outputs;
  std::vector<double> attributes;
  bool routing = false;  // of a mixture of experts: not one of the experts' products
};

struct Work {
  std::vector<Tensor> tensors;
  std::vector<Call> calls;
  double bytes = -1;  // -1: every tensor once
  double flops = 0;   // 0: bound by memory
  int copies = 1;     // of the line's op, each over tensors of its own: together more than the caches hold

  int add(Tensor tensor) {
    tensors.push_back(std::move(tensor));
    return static_cast<int>(tensors.size()) - 1;
  }
};

struct Line {
  std::string name;
  std::function<Work()> make;
};

std::vector<Line> all_lines();
// One op: its tensors in their order, `absent_inputs` and `absent_outputs` left out behind them.
Work one_op(std::string op, std::vector<Tensor> inputs, std::vector<Tensor> outputs, std::vector<double> attributes = {}, int absent_inputs = 0, int absent_outputs = 0);
// Forward and backward of a mixture of experts, as the graph of `MixtureOfExperts` in @trefoil/core has them.
Work mixture_layer(int64_t tokens, int64_t hidden, int64_t intermediate, int64_t experts, int64_t choices);
