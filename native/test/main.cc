#include <dlfcn.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>

#include "harness.h"
#include "runtime/signature.h"

namespace trefoil::test {

struct Registered {
  const char* name;
  Body body;
  When when;
};
static std::vector<Registered>& registry() {
  static std::vector<Registered> tests;
  return tests;
}
Registration::Registration(const char* name, Body body, When when) { registry().push_back({name, body, when}); }

static Library tested_library{"cuda_emulated", TREFOIL_TEST_CUDA_EMULATED};
const Library& library_under_test() { return tested_library; }

bool emulated(const Device& device) { return std::strcmp(device.backend->name, "cuda_emulated") == 0; }

// The library launches, and nothing computes: results stay as the tests made them, and whatever they are is right.
static bool launches_only = false;

void wrong_result(const std::string& message) {
  if (!launches_only) throw Failure{message};
}
void check(bool condition, const char* expression, const char* file, int line) {
  if (!condition && !launches_only) wrong_result(std::string(file) + ":" + std::to_string(line) + ": " + expression);
}

template <class T>
static TrefoilView make_view(Array<T>& array, TrefoilDtype dtype) {
  TrefoilView result{};
  static T nothing;  // an empty tensor has an address too: NULL would say that it is absent
  result.data = array.values.empty() ? &nothing : array.values.data();
  result.rank = static_cast<int32_t>(array.shape.size());
  result.dtype = dtype;
  for (size_t i = 0; i < array.shape.size(); ++i) result.shape[i] = array.shape[i];
  return result;
}
TrefoilView view(F32& array) { return make_view(array, TREFOIL_F32); }
TrefoilView view(I32& array) { return make_view(array, TREFOIL_I32); }
TrefoilView view(BF16& array) { return make_view(array, TREFOIL_BF16); }
TrefoilView view(U8& array) { return make_view(array, TREFOIL_U8); }
TrefoilView absent() { return TrefoilView{}; }

F32 normal(std::mt19937& generator, std::vector<int64_t> shape, float scale) {
  F32 result(std::move(shape));
  std::normal_distribution<float> distribution(0.0f, scale);
  for (float& value : result.values) value = distribution(generator);
  return result;
}

namespace {

// The operands of one launch in memory of a device that the host cannot reach: arrays go in, results come back.
class DeviceOperands {
 public:
  explicit DeviceOperands(Device& device) : device_(device) {}
  ~DeviceOperands() {
    for (const Operand& operand : operands_) device_.backend->release(device_.handle, operand.memory);
  }
  DeviceOperands(const DeviceOperands&) = delete;

  // Arrays that are only written start as NaN: what a kernel leaves out shows.
  void place(TrefoilView& view, bool input, bool written = false) {
    if (!view.data) return;
    size_t bytes = view.dtype == TREFOIL_BF16 ? 2 : view.dtype == TREFOIL_U8 ? 1 : 4;
    for (int32_t axis = 0; axis < view.rank; ++axis) bytes *= static_cast<size_t>(view.shape[axis]);
    for (Operand& operand : operands_)
      if (operand.host == view.data) {
        view.data = operand.memory;
        operand.output |= !input || written;
        return;
      }
    operands_.push_back({view.data, device_.backend->allocate(device_.handle, bytes), bytes, !input || written});
    const std::vector<unsigned char> fresh(input ? 0 : bytes, 0xFF);
    copy(operands_.back().memory, input ? view.data : fresh.data(), bytes, device_.backend->copy_in);
    view.data = operands_.back().memory;
  }
  void fetch() {
    for (const Operand& operand : operands_)
      if (operand.output && operand.bytes && !launches_only) copy(operand.host, operand.memory, operand.bytes, device_.backend->copy_out);
    synchronize();
  }
  void synchronize() {
    TrefoilStatus status{};
    if (device_.backend->synchronize(device_.handle, &status) != TREFOIL_OK) throw Failure{status.message};
  }

