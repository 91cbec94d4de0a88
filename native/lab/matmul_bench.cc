// matmul_bench [threads] [form] [name-part] [library]: GFLOP/s of every shape, share of the measured FMA peak, ratio to a peer:
// any library with the Fortran `sgemm_`, by default OpenBLAS, where it is installed (set OMP_NUM_THREADS for the others).
// Runs of both alternate, so that drift of the machine cancels; medians are shown. With LEAST set in the environment a sample is one
// call and the least time is shown: all that a busy machine lets one see of several threads.
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "bench_clock.h"
#include "trefoil/backend.h"

extern "C" const TrefoilBackend* trefoil_cpu_backend(void);

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
using Lanes = float __attribute__((vector_size(kLanes * 4)));

// GFLOP/s of fused multiply-adds on registers alone, one loop on each of `threads` threads.
double fma_peak(int threads) {
  constexpr long kRounds = 4000000;
  constexpr int kChains = 10;
  auto loop = [] {
    Lanes sum[kChains], factor = {}, term = {};
    factor += 0.999f;
    term += 1e-3f;
#pragma GCC unroll 10
    for (int i = 0; i < kChains; ++i) sum[i] = term * static_cast<float>(i);
    for (long round = 0; round < kRounds; ++round) {
#pragma GCC unroll 10
      for (int i = 0; i < kChains; ++i) sum[i] = sum[i] * factor + term;
    }
#pragma GCC unroll 10
    for (int i = 1; i < kChains; ++i) sum[0] += sum[i];
    volatile float kept = sum[0][0];
    (void)kept;
  };
  std::vector<double> times;
  for (int run = 0; run < 7; ++run) {
    double start = seconds();
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(loop);
    loop();
    for (auto& other : others) other.join();
    times.push_back(seconds() - start);
  }
  return 2.0 * kLanes * kChains * kRounds * threads / median(times) / 1e9;
}

struct Peer {
  using Sgemm = void (*)(const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*, const float*,
                         const int*, const float*, float*, const int*);
  Sgemm sgemm = nullptr;
  Peer(const char* path, int threads) {
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) return;
    sgemm = reinterpret_cast<Sgemm>(dlsym(library, "sgemm_"));
    if (auto set = reinterpret_cast<void (*)(int)>(dlsym(library, "openblas_set_num_threads"))) set(threads);
  }
  // Row-major C = op(a) op(b) is column-major C' = op(b)' op(a)'.
  void run(bool ta, bool tb, int m, int n, int k, const float* a, const float* b, float* c) const {
    const float one = 1, zero = 0;
    const int lda = ta ? m : k, ldb = tb ? k : n;
    sgemm(tb ? "T" : "N", ta ? "T" : "N", &n, &m, &k, &one, b, &ldb, a, &lda, &zero, c, &n);
  }
};

struct Shape {
  int64_t m, k, n;
};
const Shape kShapes[] = {
    {256, 256, 256},   {512, 512, 512},    {1024, 1024, 1024}, {2048, 2048, 2048}, {2048, 256, 1024}, {2048, 1024, 256}, {4096, 512, 2048},
    {64, 256, 8192},   {1024, 384, 384},   {1024, 384, 1536},  {1, 2048, 2048},    {8, 2048, 2048},   {8192, 128, 128},
    // training steps: projections, their gradients, routers, heads
    {2048, 64, 64},    {2048, 64, 256},    {2048, 256, 256},   {2048, 512, 512},   {256, 2048, 1024}, {64, 2048, 256},   {512, 4096, 512},
    {2048, 128, 128},  {2048, 128, 704}, {2048, 128, 512}, {1024, 320, 864},   {2048, 352, 128},   {128, 2048, 128},  {704, 2048, 128}, {128, 2048, 352},
    {2048, 256, 4},    {4, 2048, 256},     {1000, 321, 77},    {16, 512, 2048}};

