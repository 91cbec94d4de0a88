// Time of every heavy op of the CUDA backend beside the ceilings of the same device, measured in the same run. Prints one JSON object,
// an entry a line.
// cuda_bench LIBRARY [name-part…] [--precision=f32|bf16|bf16-products] [--seconds=0.2] [--line-seconds=60] [--without-wgmma-peak]
#include "cuda_bench.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <random>
#include <stdexcept>

#include "bench_clock.h"
#include "cuda_peaks.h"

const TrefoilBackend* backend;
TrefoilDevice* device;
int32_t activation = TREFOIL_F32;

void check(int32_t code, const TrefoilStatus& status) {
  if (code != TREFOIL_OK) throw std::runtime_error(status.message);
}

void synchronize() {
  TrefoilStatus status{};
  check(backend->synchronize(device, &status), status);
}

Tensor empty(std::vector<int64_t> shape, int32_t dtype) {
  Tensor tensor;
  tensor.view.rank = static_cast<int32_t>(shape.size());
  tensor.view.dtype = dtype;
  std::copy(shape.begin(), shape.end(), tensor.view.shape);
  tensor.view.data = backend->allocate(device, static_cast<size_t>(tensor.bytes()));
  if (!tensor.view.data) throw std::runtime_error("out of device memory");
  return tensor;
}

// Values repeat after a prime number of elements: enough that nothing is special about them.
Tensor normal(std::vector<int64_t> shape, float scale, int32_t dtype) {
  static const std::vector<float> values = [] {
    std::mt19937 generator(1);
    std::normal_distribution<float> distribution;
    std::vector<float> made(65537);  // a prime: rows do not repeat
    for (float& x : made) x = distribution(generator);
    return made;
  }();
  Tensor tensor = empty(std::move(shape), dtype);
  const size_t count = static_cast<size_t>(tensor.count()), element = dtype == TREFOIL_BF16 ? 2 : 4;
  const size_t period = std::min<size_t>(count, 65537 * 256);
  std::vector<unsigned char> host(period * element);
  for (size_t i = 0; i < period; ++i) {
    const float value = values[i % values.size()] * scale;
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (dtype == TREFOIL_BF16) bits >>= 16;  // truncated: nothing is compared
    std::memcpy(host.data() + i * element, &bits, element);
  }
  TrefoilStatus status{};
  for (size_t at = 0; at < count; at += period)
    check(backend->copy_in(device, static_cast<char*>(tensor.view.data) + at * element, host.data(), std::min(period, count - at) * element, &status), status);
  synchronize();
  return tensor;
}

Tensor integers(std::vector<int64_t> shape, const std::function<int32_t(int64_t)>& value) { return filled<int32_t>(std::move(shape), TREFOIL_I32, value); }

Work one_op(std::string op, std::vector<Tensor> inputs, std::vector<Tensor> outputs, std::vector<double> attributes, int absent_inputs, int absent_outputs) {
  Work work;
  Call call{std::move(op), {}, {}, std::move(attributes)};
  for (Tensor& tensor : inputs) call.inputs.push_back(work.add(std::move(tensor)));
  for (Tensor& tensor : outputs) call.outputs.push_back(work.add(std::move(tensor)));
  std::fill_n(std::back_inserter(call.inputs), absent_inputs, -1);
  std::fill_n(std::back_inserter(call.outputs), absent_outputs, -1);
  work.calls.push_back(std::move(call));
  return work;
}

namespace {

double seconds_per_line = 0.2;

// The calls of a work with their operands and workspaces in place.
class Launches {
 public:
  Launches(const Work& work, bool routing_only) {
    for (const Call& call : work.calls)
      if (!routing_only || call.routing) add(work, call);
    for (size_t i = 0; i < launches_.size(); ++i) {
      TrefoilLaunch& launch = launches_[i].launch;
      launch.workspace_bytes = backend->workspace_bytes(device, launches_[i].op, &launch);
      workspaces_.push_back(empty({static_cast<int64_t>(launch.workspace_bytes + 3) / 4}));
      launch.workspace = workspaces_.back().view.data;
    }
  }
  void enqueue() const {
    TrefoilStatus status{};
    for (const One& one : launches_) check(backend->launch(device, one.op, &one.launch, &status), status);
  }

