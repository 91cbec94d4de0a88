#include <cstdlib>
#include <cstring>
#include <exception>
#include <utility>

#include "harness.h"

namespace trefoil::test {

struct Registered {
  const char* name;
  Body body;
  bool once;
};
static std::vector<Registered>& registry() {
  static std::vector<Registered> tests;
  return tests;
}
Registration::Registration(const char* name, Body body, bool once) { registry().push_back({name, body, once}); }

void check(bool condition, const char* expression, const char* file, int line) {
  if (!condition) throw Failure{std::string(file) + ":" + std::to_string(line) + ": " + expression};
}

template <class T>
static TrefoilView make_view(Array<T>& array, TrefoilDtype dtype) {
  TrefoilView result{};
  result.data = array.values.data();
  result.rank = static_cast<int32_t>(array.shape.size());
  result.dtype = dtype;
  for (size_t i = 0; i < array.shape.size(); ++i) result.shape[i] = array.shape[i];
  return result;
}
TrefoilView view(F32& array) { return make_view(array, TREFOIL_F32); }
TrefoilView view(I32& array) { return make_view(array, TREFOIL_I32); }
TrefoilView view(BF16& array) { return make_view(array, TREFOIL_BF16); }
TrefoilView absent() { return TrefoilView{}; }

F32 normal(std::mt19937& generator, std::vector<int64_t> shape, float scale) {
  F32 result(std::move(shape));
  std::normal_distribution<float> distribution(0.0f, scale);
  for (float& value : result.values) value = distribution(generator);
  return result;
}

TrefoilStatus launch_error(Device& device, const char* op, std::vector<TrefoilView> inputs, std::vector<TrefoilView> outputs,
                           std::vector<double> attributes) {
  int32_t id = device.backend->find_op(op);
  if (id < 0) throw Failure{std::string("the backend has no op ") + op};
  TrefoilLaunch args{};
  args.inputs = inputs.data();
  args.input_count = static_cast<int32_t>(inputs.size());
  args.outputs = outputs.data();
  args.output_count = static_cast<int32_t>(outputs.size());
  args.attributes = attributes.data();
  args.attribute_count = static_cast<int32_t>(attributes.size());
  args.workspace_bytes = device.backend->workspace_bytes(device.handle, id, &args);
  void* workspace = args.workspace_bytes ? device.backend->allocate(device.handle, args.workspace_bytes) : nullptr;
  // A kernel may not count on zeroed scratch.
  if (workspace) std::memset(workspace, 0xAB, args.workspace_bytes);
  args.workspace = workspace;
  TrefoilStatus status{};
  device.backend->launch(device.handle, id, &args, &status);
  device.backend->release(device.handle, workspace);
  return status;
}

void launch(Device& device, const char* op, std::vector<TrefoilView> inputs, std::vector<TrefoilView> outputs,
            std::vector<double> attributes) {
  TrefoilStatus status = launch_error(device, op, std::move(inputs), std::move(outputs), std::move(attributes));
  if (status.code != TREFOIL_OK) throw Failure{std::string(op) + ": " + status.message};
}

void check_close(const F32& actual, const std::vector<double>& expected, double relative, double absolute, const char* what) {
  if (actual.size() != expected.size()) throw Failure{std::string(what) + ": sizes differ"};
  double scale = 0;
  for (double value : expected) scale = std::max(scale, std::fabs(value));
  double bound = absolute + relative * scale;
  for (size_t i = 0; i < expected.size(); ++i) {
    double error = std::fabs(actual[i] - expected[i]);
    if (!(error <= bound)) {
      char text[256];
      std::snprintf(text, sizeof text, "%s[%zu] is %.9g, expected %.9g (error %.3g, bound %.3g)", what, i, actual[i], expected[i], error, bound);
      throw Failure{text};
    }
  }
}

void check_thread_independent(Device& device, std::vector<F32> (*body)(Device&)) {
  std::vector<F32> reference;
  for (int threads : {1, 2, 3}) {
    TrefoilDeviceOptions options{0, threads, device.isa.c_str()};
    TrefoilStatus status{};
    Device other{device.backend, device.backend->open_device(&options, &status), device.isa, threads};
    if (!other.handle) throw Failure{status.message};
    std::vector<F32> result = body(other);
    device.backend->close_device(other.handle);
    if (threads == 1) {
      reference = std::move(result);
      continue;
    }
    for (size_t i = 0; i < reference.size(); ++i)
      if (std::memcmp(reference[i].values.data(), result[i].values.data(), reference[i].size() * sizeof(float)) != 0)
        throw Failure{"output " + std::to_string(i) + " with " + std::to_string(threads) + " threads differs from 1 thread"};
  }
}

}  // namespace trefoil::test

// trefoil_tests [name-part]: runs the tests whose name contains it, at every ISA level of this machine.
int main(int argc, char** argv) {
  using namespace trefoil::test;
  const TrefoilBackend* backend = trefoil_cpu_backend();
  int passed = 0, failed = 0;
  for (const char* isa : {"scalar", "avx2", "avx512", "neon"}) {
    TrefoilDeviceOptions options{0, 2, isa};
    TrefoilStatus status{};
    TrefoilDevice* handle = backend->open_device(&options, &status);
    if (!handle) {
      std::printf("skip %s: %s\n", isa, status.message);
      continue;
    }
    Device device{backend, handle, isa, 2};
    for (auto& [name, body, once] : registry()) {
      if (argc > 1 && !std::strstr(name, argv[1])) continue;
      if (once && std::strcmp(isa, "scalar") != 0) continue;
      try {
        body(device);
        ++passed;
      } catch (const Failure& failure) {
        ++failed;
        std::printf("FAIL %s [%s]: %s\n", name, isa, failure.message.c_str());
      } catch (const std::exception& error) {
        ++failed;
        std::printf("FAIL %s [%s]: unexpected exception: %s\n", name, isa, error.what());
      }
    }
    backend->close_device(handle);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}