TrefoilView view(float* data, int64_t rows, int64_t columns) {
  TrefoilView result{};
  result.data = data;
  result.shape[0] = rows;
  result.shape[1] = columns;
  result.rank = 2;
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const char* only_form = argc > 2 && std::strcmp(argv[2], "all") != 0 ? argv[2] : nullptr;
  const char* only_shape = argc > 3 ? argv[3] : "";
  thread_clock = threads == 1;
  const TrefoilBackend* backend = trefoil_cpu_backend();
  TrefoilDeviceOptions options{0, threads, nullptr, nullptr};
  TrefoilStatus status{};
  TrefoilDevice* device = backend->open_device(&options, &status);
  if (!device) return std::printf("%s\n", status.message), 1;
  const char* library = argc > 4 ? argv[4] : "libopenblas.so.0";
  Peer peer(library, threads);
  double peak = fma_peak(threads);
  std::printf("%d threads, FMA peak %.1f GFLOP/s, peer %s %s\n%-18s %4s %9s %6s %9s %6s\n", threads, peak, library, peer.sgemm ? "found" : "missing", "m x k x n",
              "form", "GFLOP/s", "peak", "peer", "ratio");
  int32_t op = backend->find_op("matmul");
  double log_ratios = 0;
  int ratios = 0;
  for (const Shape& shape : kShapes) {
    char name[64];
    std::snprintf(name, sizeof name, "%ldx%ldx%ld", long(shape.m), long(shape.k), long(shape.n));
    if (!std::strstr(name, only_shape)) continue;
    auto buffer = [&](int64_t count) {
      float* data = static_cast<float*>(backend->allocate(device, static_cast<size_t>(count) * 4));
      for (int64_t i = 0; i < count; ++i) data[i] = static_cast<float>(i % 17) * 0.1f - 0.8f;
      return data;
    };
    float *a = buffer(shape.m * shape.k), *b = buffer(shape.k * shape.n), *c = buffer(shape.m * shape.n), *other = buffer(shape.m * shape.n);
    for (const char* form : {"nn", "nt", "tn", "tt"}) {
      if (only_form && std::strcmp(form, only_form) != 0) continue;
      bool ta = form[0] == 't', tb = form[1] == 't';
      TrefoilView inputs[] = {ta ? view(a, shape.k, shape.m) : view(a, shape.m, shape.k), tb ? view(b, shape.n, shape.k) : view(b, shape.k, shape.n)};
      TrefoilView outputs[] = {view(c, shape.m, shape.n)};
      double attributes[] = {double(ta), double(tb), 1, 0};
      TrefoilLaunch launch{inputs, 2, outputs, 1, attributes, 4, nullptr, 0};
      launch.workspace_bytes = backend->workspace_bytes(device, op, &launch);
      launch.workspace = backend->allocate(device, launch.workspace_bytes);
      auto ours = [&] { backend->launch(device, op, &launch, &status); };
      auto theirs = [&] {
        if (peer.sgemm) peer.run(ta, tb, int(shape.m), int(shape.n), int(shape.k), a, b, other);
      };
      double flops = 2.0 * double(shape.m) * double(shape.k) * double(shape.n);
      const bool least = std::getenv("LEAST") != nullptr;
      long repeats = least ? 1 : std::max(1L, long(2e8 / flops));  // about 2 ms to a sample
      auto sample = [&](auto& body) {
        double start = seconds();
        for (long i = 0; i < repeats; ++i) body();
        return (seconds() - start) / double(repeats);
      };
      sample(ours), sample(theirs);
      std::vector<double> mine, peers;
      for (double begin = seconds(); mine.size() < 9 || (least ? seconds() - begin < 3 : mine.size() < 41 && seconds() - begin < 0.4);) {
        mine.push_back(sample(ours));
        peers.push_back(sample(theirs));
      }
      auto typical = [&](const std::vector<double>& times) { return least ? *std::min_element(times.begin(), times.end()) : median(times); };
      double speed = flops / typical(mine) / 1e9, theirs_speed = flops / typical(peers) / 1e9;
      if (peer.sgemm) {
        std::printf("%-18s %4s %9.1f %5.1f%% %9.1f %6.2f\n", name, form, speed, 100 * speed / peak, theirs_speed, speed / theirs_speed);
        log_ratios += std::log(speed / theirs_speed);
        ++ratios;
      } else {
        std::printf("%-18s %4s %9.1f %5.1f%%\n", name, form, speed, 100 * speed / peak);
      }
      for (int64_t i = 0; peer.sgemm && i < shape.m * shape.n; ++i)
        if (!(std::fabs(c[i] - other[i]) <= 1e-4 * double(shape.k))) return std::printf("wrong at %ld: %g, the peer %g\n", long(i), c[i], other[i]), 1;
      backend->release(device, launch.workspace);
    }
    for (float* data : {a, b, c, other}) backend->release(device, data);
  }
  if (ratios) std::printf("geometric mean of the ratios: %.3f over %d\n", std::exp(log_ratios / ratios), ratios);
  backend->close_device(device);
}