 private:
  struct One {
    int32_t op;
    std::vector<TrefoilView> inputs, outputs;
    TrefoilLaunch launch{};
  };
  void add(const Work& work, const Call& call) {
    One one{backend->find_op(call.op.c_str()), {}, {}};
    if (one.op < 0) throw std::runtime_error("the backend has no op " + call.op);
    const auto view = [&](int number) { return number < 0 ? TrefoilView{} : work.tensors[static_cast<size_t>(number)].view; };
    for (int number : call.inputs) one.inputs.push_back(view(number));
    for (int number : call.outputs) one.outputs.push_back(view(number));
    one.launch.inputs = one.inputs.data();
    one.launch.input_count = static_cast<int32_t>(one.inputs.size());
    one.launch.outputs = one.outputs.data();
    one.launch.output_count = static_cast<int32_t>(one.outputs.size());
    one.launch.attributes = call.attributes.data();
    one.launch.attribute_count = static_cast<int32_t>(call.attributes.size());
    launches_.push_back(std::move(one));  // moved vectors keep their addresses
  }
  std::vector<One> launches_;
  std::vector<Tensor> workspaces_;
};

// Seconds of body(n), which enqueues n repetitions, per repetition: the median of five, after a warm-up.
double time_of(const std::function<void(int)>& body) {
  auto once = [&](int n) {
    synchronize();
    const double start = seconds();
    body(n);
    synchronize();
    return (seconds() - start) / n;
  };
  once(1);
  const int n = std::max(1, std::min(1000, static_cast<int>(seconds_per_line / 5 / std::max(once(2), 1e-7))));
  std::vector<double> times;
  for (int i = 0; i < 5; ++i) times.push_back(once(n));
  return median(times);
}

// What body() enqueues, recorded.
class Recording {
 public:
  explicit Recording(const std::function<void()>& body) {
    TrefoilStatus status{};
    check(backend->capture_begin(device, &status), status);
    try {
      body();
    } catch (...) {
      TrefoilStatus ignored{};
      if (void* broken = backend->capture_end(device, &ignored)) backend->release_graph(device, broken);
      throw;
    }
    graph_ = backend->capture_end(device, &status);
    if (!graph_) throw std::runtime_error("the launches could not be recorded");
  }
  ~Recording() { backend->release_graph(device, graph_); }
  Recording(const Recording&) = delete;
  void replay() const {
    TrefoilStatus status{};
    check(backend->replay(device, graph_, &status), status);
  }

