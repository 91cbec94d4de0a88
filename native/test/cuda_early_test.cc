// Programmatic dependent launch (TREFOIL_CUDA_PDL): a layer of decoding, recorded, whose kernels begin before those they follow have ended. On the
// emulator a kernel's first block runs as far as it comes before the kernel it follows has begun: what it reads too soon is the last run's.
#include "cuda_bf16.h"
#include "runtime_bench.h"

using namespace trefoil::test::runtime_bench;
using trefoil::test::Variable;

namespace {

constexpr int64_t kBatch = 16, kWidth = 512, kHeads = 4, kGroups = 2, kSize = 64, kCapacity = 8, kInner = 256, kClasses = 64, kRuns = 5;

class Layer {
 public:
  Layer(const char* early, int32_t index) : early_("TREFOIL_CUDA_PDL", early), bench_(open(index)) {
    const int64_t x = input({kBatch, kWidth}), w = input({kClasses, kWidth}), positions = input({kBatch, 1}, TREFOIL_I32), lengths = input({kBatch}, TREFOIL_I32);
    const int64_t gain = weight({kWidth}, TREFOIL_F32), joined = weight({(kHeads + 2 * kGroups) * kSize, kWidth}), mixing = weight({kWidth, kHeads * kSize}),
                  up = weight({2 * kInner, kWidth}), down = weight({kWidth, kInner}), written = weight({kClasses, kWidth});
    const int64_t cosine = weight({kCapacity, kSize / 2}, TREFOIL_F32), sine = weight({kCapacity, kSize / 2}, TREFOIL_F32);
    const int64_t keys = weight({kBatch, kCapacity, kGroups, kSize}), values = weight({kBatch, kCapacity, kGroups, kSize});

    const int64_t projected = linear(norm(x, gain), joined), query = temporary({kBatch, 1, kHeads, kSize}), new_keys = alias(keys), new_values = alias(values);
    const int64_t start = alias(positions, {kBatch});
    run("rope_to_cache_", {alias(projected, {kBatch, 1, (kHeads + 2 * kGroups) * kSize}), cosine, sine, positions, keys, values, start}, {query, new_keys, new_values});
    const int64_t mixed = temporary({kBatch, 1, kHeads, kSize});
    run("attention", {query, new_keys, new_values, lengths, -1}, {mixed, -1}, {1, 0.125});
    const int64_t residual = linear(alias(mixed, {kBatch, kHeads * kSize}), mixing, x);
    const int64_t activated = temporary({kBatch, kInner});
    run("swiglu", {linear(norm(residual, gain), up)}, {activated});
    const int64_t y = linear(activated, down, residual);
    // A weight that the kernel just before writes.
    const int64_t read = norm(y, gain), now = alias(written);
    run("rms_norm", {w, gain}, {now, -1}, {1e-5});
    const int64_t z = linear(read, now, -1, TREFOIL_F32);
    spec_.outputs = {y, z};
    program_ = Program::create(bench_.device, spec_);
  }

  std::vector<std::vector<float>> runs() {
    std::mt19937 generator(8);
    std::vector<std::vector<float>> all;
    for (int32_t step = 0; step < kRuns; ++step) {
      const std::vector<int32_t> position(kBatch, step), length(kBatch, step + 1);
      for (auto& output : bench_.call(*program_, {draw(generator, kBatch * kWidth), draw(generator, kClasses * kWidth), as_floats(position), as_floats(length)}))
        all.push_back(std::move(output));
    }
    return all;
  }
  size_t recorded() const { return program_->graph_count(); }

 private:
  static std::shared_ptr<Device> open(int32_t index) {
    DeviceOptions options;
    options.backend = trefoil::test::library_under_test().backend;
    options.library = trefoil::test::library_under_test().path;
    options.precision = "bf16";
    options.index = index;
    return Device::open(options);
  }
  static std::vector<float> draw(std::mt19937& generator, int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    std::normal_distribution<float> normal;
    for (float& value : values) value = normal(generator);
    return values;
  }
  static std::vector<float> as_floats(const std::vector<int32_t>& integers) {
    std::vector<float> result(integers.size());
    std::memcpy(result.data(), integers.data(), integers.size() * sizeof(int32_t));
    return result;
  }

  int64_t add(ValueSpec spec, int32_t dtype) {
    spec.dtype = dtype;
    spec_.values.push_back(std::move(spec));
    return static_cast<int64_t>(spec_.values.size()) - 1;
  }
  int64_t input(std::vector<int64_t> shape, int32_t dtype = TREFOIL_F32) { return add(value(std::move(shape), ValueKind::input, inputs_++), dtype); }
  int64_t temporary(std::vector<int64_t> shape, int32_t dtype = TREFOIL_BF16) { return add(value(std::move(shape)), dtype); }
  int64_t alias(int64_t of, std::vector<int64_t> shape = {}) {
    const ValueSpec& other = spec_.values[static_cast<size_t>(of)];
    const int32_t dtype = other.dtype;
    if (shape.empty()) shape = other.shape;
    return add(alias_of(of, std::move(shape)), dtype);
  }
  int64_t weight(std::vector<int64_t> shape, int32_t dtype = TREFOIL_BF16) {
    int64_t count = 1;
    for (int64_t size : shape) count *= size;
    std::vector<float> values = draw(weights_, count);
    for (float& value : values) value *= dtype == TREFOIL_F32 ? 1.0f : 0.05f;
    if (dtype == TREFOIL_BF16) {
      std::vector<float> pairs(values.size() / 2);
      for (size_t i = 0; i < values.size(); ++i) std::memcpy(reinterpret_cast<char*>(pairs.data()) + 2 * i, reinterpret_cast<const char*>(&values[i]) + 2, 2);
      values = std::move(pairs);
    }
    return add(state(std::move(shape), bench_.buffer(values)), dtype);
  }
  void run(const char* op, std::vector<int64_t> inputs, std::vector<int64_t> outputs, std::vector<double> attributes = {}) {
    spec_.instructions.push_back({op, std::move(inputs), std::move(outputs), std::move(attributes)});
  }
  int64_t norm(int64_t x, int64_t gain) {
    const int64_t y = temporary(spec_.values[static_cast<size_t>(x)].shape);
    run("rms_norm", {x, gain}, {y, -1}, {1e-5});
    return y;
  }
  // x [rows, k], w [n, k]. With a residual the result is f32, as it is in models.
  int64_t linear(int64_t x, int64_t w, int64_t residual = -1, int32_t dtype = TREFOIL_BF16) {
    const int64_t y = temporary({kBatch, spec_.values[static_cast<size_t>(w)].shape[0]}, residual == -1 ? dtype : TREFOIL_F32);
    run("matmul", {x, w, -1, residual}, {y, -1}, {0, 1, 1, 0});
    return y;
  }

  Variable early_;
  Variable own_{"TREFOIL_MATMUL", "own"};
  Bench bench_;
  std::mt19937 weights_{7};
  int64_t inputs_ = 0;
  ProgramSpec spec_;
  std::shared_ptr<Program> program_;
};

std::vector<std::vector<float>> runs(const char* early, int32_t index) {
  Layer layer(early, index);
  std::vector<std::vector<float>> all = layer.runs();
  CHECK(layer.recorded() == 1);
  return all;
}

}  // namespace

TEST_RUNTIME(cuda_early_kernels_read_what_this_run_wrote) {
  const int32_t devices = trefoil::test::library_under_test().backend == "cuda" ? 1 : 2;
  for (int32_t index = 0; index < devices; ++index) CHECK(runs("1", index) == runs("0", index));
}
