// Time of every heavy op of the CUDA backend beside the ceilings of the same device, measured in the same run. Prints one JSON object.
// cuda_bench LIBRARY [name-part] [--precision=f32|bf16] [--seconds=0.2]
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_peaks.h"
#include "trefoil/backend.h"

namespace {

const TrefoilBackend* backend;
TrefoilDevice* device;
double seconds_per_line = 0.2;

void check(int32_t code, const TrefoilStatus& status) {
  if (code != TREFOIL_OK) throw std::runtime_error(status.message);
}

void synchronize() {
  TrefoilStatus status{};
  check(backend->synchronize(device, &status), status);
}

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

Tensor make(std::vector<int64_t> shape, int32_t dtype) {
  Tensor tensor;
  tensor.view.rank = static_cast<int32_t>(shape.size());
  tensor.view.dtype = dtype;
  std::copy(shape.begin(), shape.end(), tensor.view.shape);
  tensor.view.data = backend->allocate(device, static_cast<size_t>(tensor.bytes()));
  if (!tensor.view.data) throw std::runtime_error("out of device memory");
  return tensor;
}

template <class T>
Tensor filled(std::vector<int64_t> shape, int32_t dtype, const std::function<T(int64_t)>& value) {
  Tensor tensor = make(std::move(shape), dtype);
  std::vector<T> host(static_cast<size_t>(tensor.count()));
  for (size_t i = 0; i < host.size(); ++i) host[i] = value(static_cast<int64_t>(i));
  TrefoilStatus status{};
  if (!host.empty()) check(backend->copy_in(device, tensor.view.data, host.data(), host.size() * sizeof(T), &status), status);
  synchronize();
  return tensor;
}

Tensor normal(std::vector<int64_t> shape, float scale = 1.0f) {
  static const std::vector<float> values = [] {
    std::mt19937 generator(1);
    std::normal_distribution<float> distribution;
    std::vector<float> made(65537);  // a prime: rows do not repeat
    for (float& x : made) x = distribution(generator);
    return made;
  }();
  Tensor tensor = make(std::move(shape), TREFOIL_F32);
  std::vector<float> host(std::min<size_t>(static_cast<size_t>(tensor.count()), 65537 * 256));
  for (size_t i = 0; i < host.size(); ++i) host[i] = values[i % values.size()] * scale;
  TrefoilStatus status{};
  for (size_t at = 0; at < static_cast<size_t>(tensor.count()); at += host.size()) {
    const size_t n = std::min(host.size(), static_cast<size_t>(tensor.count()) - at);
    check(backend->copy_in(device, static_cast<float*>(tensor.view.data) + at, host.data(), n * 4, &status), status);
  }
  synchronize();
  return tensor;
}
Tensor integers(std::vector<int64_t> shape, const std::function<int32_t(int64_t)>& value) { return filled<int32_t>(std::move(shape), TREFOIL_I32, value); }
Tensor empty(std::vector<int64_t> shape, int32_t dtype = TREFOIL_F32) { return make(std::move(shape), dtype); }

// The bits of i in an order that looks random: indices without a pattern.
int64_t scramble(int64_t i) { return static_cast<int64_t>((static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15ull) >> 33); }

struct Work {
  std::vector<Tensor> inputs, outputs;
  std::vector<double> attributes;
  double bytes = -1;  // -1: every input and output once
  double flops = 0;   // 0: bound by memory
};

struct Line {
  std::string name, op;
  std::function<Work()> make;
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// Seconds of body(n), which enqueues n repetitions, per repetition: the median of five, after a warm-up.
double time_of(const std::function<void(int)>& body) {
  auto once = [&](int n) {
    synchronize();
    const auto start = std::chrono::steady_clock::now();
    body(n);
    synchronize();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / n;
  };
  once(1);
  const int n = std::max(1, std::min(1000, static_cast<int>(seconds_per_line / 5 / std::max(once(2), 1e-7))));
  std::vector<double> times;
  for (int i = 0; i < 5; ++i) times.push_back(once(n));
  return median(times);
}

// As programs run: recorded once, then replayed, so that the time is the kernels'.
double time_launch(int32_t op, const TrefoilLaunch& launch) {
  TrefoilStatus status{};
  check(backend->launch(device, op, &launch, &status), status);
  synchronize();
  constexpr int kRecorded = 10;
  check(backend->capture_begin(device, &status), status);
  for (int i = 0; i < kRecorded; ++i) {
    const int32_t code = backend->launch(device, op, &launch, &status);
    if (code != TREFOIL_OK) {
      TrefoilStatus ignored{};
      if (void* graph = backend->capture_end(device, &ignored)) backend->release_graph(device, graph);
      check(code, status);
    }
  }
  void* graph = backend->capture_end(device, &status);
  if (!graph) throw std::runtime_error(status.message);
  const double seconds = time_of([&](int n) {
    for (int i = 0; i < n; ++i) check(backend->replay(device, graph, &status), status);
  });
  backend->release_graph(device, graph);
  return seconds / kRecorded;
}

double copy_bandwidth() {
  constexpr int64_t count = int64_t{1} << 28;  // 1 GiB: past every cache
  Tensor from = empty({count}), to = empty({count});
  TrefoilStatus status{};
  const double seconds = time_of([&](int n) {
    for (int i = 0; i < n; ++i) check(backend->copy(device, to.view.data, from.view.data, static_cast<size_t>(from.bytes()), &status), status);
  });
  return 2 * from.bytes() / seconds;
}

Work rows_work(int64_t rows, int64_t n, bool weight, bool statistics) {
  Work work;
  work.inputs.push_back(normal({rows, n}));
  if (weight) work.inputs.push_back(normal({n}));
  work.outputs.push_back(empty({rows, n}));
  if (statistics) work.outputs.push_back(empty({rows}));
  if (weight) work.attributes = {1e-5};
  return work;
}

Work matmul_work(int64_t m, int64_t n, int64_t k, bool transpose_a, bool transpose_b) {
  Work work;
  work.inputs.push_back(normal(transpose_a ? std::vector<int64_t>{k, m} : std::vector<int64_t>{m, k}, 0.1f));
  work.inputs.push_back(normal(transpose_b ? std::vector<int64_t>{n, k} : std::vector<int64_t>{k, n}, 0.1f));
  work.outputs.push_back(empty({m, n}));
  work.attributes = {double(transpose_a), double(transpose_b), 1, 0};
  work.flops = 2.0 * double(m) * double(n) * double(k);
  return work;
}

Work attention_work(int64_t batch, int64_t length, int64_t heads, int64_t kv_heads, int64_t size, bool backward) {
  Work work;
  const std::vector<int64_t> q{batch, length, heads, size}, kv{batch, length, kv_heads, size}, lse{batch, heads, length};
  if (backward) work.inputs.push_back(normal(q));
  work.inputs.push_back(normal(q));
  work.inputs.push_back(normal(kv));
  work.inputs.push_back(normal(kv));
  if (backward) {
    work.inputs.push_back(normal(q));
    work.inputs.push_back(filled<float>(lse, TREFOIL_F32, [&](int64_t i) { return std::log(1.0f + static_cast<float>(i % length)) + 0.5f; }));
    work.outputs.push_back(empty(q));
    work.outputs.push_back(empty(kv));
    work.outputs.push_back(empty(kv));
  } else {
    work.outputs.push_back(empty(q));
    work.outputs.push_back(empty(lse));
  }
  work.attributes = {1, 1 / std::sqrt(double(size))};
  // Two products forward, five backward, half of each under the causal mask.
  work.flops = (backward ? 5.0 : 2.0) * double(batch) * double(heads) * double(length) * double(length) * double(size);
  return work;
}

// One query per sequence against caches of `keys`, stored as f32 or bf16: bound by reading them.
Work decode_work(int64_t batch, int64_t keys, int64_t heads, int64_t kv_heads, int64_t size, bool bf16) {
  Work work;
  const std::vector<int64_t> q{batch, 1, heads, size}, kv{batch, keys, kv_heads, size};
  work.inputs.push_back(normal(q));
  for (int i = 0; i < 2; ++i)
    work.inputs.push_back(bf16 ? filled<uint16_t>(kv, TREFOIL_BF16, [](int64_t at) { return static_cast<uint16_t>(0x3c00 + scramble(at) % 1024); }) : normal(kv));
  work.inputs.push_back(integers({batch}, [keys](int64_t) { return static_cast<int32_t>(keys); }));
  work.outputs.push_back(empty(q));
  work.outputs.push_back(empty({batch, heads, 1}));
  work.attributes = {1, 1 / std::sqrt(double(size))};
  return work;
}

// The gate, the sort of tokens by expert, and the sum over a token's experts: what a layer adds to its products.
Work gate_work(int64_t tokens, int64_t experts, int64_t choices) {
  Work work;
  work.inputs.push_back(normal({tokens, experts}));
  work.outputs.push_back(empty({tokens, choices}));
  work.outputs.push_back(empty({tokens, choices}, TREFOIL_I32));
  work.outputs.push_back(empty({tokens, experts}));
  work.attributes = {0};
  return work;
}
Work sort_work(int64_t tokens, int64_t experts, int64_t choices) {
  Work work;
  work.inputs.push_back(integers({tokens, choices}, [=](int64_t i) { return static_cast<int32_t>((scramble(i / choices) + i % choices) % experts); }));
  for (int64_t count : {tokens * choices, tokens * choices, experts + 1, tokens * choices}) work.outputs.push_back(empty({count}, TREFOIL_I32));
  return work;
}
Work combine_work(int64_t tokens, int64_t choices, int64_t width) {
  Work work;
  work.inputs.push_back(normal({tokens * choices, width}));
  // 7919 is a prime: every row once, neighbours apart.
  work.inputs.push_back(integers({tokens * choices}, [=](int64_t i) { return static_cast<int32_t>(i * 7919 % (tokens * choices)); }));
  work.inputs.push_back(normal({tokens, choices}));
  work.outputs.push_back(empty({tokens, width}));
  work.attributes = {double(choices)};
  return work;
}

// Flops of the scores alone; the kernel multiplies three times, in halves of bf16.
Work vq_work(int64_t rows, int64_t codes, int64_t width) {
  Work work;
  work.inputs.push_back(normal({rows, width}));
  work.inputs.push_back(normal({codes, width}));
  work.outputs.push_back(empty({rows}, TREFOIL_I32));
  work.outputs.push_back(empty({rows}));
  work.flops = 2.0 * double(rows) * double(codes) * double(width);
  return work;
}

Work grouped_work(int64_t tokens, int64_t experts, int64_t choices, int64_t k, int64_t n) {
  Work work;
  const int64_t rows = tokens * choices;
  work.inputs.push_back(normal({rows, k}, 0.1f));
  work.inputs.push_back(normal({experts, n, k}, 0.1f));
  // Uneven by a third, as routers are.
  std::vector<int32_t> offsets(static_cast<size_t>(experts) + 1);
  for (int64_t e = 0; e < experts; ++e)
    offsets[static_cast<size_t>(e) + 1] = static_cast<int32_t>(std::min<int64_t>(rows, offsets[static_cast<size_t>(e)] + rows / experts * (3 + (e % 3 - 1)) / 3));
  offsets.back() = static_cast<int32_t>(rows);
  work.inputs.push_back(integers({experts + 1}, [&](int64_t i) { return offsets[static_cast<size_t>(i)]; }));
  work.outputs.push_back(empty({rows, n}));
  work.attributes = {1};
  work.flops = 2.0 * double(rows) * double(n) * double(k);
  return work;
}

std::vector<Line> all_lines() {
  std::vector<Line> lines;
  auto add = [&](std::string name, std::string op, std::function<Work()> make) { lines.push_back({std::move(name), std::move(op), std::move(make)}); };
  for (int64_t n : {1024, 4096, 8192}) {
    const std::string shape = " 16384x" + std::to_string(n);
    add("rms_norm" + shape, "rms_norm", [n] { return rows_work(16384, n, true, true); });
    add("rms_norm_grad" + shape, "rms_norm_grad", [n] {
      Work work = rows_work(16384, n, true, false);
      work.inputs.insert(work.inputs.begin(), normal({16384, n}));
      work.inputs.push_back(filled<float>({16384}, TREFOIL_F32, [](int64_t) { return 1.0f; }));
      work.outputs.push_back(empty({n}));
      work.attributes = {};
      return work;
    });
  }
  add("softmax 8192x4096", "softmax", [] { return rows_work(8192, 4096, false, false); });
  add("softmax 4096x32000", "softmax", [] { return rows_work(4096, 32000, false, false); });
  add("swiglu 16384x11008", "swiglu", [] {
    Work work;
    work.inputs.push_back(normal({16384, 22016}));
    work.outputs.push_back(empty({16384, 11008}));
    return work;
  });
  add("swiglu_grad 16384x11008", "swiglu_grad", [] {
    Work work;
    work.inputs.push_back(normal({16384, 22016}));
    work.inputs.push_back(normal({16384, 11008}));
    work.outputs.push_back(empty({16384, 22016}));
    return work;
  });
  add("rope 8x2048x32x128", "rope", [] {
    Work work;
    work.inputs.push_back(normal({8, 2048, 32, 128}));
    work.inputs.push_back(normal({2048, 64}));
    work.inputs.push_back(normal({2048, 64}));
    work.inputs.push_back(integers({8, 2048}, [](int64_t i) { return static_cast<int32_t>(i % 2048); }));
    work.outputs.push_back(empty({8, 2048, 32, 128}));
    work.attributes = {0, 0};
    return work;
  });
  add("adamw 256M", "adamw_", [] {
    Work work;
    constexpr int64_t n = int64_t{1} << 28;
    work.inputs.push_back(filled<float>({3}, TREFOIL_F32, [](int64_t i) { return i == 2 ? 10.0f : i == 1 ? 1.0f : 1e-4f; }));
    for (int k = 0; k < 4; ++k) work.inputs.push_back(k == 3 ? empty({n}) : normal({n}));
    work.attributes = {0.9, 0.95, 1e-8, 0.1};
    work.bytes = 7.0 * 4 * double(n);  // p, g, m, v read; p, m, v written
    return work;
  });
  add("elementwise a*b+c, gelu 256M", "elementwise", [] {
    Work work;
    constexpr int64_t n = int64_t{1} << 28;
    for (int k = 0; k < 2; ++k) work.inputs.push_back(normal({n}));
    work.outputs.push_back(empty({n}));
    work.attributes = {3, 4, 0, 1, 0, 0, 33, 2, 0, 0, 0.5, 20, 3, 0, 0, 0, 4};
    return work;
  });
  add("transpose 8x4096x4096", "transpose", [] {
    Work work;
    work.inputs.push_back(normal({8, 4096, 4096}));
    work.outputs.push_back(empty({8, 4096, 4096}));
    work.attributes = {0, 2, 1};
    return work;
  });
  add("reduce columns 65536x4096", "reduce", [] {
    Work work;
    work.inputs.push_back(normal({65536, 4096}));
    work.outputs.push_back(empty({4096}));
    work.attributes = {0, 1, 65536, 4096};
    return work;
  });
  add("gather_rows 16384 of 128000x4096", "gather_rows", [] {
    Work work;
    work.inputs.push_back(normal({128000, 4096}));
    work.inputs.push_back(integers({16384}, [](int64_t i) { return static_cast<int32_t>(scramble(i) % 128000); }));
    work.outputs.push_back(empty({16384, 4096}));
    work.bytes = 2.0 * 16384 * 4096 * 4;
    return work;
  });
  add("scatter_add_rows 16384 to 32000x4096", "scatter_add_rows", [] {
    Work work;
    work.inputs.push_back(normal({16384, 4096}));
    work.inputs.push_back(integers({16384}, [](int64_t i) { return static_cast<int32_t>(scramble(i) % 32000); }));
    work.outputs.push_back(empty({32000, 4096}));
    return work;
  });
  add("masked_diffusion_step 128x256x8192", "masked_diffusion_step", [] {
    Work work;
    work.inputs.push_back(normal({128, 256, 8192}));
    work.inputs.push_back(normal({128, 256, 8192}));
    work.inputs.push_back(integers({128, 256}, [](int64_t) { return -1; }));
    work.inputs.push_back(integers({128}, [](int64_t) { return 128; }));
    work.inputs.push_back(filled<float>({3}, TREFOIL_F32, [](int64_t i) { return i == 0 ? 2.0f : 1.0f; }));
    work.inputs.push_back(integers({4}, [](int64_t i) { return static_cast<int32_t>(i); }));
    work.outputs.push_back(empty({128, 256}, TREFOIL_I32));
    work.outputs.push_back(empty({128, 256}, TREFOIL_I32));
    work.outputs.push_back(empty({128, 256}));
    work.attributes = {-1, 0, 1, 0, 0};
    return work;
  });
  add("sample_tokens 64x128000", "sample_tokens", [] {
    Work work;
    work.inputs.push_back(normal({64, 128000}, 3.0f));
    work.inputs.push_back(integers({4}, [](int64_t i) { return static_cast<int32_t>(i); }));
    work.outputs.push_back(empty({64}, TREFOIL_I32));
    work.outputs.push_back(empty({64}));
    work.attributes = {1, 50, 0.95, 0};
    return work;
  });
  for (int64_t n : {1024, 4096, 8192}) add("matmul " + std::to_string(n), "matmul", [n] { return matmul_work(n, n, n, false, true); });
  add("matmul 16384x4096x11008", "matmul", [] { return matmul_work(16384, 11008, 4096, false, true); });
  add("matmul 64x4096x4096 (decode)", "matmul", [] { return matmul_work(64, 4096, 4096, false, true); });
  for (int64_t size : {64, 128})
    for (int64_t length : {1024, 4096, 16384}) {
      const std::string shape = " " + std::to_string(16384 / length) + "x" + std::to_string(length) + "x" + std::to_string(2048 / size) + "x" + std::to_string(size);
      add("attention" + shape, "attention", [=] { return attention_work(16384 / length, length, 2048 / size, 2048 / size, size, false); });
      add("attention_grad" + shape, "attention_grad", [=] { return attention_work(16384 / length, length, 2048 / size, 2048 / size, size, true); });
    }
  for (bool bf16 : {true, false}) {
    const std::string suffix = bf16 ? " bf16 keys" : " f32 keys";
    add("attention decode 64x2048x32/8x128" + suffix, "attention", [=] { return decode_work(64, 2048, 32, 8, 128, bf16); });
    add("attention decode 1x16384x32/8x128" + suffix, "attention", [=] { return decode_work(1, 16384, 32, 8, 128, bf16); });
  }
  for (auto [tokens, experts, choices, width] : {std::array<int64_t, 4>{4096, 8, 2, 4096}, {8192, 64, 8, 2048}}) {
    const std::string shape = " " + std::to_string(tokens) + " tokens, " + std::to_string(experts) + " experts top-" + std::to_string(choices);
    add("moe_gate" + shape, "moe_gate", [=] { return gate_work(tokens, experts, choices); });
    add("moe_sort" + shape, "moe_sort", [=] { return sort_work(tokens, experts, choices); });
    add("moe_combine" + shape, "moe_combine", [=] { return combine_work(tokens, choices, width); });
  }
  add("vq_lookup 16384x8192x256", "vq_lookup", [] { return vq_work(16384, 8192, 256); });
  add("grouped_matmul mixtral 4096 tokens", "grouped_matmul", [] { return grouped_work(4096, 8, 2, 4096, 14336); });
  add("grouped_matmul 64 experts top-8", "grouped_matmul", [] { return grouped_work(8192, 64, 8, 2048, 1024); });
  for (int64_t vocabulary : {32000, 128000})
    add("linear_cross_entropy 8192x2048x" + std::to_string(vocabulary), "linear_cross_entropy", [vocabulary] {
      Work work;
      work.inputs.push_back(normal({8192, 2048}, 0.05f));
      work.inputs.push_back(normal({vocabulary, 2048}, 0.05f));
      work.inputs.push_back(integers({8192}, [vocabulary](int64_t i) { return static_cast<int32_t>(scramble(i) % vocabulary); }));
      work.inputs.push_back(filled<float>({8192}, TREFOIL_F32, [](int64_t) { return 1.0f / 8192; }));
      work.outputs.push_back(empty({}));
      work.outputs.push_back(empty({8192}));
      work.outputs.push_back(empty({8192, 2048}));
      work.outputs.push_back(empty({vocabulary, 2048}));
      work.flops = 3 * 2.0 * 8192 * 2048 * double(vocabulary);
      return work;
    });
  return lines;
}

std::string escaped(const std::string& text) {
  std::string result;
  for (char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c < ' ' ? ' ' : c;
  }
  return result;
}

void run_line(const Line& line, double bandwidth, double peak) {
  const int32_t op = backend->find_op(line.op.c_str());
  if (op < 0) throw std::runtime_error("the backend has no such op");
  Work work = line.make();
  std::vector<TrefoilView> inputs, outputs;
  double bytes = work.bytes;
  for (const Tensor& tensor : work.inputs) inputs.push_back(tensor.view);
  for (const Tensor& tensor : work.outputs) outputs.push_back(tensor.view);
  if (bytes < 0) {
    bytes = 0;
    for (const auto* tensors : {&work.inputs, &work.outputs})
      for (const Tensor& tensor : *tensors) bytes += tensor.bytes();
  }
  // Optional operands that are left out.
  const TrefoilView none{};
  const size_t wanted_inputs = line.op == "matmul" || line.op == "grouped_matmul" || line.op == "moe_combine" ? 4 : line.op == "attention" ? 5 : line.op == "attention_grad" ? 8 : line.op == "masked_diffusion_step" ? 7 : inputs.size();
  while (inputs.size() < wanted_inputs) inputs.push_back(none);
  if (line.op == "matmul") outputs.push_back(none);
  if (line.op == "adamw_") outputs.assign(3, none);
  TrefoilLaunch launch{};
  launch.inputs = inputs.data();
  launch.input_count = static_cast<int32_t>(inputs.size());
  launch.outputs = outputs.data();
  launch.output_count = static_cast<int32_t>(outputs.size());
  launch.attributes = work.attributes.data();
  launch.attribute_count = static_cast<int32_t>(work.attributes.size());
  launch.workspace_bytes = backend->workspace_bytes(device, op, &launch);
  Tensor workspace = empty({static_cast<int64_t>(launch.workspace_bytes + 3) / 4});
  launch.workspace = workspace.view.data;
  const double seconds = time_launch(op, launch);
  const double rate = work.flops > 0 ? work.flops / seconds : bytes / seconds;
  std::printf("\"milliseconds\": %.5f, \"%s\": %.2f, \"share\": %.4f", seconds * 1e3, work.flops > 0 ? "tflops" : "gbps",
              rate / (work.flops > 0 ? 1e12 : 1e9), rate / (work.flops > 0 ? peak : bandwidth));
}

int run(const char* path, const char* part, const char* precision) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  auto entry = library ? reinterpret_cast<TrefoilBackendEntry>(dlsym(library, "trefoil_backend")) : nullptr;
  if (!entry) throw std::runtime_error(dlerror());
  backend = entry();
  TrefoilStatus status{};
  TrefoilDeviceOptions options{0, 0, nullptr, precision};
  if (backend->device_count(&status) == 0 || !(device = backend->open_device(&options, &status))) throw std::runtime_error(status.message);
  TrefoilDeviceInfo info{};
  backend->device_info(device, &info);
  const double bandwidth = copy_bandwidth();
  const Peaks peaks = measure_peaks();
  const double peak = std::strcmp(precision, "f32") == 0 ? peaks.fma_f32 : peaks.mma_bf16;
  std::printf("{\"device\": \"%s\", \"level\": \"%s\", \"copy_gbps\": %.1f, \"fma_f32_tflops\": %.2f, \"mma_bf16_tflops\": %.2f, \"lines\": [", escaped(info.name).c_str(),
              info.isa, bandwidth / 1e9, peaks.fma_f32 / 1e12, peaks.mma_bf16 / 1e12);
  bool first = true;
  for (const Line& line : all_lines()) {
    if (part && line.name.find(part) == std::string::npos) continue;
    std::printf("%s\n  {\"name\": \"%s\", ", first ? "" : ",", line.name.c_str());
    first = false;
    try {
      run_line(line, bandwidth, peak);
    } catch (const std::exception& error) {
      std::printf("\"error\": \"%s\"", escaped(error.what()).c_str());
    }
    std::printf("}");
    std::fflush(stdout);
  }
  std::printf("\n]}\n");
  backend->close_device(device);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const char *path = nullptr, *part = nullptr, *precision = "bf16";
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "--precision=", 12) == 0) precision = argv[i] + 12;
    else if (std::strncmp(argv[i], "--seconds=", 10) == 0) seconds_per_line = std::atof(argv[i] + 10);
    else if (!path) path = argv[i];
    else part = argv[i];
  }
  if (!path) {
    std::fprintf(stderr, "cuda_bench LIBRARY [name-part] [--precision=f32|bf16] [--seconds=0.2]\n");
    return 2;
  }
  try {
    return run(path, part, precision);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda_bench: %s\n", error.what());
    return 1;
  }
}