 private:
  struct Operand {
    void *host, *memory;
    size_t bytes;
    bool output;
  };
  void copy(void* to, const void* from, size_t bytes, decltype(TrefoilBackend::copy_in) function) {
    TrefoilStatus status{};
    if (bytes && function(device_.handle, to, from, bytes, &status) != TREFOIL_OK) throw Failure{status.message};
  }
  Device& device_;
  std::vector<Operand> operands_;
};

}  // namespace

unsigned char scratch_byte = 0xFF;

TrefoilStatus launch_error(Device& device, const char* op, std::vector<TrefoilView> inputs, std::vector<TrefoilView> outputs,
                           std::vector<double> attributes) {
  int32_t id = device.backend->find_op(op);
  if (id < 0) throw Failure{std::string("the backend has no op ") + op};
  const bool remote = !(device.backend->flags & TREFOIL_BACKEND_HOST_MEMORY);
  DeviceOperands operands(device);
  if (remote) {
    const bool in_place = std::string_view(op).ends_with('_');
    for (TrefoilView& view : inputs) operands.place(view, true, in_place);
    for (TrefoilView& view : outputs) operands.place(view, false);
  }
  TrefoilLaunch args{};
  args.inputs = inputs.data();
  args.input_count = static_cast<int32_t>(inputs.size());
  args.outputs = outputs.data();
  args.output_count = static_cast<int32_t>(outputs.size());
  args.attributes = attributes.data();
  args.attribute_count = static_cast<int32_t>(attributes.size());
  args.workspace_bytes = device.backend->workspace_bytes(device.handle, id, &args);
  // A kernel may not count on zeroed scratch: it is NaN where a test does not say otherwise.
  std::vector<unsigned char> scratch(args.workspace_bytes, scratch_byte);
  TrefoilView workspace{};
  if (!scratch.empty()) {
    workspace.data = scratch.data();
    workspace.rank = 1;
    workspace.shape[0] = static_cast<int64_t>(scratch.size());
    workspace.dtype = TREFOIL_U8;
    if (remote) operands.place(workspace, true);
  }
  void* aligned = remote || scratch.empty() ? nullptr : device.backend->allocate(device.handle, scratch.size());
  if (aligned) std::memcpy(aligned, scratch.data(), scratch.size());
  args.workspace = aligned ? aligned : workspace.data;
  TrefoilStatus status{};
  device.backend->launch(device.handle, id, &args, &status);
  if (aligned) device.backend->release(device.handle, aligned);
  // What a kernel takes, the runtime takes as well.
  if (std::string why = runtime::misfit(op, args, remote); status.code == TREFOIL_OK && !why.empty()) throw Failure{std::string(op) + ": " + why};
  if (!remote) return status;
  if (status.code == TREFOIL_OK) device.backend->synchronize(device.handle, &status);
  operands.fetch();
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
      return wrong_result(text);
    }
  }
}

void check_thread_independent(Device& device, std::vector<F32> (*body)(Device&), const char* precision) {
  std::vector<F32> reference;
  for (int threads : {1, 2, 3}) {
    // Emulated devices differ in the order of their threads. On a device the runs themselves differ.
    TrefoilStatus status{};
    const bool cpu = device.backend->flags & TREFOIL_BACKEND_HOST_MEMORY;
    TrefoilDeviceOptions options{cpu ? 0 : threads % device.backend->device_count(&status), cpu ? threads : 0, cpu ? device.isa.c_str() : nullptr, precision};
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
        wrong_result("output " + std::to_string(i) + " with " + std::to_string(threads) + " threads differs from 1 thread");
  }
}

}  // namespace trefoil::test