 private:
  void* graph_ = nullptr;
};

// As programs run: recorded once, then replayed, so that the time is the kernels'. Short ones ten to a recording.
double time_launches(const Launches& launches) {
  launches.enqueue();
  synchronize();
  const double start = seconds();
  launches.enqueue();
  synchronize();
  const int recorded = std::clamp(static_cast<int>(0.02 / (seconds() - start)), 1, 10);
  const Recording recording([&] {
    for (int i = 0; i < recorded; ++i) launches.enqueue();
  });
  return time_of([&](int n) {
           for (int i = 0; i < n; ++i) recording.replay();
         }) /
         recorded;
}

double copy_bandwidth() {
  constexpr int64_t count = int64_t{1} << 28;  // 1 GiB: past every cache
  Tensor from = normal({count}), to = empty({count});
  TrefoilStatus status{};
  const double seconds = time_of([&](int n) {
    for (int i = 0; i < n; ++i) check(backend->copy(device, to.view.data, from.view.data, static_cast<size_t>(from.bytes()), &status), status);
  });
  return 2 * from.bytes() / seconds;
}

// What a step costs beyond its kernels: 200 small kernels recorded, each replay waited for, against replays that follow one another.
double step_overhead() {
  Work work = one_op("softmax", [] {
    std::vector<Tensor> x;
    x.push_back(normal({1024, 1024}));
    return x;
  }(), [] {
    std::vector<Tensor> y;
    y.push_back(empty({1024, 1024}));
    return y;
  }());
  const Launches launches(work, false);
  launches.enqueue();
  const Recording recording([&] {
    for (int i = 0; i < 200; ++i) launches.enqueue();
  });
  const double together = time_of([&](int n) {
    for (int i = 0; i < n; ++i) recording.replay();
  });
  const double apart = time_of([&](int n) {
    for (int i = 0; i < n; ++i) {
      recording.replay();
      synchronize();
    }
  });
  return apart - together;
}

std::string escaped(const std::string& text) {
  std::string result;
  for (char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c < ' ' ? ' ' : c;
  }
  return result;
}

// A line that loses the device, or does not end, costs a process and not the lines after it, which its successor measures.
unsigned seconds_of_a_line = 60;
std::vector<char*> successor;  // its arguments
char out_of_time_message[80];

[[noreturn]] void start_successor() {
  for (int file = 3; file < 4096; ++file) close(file);  // the driver's too, and with them what still runs on the device
  execv("/proc/self/exe", successor.data());
  _exit(1);
}
// Calls only what a handler of a signal may.
[[noreturn]] void out_of_time(int) {
  if (write(STDOUT_FILENO, out_of_time_message, std::strlen(out_of_time_message)) < 0) _exit(1);
  start_successor();
}
bool lost() {
  TrefoilStatus status{};
  backend->synchronize(device, &status);  // reports what an op has noted, once
  return backend->synchronize(device, &status) != TREFOIL_OK;
}

// What wgmma reaches may be what does not end, or loses the device: the lines are then measured without it.
Peaks ceilings(bool wgmma, size_t first) {
  if (!wgmma) return measure_peaks(false);
  char without[] = "--without-wgmma-peak";
  std::string after = "--after=" + std::to_string(first);
  successor.insert(successor.end(), {without, after.data(), nullptr});
  alarm(seconds_of_a_line);
  Peaks peaks{};
  try {
    peaks = measure_peaks(true);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda_bench: the ceiling of wgmma: %s\n", error.what());
    start_successor();
  }
  alarm(0);
  successor.resize(successor.size() - 3);
  return peaks;
}

std::string run_line(const Line& line, double bandwidth, double peak) {
  const Work work = line.make();
  double bytes = work.bytes;
  if (bytes < 0) {
    bytes = 0;
    for (const Tensor& tensor : work.tensors) bytes += tensor.bytes();
  }
  const double seconds = time_launches(Launches(work, false));
  const bool products = work.flops > 0;
  const double rate = products ? work.flops / seconds : bytes / seconds;
  char text[200];
  std::snprintf(text, sizeof text, "\"milliseconds\": %.5f, \"%s\": %.2f, \"share\": %.4f", seconds * 1e3 / work.copies, products ? "tflops" : "gbps", rate / (products ? 1e12 : 1e9),
                rate / (products ? peak : bandwidth));
  std::string result = text;
  if (std::any_of(work.calls.begin(), work.calls.end(), [](const Call& call) { return call.routing; })) {
    std::snprintf(text, sizeof text, ", \"routing_share\": %.4f", time_launches(Launches(work, true)) / seconds);
    result += text;
  }
  return result;
}

// Lines from number `first` on; the head of the report and those before are another process's.
int run(const char* path, const std::vector<std::string>& parts, const char* precision, size_t first, bool with_wgmma_peak) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  auto entry = library ? reinterpret_cast<TrefoilBackendEntry>(dlsym(library, "trefoil_backend")) : nullptr;
  if (!entry) throw std::runtime_error(dlerror());
  backend = entry();
  TrefoilStatus status{};
  TrefoilDeviceOptions options{0, 0, nullptr, precision};
  activation = std::strcmp(precision, "bf16") == 0 ? TREFOIL_BF16 : TREFOIL_F32;
  if (backend->device_count(&status) == 0 || !(device = backend->open_device(&options, &status))) throw std::runtime_error(status.message);
  TrefoilDeviceInfo info{};
  backend->device_info(device, &info);
  struct sigaction action {};
  action.sa_handler = out_of_time;
  action.sa_flags = SA_NODEFER;  // the successor may be interrupted as well
  sigaction(SIGALRM, &action, nullptr);
  const double bandwidth = copy_bandwidth(), overhead = step_overhead();
  // Where it may be tried: see docs/gpu.md.
  const char* wgmma = std::getenv("TREFOIL_CUDA_WGMMA");
  const Peaks peaks = ceilings(with_wgmma_peak && wgmma && *wgmma && std::strcmp(wgmma, "0") != 0 && std::strncmp(info.isa, "sm_90", 5) == 0, first);
  const double peak = std::strcmp(precision, "f32") == 0 ? peaks.fma_f32 : std::max(peaks.mma_bf16, peaks.wgmma_bf16);
  if (first == 0)
    std::printf("{\"device\": \"%s\", \"level\": \"%s\", \"copy_gbps\": %.1f, \"fma_f32_tflops\": %.2f, \"mma_bf16_tflops\": %.2f, \"wgmma_bf16_tflops\": %.2f, \"step_overhead_us\": %.2f, \"lines\": [",
                escaped(info.name).c_str(), info.isa, bandwidth / 1e9, peaks.fma_f32 / 1e12, peaks.mma_bf16 / 1e12, peaks.wgmma_bf16 / 1e12,
                overhead * 1e6);
  std::vector<Line> lines = all_lines();
  std::erase_if(lines, [&](const Line& line) {
    return !parts.empty() && std::none_of(parts.begin(), parts.end(), [&](const std::string& part) { return line.name.find(part) != std::string::npos; });
  });
  std::snprintf(out_of_time_message, sizeof out_of_time_message, "\"error\": \"it has not ended within %u s\"}", seconds_of_a_line);
  for (size_t i = first; i < lines.size(); ++i) {
    std::string after = "--after=" + std::to_string(i + 1);
    successor.push_back(after.data());
    successor.push_back(nullptr);
    std::printf("%s  {\"name\": \"%s\", ", i ? ",\n" : "\n", lines[i].name.c_str());
    std::fflush(stdout);
    bool failed = false;
    alarm(seconds_of_a_line);
    try {
      std::printf("%s", run_line(lines[i], bandwidth, peak).c_str());
    } catch (const std::exception& error) {
      std::printf("\"error\": \"%s\"", escaped(error.what()).c_str());
      failed = true;
    }
    alarm(0);
    std::printf("}");
    std::fflush(stdout);
    if (failed && lost()) start_successor();
    successor.resize(successor.size() - 2);
  }
  std::printf("\n]}\n");
  backend->close_device(device);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const char *path = nullptr, *precision = "bf16";
  std::vector<std::string> parts;
  size_t first = 0;
  bool with_wgmma_peak = true;
  successor.push_back(argv[0]);
  for (int i = 1; i < argc; ++i) {
    if (std::sscanf(argv[i], "--after=%zu", &first) == 1) continue;
    successor.push_back(argv[i]);
    if (std::strncmp(argv[i], "--precision=", 12) == 0) precision = argv[i] + 12;
    else if (std::strncmp(argv[i], "--seconds=", 10) == 0) seconds_per_line = std::atof(argv[i] + 10);
    else if (std::sscanf(argv[i], "--line-seconds=%u", &seconds_of_a_line) == 1) continue;
    else if (std::strcmp(argv[i], "--without-wgmma-peak") == 0) with_wgmma_peak = false;
    else if (!path) path = argv[i];
    else parts.emplace_back(argv[i]);
  }
  if (!path) {
    std::fprintf(stderr, "cuda_bench LIBRARY [name-part…] [--precision=f32|bf16|bf16-products] [--seconds=0.2] [--line-seconds=60] [--without-wgmma-peak]\n");
    return 2;
  }
  try {
    return run(path, parts, precision, first, with_wgmma_peak);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda_bench: %s\n", error.what());
    return 1;
  }
}
