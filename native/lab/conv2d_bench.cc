// conv2d_bench [threads]: GFLOP/s of a convolution and both gradients, beside the matrix product of the same size by the same
// engine, its left matrix already in memory. Runs alternate, so that drift of the machine cancels; medians are shown.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <vector>

#include "bench_clock.h"
#include "trefoil/backend.h"

extern "C" const TrefoilBackend* trefoil_cpu_backend(void);

namespace {

struct Bench {
  const TrefoilBackend* backend;
  TrefoilDevice* device;
  std::vector<void*> memory;

  TrefoilView tensor(std::initializer_list<int64_t> shape) {
    TrefoilView view{};
    int64_t count = 1;
    for (int64_t size : shape) view.shape[view.rank++] = size, count *= size;
    view.data = backend->allocate(device, static_cast<size_t>(count) * 4);
    for (int64_t i = 0; i < count; ++i) static_cast<float*>(view.data)[i] = static_cast<float>(i % 17) * 0.1f - 0.8f;
    memory.push_back(view.data);
    return view;
  }
  void release() {
    for (void* each : memory) backend->release(device, each);
    memory.clear();
  }
};

struct Run {
  Bench& bench;
  int32_t op;
  std::vector<TrefoilView> inputs, outputs;
  std::vector<double> attributes;
  TrefoilLaunch launch{};
  Run(Bench& bench, const char* name, std::vector<TrefoilView> in, std::vector<TrefoilView> out, std::vector<double> numbers)
      : bench(bench), op(bench.backend->find_op(name)), inputs(std::move(in)), outputs(std::move(out)), attributes(std::move(numbers)) {
    launch = {inputs.data(), static_cast<int32_t>(inputs.size()), outputs.data(), static_cast<int32_t>(outputs.size()),
              attributes.data(), static_cast<int32_t>(attributes.size()), nullptr, 0};
    launch.workspace_bytes = bench.backend->workspace_bytes(bench.device, op, &launch);
    launch.workspace = bench.backend->allocate(bench.device, launch.workspace_bytes);
    bench.memory.push_back(launch.workspace);
  }
  double time() {
    TrefoilStatus status{};
    double start = seconds();
    if (bench.backend->launch(bench.device, op, &launch, &status)) std::printf("%s\n", status.message), std::exit(1);
    return seconds() - start;
  }
};

struct Shape {
  int64_t images, side, channels, out_channels, kernel, stride;
};
// Layers of a VQ-GAN: the first, residual blocks at three resolutions, a reduction, the last.
const Shape kShapes[] = {{8, 64, 3, 64, 3, 1},  {8, 64, 64, 64, 3, 1},    {8, 64, 32, 32, 3, 1},   {8, 32, 64, 64, 3, 1},   {8, 16, 64, 64, 3, 1},
                           {8, 32, 64, 128, 3, 1},  {8, 32, 128, 128, 3, 1}, {8, 16, 256, 256, 3, 1},
                         {8, 64, 64, 64, 3, 2}, {8, 32, 128, 128, 4, 2}, {8, 32, 128, 256, 1, 1}, {8, 64, 64, 3, 3, 1}};

}  // namespace

int main(int argc, char** argv) {
  int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  thread_clock = threads == 1;
  TrefoilDeviceOptions options{0, threads, nullptr, nullptr};
  TrefoilStatus status{};
  Bench bench{trefoil_cpu_backend(), nullptr, {}};
  bench.device = bench.backend->open_device(&options, &status);
  if (!bench.device) return std::printf("%s\n", status.message), 1;
  std::printf("%-26s %-12s %9s %9s %6s\n", "images side C O kernel /", "", "GFLOP/s", "matmul", "ratio");
  for (const Shape& s : kShapes) {
    const int64_t pad = s.stride == 1 ? s.kernel / 2 : (s.kernel - 1) / 2, out = (s.side + 2 * pad - s.kernel) / s.stride + 1;
    const int64_t m = s.images * out * out, k = s.kernel * s.kernel * s.channels;
    TrefoilView x = bench.tensor({s.images, s.side, s.side, s.channels}), w = bench.tensor({s.out_channels, s.kernel, s.kernel, s.channels});
    TrefoilView y = bench.tensor({s.images, out, out, s.out_channels}), a = bench.tensor({m, k}), b = bench.tensor({s.out_channels, k}), c = bench.tensor({m, s.out_channels});
    const std::vector<double> attributes{double(s.stride), double(pad)};
    struct Pair {
      const char* name;
      Run convolution, product;
    };
    Pair pairs[] = {{"forward", {bench, "conv2d", {x, w, TrefoilView{}}, {y}, attributes}, {bench, "matmul", {a, b}, {c}, {0, 1, 1, 0}}},
                    {"input grad", {bench, "conv2d_input_grad", {y, w}, {x}, attributes}, {bench, "matmul", {c, b}, {a}, {0, 0, 1, 0}}},
                    {"weight grad", {bench, "conv2d_weight_grad", {y, x}, {w}, attributes}, {bench, "matmul", {c, a}, {b}, {1, 0, 1, 0}}}};
    for (Pair& pair : pairs) {
      std::vector<double> mine, peers;
      pair.convolution.time(), pair.product.time();
      for (double begin = seconds(); mine.size() < 5 || (mine.size() < 31 && seconds() - begin < 0.3);) {
        mine.push_back(pair.convolution.time());
        peers.push_back(pair.product.time());
      }
      const double flops = 2.0 * double(m) * double(k) * double(s.out_channels), speed = flops / median(mine) / 1e9, peer = flops / median(peers) / 1e9;
      std::printf("%3ld %4ld %4ld %4ld %2ld /%ld       %-12s %9.1f %9.1f %6.2f\n", long(s.images), long(s.side), long(s.channels), long(s.out_channels),
                  long(s.kernel), long(s.stride), pair.name, speed, peer, speed / peer);
    }
    bench.release();
  }
  bench.backend->close_device(bench.device);
}
