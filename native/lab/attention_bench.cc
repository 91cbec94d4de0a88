// Times attention forward and backward: attention_bench B S H G h causal [threads] [isa].
// FLOPs count two products forward and five backward over the keys that the mask leaves; medians, and the least after the slash. With one
// thread the processor time of that thread, which other processes disturb less; else the time on the wall.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "bench_clock.h"
#include "trefoil/backend.h"

extern "C" const TrefoilBackend* trefoil_cpu_backend(void);

namespace {

struct Times {
  double median, least;
};

struct Op {
  const TrefoilBackend* backend;
  TrefoilDevice* device;
  int32_t id;
  std::vector<TrefoilView> inputs, outputs;
  std::vector<double> attributes;

  Times measure() {
    TrefoilLaunch launch{};
    launch.inputs = inputs.data();
    launch.input_count = static_cast<int32_t>(inputs.size());
    launch.outputs = outputs.data();
    launch.output_count = static_cast<int32_t>(outputs.size());
    launch.attributes = attributes.data();
    launch.attribute_count = static_cast<int32_t>(attributes.size());
    launch.workspace_bytes = backend->workspace_bytes(device, id, &launch);
    launch.workspace = launch.workspace_bytes ? backend->allocate(device, launch.workspace_bytes) : nullptr;
    std::vector<double> times;
    double total = 0;
    while (times.size() < 7 || (total < 400 && times.size() < 1000)) {
      TrefoilStatus status{};
      double begin = 1e3 * seconds();
      if (backend->launch(device, id, &launch, &status) != TREFOIL_OK) {
        std::fprintf(stderr, "%s\n", status.message);
        std::exit(1);
      }
      times.push_back(1e3 * seconds() - begin);
      total += times.back();
    }
    if (launch.workspace) backend->release(device, launch.workspace);
    std::sort(times.begin(), times.end());
    return {times[times.size() / 2], times[0]};
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 7) {
    std::fprintf(stderr, "usage: attention_bench B S H G h causal [threads] [isa]\n");
    return 2;
  }
  int64_t B = std::atoll(argv[1]), S = std::atoll(argv[2]), H = std::atoll(argv[3]), G = std::atoll(argv[4]), h = std::atoll(argv[5]);
  bool causal = std::atoi(argv[6]) != 0;
  TrefoilDeviceOptions options{0, argc > 7 ? std::atoi(argv[7]) : 2, argc > 8 ? argv[8] : nullptr, nullptr};
  thread_clock = options.threads == 1;
  TrefoilStatus status{};
  const TrefoilBackend* backend = trefoil_cpu_backend();
  TrefoilDevice* device = backend->open_device(&options, &status);
  if (!device) {
    std::fprintf(stderr, "%s\n", status.message);
    return 1;
  }
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  auto tensor = [&](std::vector<int64_t> shape) {
    TrefoilView view{};
    view.rank = static_cast<int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), view.shape);
    size_t count = 1;
    for (int64_t dimension : shape) count *= static_cast<size_t>(dimension);
    float* values = static_cast<float*>(backend->allocate(device, count * sizeof(float)));
    std::generate_n(values, count, [&] { return normal(generator); });
    view.data = values;
    return view;
  };
  std::vector<int64_t> wide = {B, S, H, h}, narrow = {B, S, G, h};
  TrefoilView q = tensor(wide), k = tensor(narrow), v = tensor(narrow), out = tensor(wide), lse = tensor({B, H, S});
  TrefoilView dout = tensor(wide), dq = tensor(wide), dk = tensor(narrow), dv = tensor(narrow);
  std::vector<double> attributes = {causal ? 1.0 : 0.0, 1 / std::sqrt(static_cast<double>(h))};
  Op forward{backend, device, backend->find_op("attention"), {q, k, v, {}, {}}, {out, lse}, attributes};
  Op backward{backend, device, backend->find_op("attention_grad"), {dout, q, k, v, out, lse, {}, {}}, {dq, dk, dv}, attributes};
  double product = 2.0 * static_cast<double>(B * H * h) * static_cast<double>(S) * static_cast<double>(causal ? (S + 1) / 2.0 : S);
  Times forth = forward.measure(), back = backward.measure();
  auto speed = [&](double products, double time) { return products * product / time / 1e6; };
  std::printf("forward %.4f ms %.1f/%.1f GFLOP/s backward %.4f ms %.1f/%.1f GFLOP/s\n", forth.median, speed(2, forth.median),
              speed(2, forth.least), back.median, speed(5, back.median), speed(5, back.least));
  for (const TrefoilView& view : {q, k, v, out, lse, dout, dq, dk, dv}) backend->release(device, view.data);
  backend->close_device(device);
  return 0;
}