namespace {

using namespace trefoil::test;

struct Selection {
  std::vector<const char*> parts;  // of names, any of which will do; none: every test
  size_t shard = 0, shards = 1;
  bool every_order = false;  // emulated: also with blocks, warps and lanes in backward order
  size_t first = 0;          // tests before it have run in a process before this one
  int passed = 0, failed = 0;  // of those
  int seconds = 0;           // that a test may take on a device; 0: any
  char** arguments = nullptr;
};

// A device whose memory a kernel has missed, or that a kernel does not give back, is lost to the process: the tests from `next` on run in
// its successor.
[[noreturn]] void start_again(const Selection& selection, size_t next, int passed, int failed) {
  std::vector<char*> arguments;
  for (char** argument = selection.arguments; *argument; ++argument)
    if (std::strncmp(*argument, "--after=", 8) != 0) arguments.push_back(*argument);
  std::string after = "--after=" + std::to_string(next) + "," + std::to_string(passed) + "," + std::to_string(failed);
  arguments.push_back(after.data());
  arguments.push_back(nullptr);
  std::fflush(stdout);
  for (int file = 3; file < 4096; ++file) close(file);  // the driver's too, and with them what still runs on the device
  execv("/proc/self/exe", arguments.data());
  std::printf("cannot start again: %s\n%d passed, %d failed\n", std::strerror(errno), passed, failed);
  std::fflush(stdout);
  std::_Exit(1);
}

// Ends the process, and starts the next, where a test takes longer than it may.
class Watch {
 public:
  Watch(const Selection& selection, const char* name, size_t next, int passed, int failed) {
    if (selection.seconds == 0) return;
    thread_ = std::thread([=, this, &selection] {
      std::unique_lock lock(mutex_);
      if (over_.wait_for(lock, std::chrono::seconds(selection.seconds), [this] { return done_; })) return;
      std::printf("FAIL %s: it has not ended within %d s\n", name, selection.seconds);
      start_again(selection, next, passed, failed + 1);
    });
  }
  ~Watch() {
    if (!thread_.joinable()) return;
    {
      std::lock_guard lock(mutex_);
      done_ = true;
    }
    over_.notify_one();
    thread_.join();
  }
  Watch(const Watch&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable over_;
  bool done_ = false;
  std::thread thread_;
};

void run_all(Device& device, const Selection& selection, bool once, int& passed, int& failed) {
  size_t number = 0;
  const bool remote = !(device.backend->flags & TREFOIL_BACKEND_HOST_MEMORY);
  for (auto& test : registry()) {
    if (!selection.parts.empty() && std::none_of(selection.parts.begin(), selection.parts.end(), [&](const char* part) { return std::strstr(test.name, part); })) continue;
    // Over the emulator those of the runtime have run with the CPU's.
    if (!once && (test.when == When::once || (test.when == When::runtime && (!remote || emulated(device))))) continue;
    if (number++ % selection.shards != selection.shard || number <= selection.first) continue;
    const Watch watch(selection, test.name, number, passed, failed);
    std::string message;
    const auto start = std::chrono::steady_clock::now();
    try {
      test.body(device);
    } catch (const Failure& failure) {
      message = failure.message.empty() ? "failed" : failure.message;
    } catch (const std::exception& error) {
      message = std::string("unexpected exception: ") + error.what();
    }
    ++(message.empty() ? passed : failed);
    if (!message.empty()) std::printf("FAIL %s [%s]: %s\n", test.name, device.isa.c_str(), message.c_str());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (seconds > 3) std::printf("slow %s [%s]: %.1f s\n", test.name, device.isa.c_str(), seconds);
    std::fflush(stdout);
    TrefoilStatus status{};
    if (!remote || message.empty() || selection.every_order) continue;
    device.backend->synchronize(device.handle, &status);  // reports what an op has noted, once
    if (device.backend->synchronize(device.handle, &status) != TREFOIL_OK) {
      std::printf("the device is lost after %s: %s; going on in a new process\n", test.name, status.message);
      start_again(selection, number, passed, failed);
    }
  }
}

int finish(int passed, int failed) {
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}

int run_cpu(const Selection& selection) {
  const TrefoilBackend* backend = trefoil_cpu_backend();
  int passed = 0, failed = 0;
  for (const char* isa : {"scalar", "avx2", "avx512", "neon"}) {
    TrefoilDeviceOptions options{0, 2, isa, nullptr};
    TrefoilStatus status{};
    TrefoilDevice* handle = backend->open_device(&options, &status);
    if (!handle) {
      std::printf("skip %s: %s\n", isa, status.message);
      continue;
    }
    Device device{backend, handle, isa, 2};
    run_all(device, selection, std::strcmp(isa, "scalar") == 0, passed, failed);
    backend->close_device(handle);
  }
  return finish(passed, failed);
}

int run_library(const char* path, const Selection& selection) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  auto entry = library ? reinterpret_cast<TrefoilBackendEntry>(dlsym(library, "trefoil_backend")) : nullptr;
  if (!entry) {
    std::printf("cannot open %s: %s\n", path, dlerror());
    return 1;
  }
  const TrefoilBackend* backend = entry();
  tested_library = {backend->name, std::filesystem::absolute(path).string()};
  TrefoilStatus status{};
  int passed = selection.passed, failed = selection.failed;
  const int32_t count = backend->device_count(&status);
  if (count == 0) std::printf("no device: %s\n", status.message);
  // The emulator's devices differ in the order of turns; devices of one machine do not differ.
  for (int32_t index = 0; index < count && index <= (selection.every_order ? 1 : 0); ++index) {
    TrefoilDeviceOptions options{index, 0, nullptr, "f32"};
    TrefoilDevice* handle = backend->open_device(&options, &status);
    if (!handle) {
      std::printf("device %d: %s\n", index, status.message);
      return 1;
    }
    TrefoilDeviceInfo info{};
    backend->device_info(handle, &info);
    Device device{backend, handle, info.name, 2};
    run_all(device, selection, false, passed, failed);
    backend->close_device(handle);
  }
  return finish(passed, failed);
}

}  // namespace

// trefoil_tests [--backend=PATH] [--shard=0/2] [--every-order] [--launches-only] [--seconds=60] [name-part…]: runs the tests whose name contains one, at
// every ISA level of this machine; with a path (or "emulated"), those of the ops on the devices of that backend's library, each in so many seconds at most.
// --launches-only: over a library that launches kernels which do not run (fake_cudart); a test passes where no launch is refused.
int main(int argc, char** argv) {
  const char* library = nullptr;
  Selection selection;
  selection.arguments = argv;
  for (int i = 1; i < argc; ++i) {
    constexpr char option[] = "--backend=";
    if (std::strncmp(argv[i], option, sizeof option - 1) == 0)
      library = argv[i] + sizeof option - 1;
    else if (std::sscanf(argv[i], "--shard=%zu/%zu", &selection.shard, &selection.shards) == 2)
      continue;
    else if (std::sscanf(argv[i], "--after=%zu,%d,%d", &selection.first, &selection.passed, &selection.failed) == 3)
      continue;
    else if (std::sscanf(argv[i], "--seconds=%d", &selection.seconds) == 1)
      continue;
    else if (std::strcmp(argv[i], "--launches-only") == 0)
      launches_only = true;
    else if (std::strcmp(argv[i], "--every-order") == 0)
      selection.every_order = true;
    else
      selection.parts.push_back(argv[i]);
  }
  if (library && std::strcmp(library, "emulated") == 0) library = TREFOIL_TEST_CUDA_EMULATED;
  return library ? run_library(library, selection) : run_cpu(selection);
}
