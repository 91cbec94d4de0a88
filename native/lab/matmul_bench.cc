// matmul_bench [threads] [form] [name-part] [library]: GFLOP/s of every shape, share of the measured FMA peak, ratio to a peer:
// any library with `dnnl_sgemm` or the Fortran `sgemm_`, by default OpenBLAS, where it is installed (set OMP_NUM_THREADS for the others),
// or another build of this engine, libtrefoil_engine_library.so.
// Runs of both alternate, so that drift of the machine cancels; medians are shown. In the environment:
//   LEAST=1      a sample is one call and the least time is shown: all that a busy machine lets one see of several threads
//   SHAPES=list  list (default), or steps: the products of training steps, each in the form it has there
//   COLD=abc     these operands are other ones in every call, of more than the caches hold together, so that they come from memory
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
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

using Views = std::vector<TrefoilView>;  // a, b, c

TrefoilView view(float* data, int64_t rows, int64_t columns) {
  TrefoilView result{};
  result.data = data;
  result.shape[0] = rows;
  result.shape[1] = columns;
  result.rank = 2;
  return result;
}

// A product on one engine, with its workspace.
class Product {
 public:
  Product(const TrefoilBackend* backend, TrefoilDevice* device, bool ta, bool tb, Views views) : backend_(backend), device_(device), attributes_{double(ta), double(tb), 1, 0} {
    op_ = backend->find_op("matmul");
    TrefoilLaunch sizes = launch(views);
    bytes_ = backend->workspace_bytes(device, op_, &sizes);
    workspace_ = backend->allocate(device, bytes_);
  }
  ~Product() { backend_->release(device_, workspace_); }
  Product(const Product&) = delete;
  void run(Views& views) {
    TrefoilLaunch now = launch(views);
    TrefoilStatus status{};
    backend_->launch(device_, op_, &now, &status);
  }

 private:
  TrefoilLaunch launch(Views& views) { return {views.data(), 2, views.data() + 2, 1, attributes_, 4, 0, workspace_, bytes_}; }
  const TrefoilBackend* backend_;
  TrefoilDevice* device_;
  double attributes_[4];
  int32_t op_;
  size_t bytes_ = 0;
  void* workspace_ = nullptr;
};

struct Peer {
  using Sgemm = void (*)(const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*, const float*,
                         const int*, const float*, float*, const int*);
  using RowMajorSgemm = int (*)(char, char, int64_t, int64_t, int64_t, float, const float*, int64_t, const float*, int64_t, float, float*, int64_t);
  Sgemm sgemm = nullptr;
  RowMajorSgemm row_major = nullptr;
  const TrefoilBackend* engine = nullptr;
  TrefoilDevice* device = nullptr;
  Peer(const char* path, int threads, const TrefoilDeviceOptions& options) {
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) return;
    if (auto backend = reinterpret_cast<const TrefoilBackend* (*)()>(dlsym(library, "trefoil_engine_library"))) {
      TrefoilStatus status{};
      engine = backend();
      device = engine->open_device(&options, &status);
      if (!device) engine = nullptr;
    }
    row_major = reinterpret_cast<RowMajorSgemm>(dlsym(library, "dnnl_sgemm"));
    sgemm = reinterpret_cast<Sgemm>(dlsym(library, "sgemm_"));
    if (auto set = reinterpret_cast<void (*)(int)>(dlsym(library, "openblas_set_num_threads"))) set(threads);
  }
  bool found() const { return engine || row_major || sgemm; }
  // Row-major C = op(a) op(b) is column-major C' = op(b)' op(a)'.
  void run(bool ta, bool tb, int m, int n, int k, const float* a, const float* b, float* c) const {
    const float one = 1, zero = 0;
    const int lda = ta ? m : k, ldb = tb ? k : n;
    if (row_major) row_major(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, 1, a, lda, b, ldb, 0, c, n);
    else sgemm(tb ? "T" : "N", ta ? "T" : "N", &n, &m, &k, &one, b, &ldb, a, &lda, &zero, c, &n);
  }
};

struct Shape {
  int64_t m, k, n;
  const char* form = nullptr;  // the only one there is
};
const Shape kShapes[] = {
    {256, 256, 256},   {512, 512, 512},    {1024, 1024, 1024}, {2048, 2048, 2048}, {2048, 256, 1024}, {2048, 1024, 256}, {4096, 512, 2048},
    {64, 256, 8192},   {1024, 384, 384},   {1024, 384, 1536},  {1, 2048, 2048},    {8, 2048, 2048},   {8192, 128, 128},
    // training steps: projections, their gradients, routers, heads
    {2048, 64, 64},    {2048, 64, 256},    {2048, 256, 256},   {2048, 512, 512},   {256, 2048, 1024}, {64, 2048, 256},   {512, 4096, 512},
    {2048, 128, 128},  {2048, 128, 704}, {2048, 128, 512}, {1024, 320, 864},   {2048, 352, 128},   {128, 2048, 128},  {704, 2048, 128}, {128, 2048, 352},
    {2048, 256, 4},    {4, 2048, 256},     {1000, 321, 77},    {16, 512, 2048}};

// Products of training steps: Llamas of 1 M, 10 M and 60 M parameters with the rows of the benchmark's batches, and 10 M with the rows of a PPO update.
std::vector<Shape> step_shapes() {
  std::vector<Shape> shapes;
  struct Model {
    int64_t rows, width, inner;
  };
  for (const Model& model : {Model{112, 320, 864}, Model{1024, 320, 864}, Model{512, 640, 1728}, Model{2048, 128, 352}}) {
    const int64_t layers[][2] = {{model.width, 3 * model.width}, {model.width, model.width}, {model.width, 2 * model.inner}, {model.inner, model.width}};
    for (const auto& [in, out] : layers) {
      shapes.push_back({model.rows, in, out, "nt"});
      shapes.push_back({model.rows, out, in, "nn"});
      shapes.push_back({out, model.rows, in, "tn"});
    }
  }
  return shapes;
}

// As many copies of an operand as a step has that does not fit in the caches, or one.
constexpr int64_t kBeyondCaches = 48 << 20;
struct Copies {
  std::vector<float*> all;
  size_t next = 0;
  float* take() { return all[next++ % all.size()]; }
};

}  // namespace

int main(int argc, char** argv) {
  int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const char* only_form = argc > 2 && std::strcmp(argv[2], "all") != 0 ? argv[2] : nullptr;
  const char* only_shape = argc > 3 ? argv[3] : "";
  const char *chosen = std::getenv("SHAPES"), *cold = std::getenv("COLD");
  const bool least = std::getenv("LEAST") != nullptr;
  thread_clock = threads == 1;
  const TrefoilBackend* backend = trefoil_cpu_backend();
  TrefoilDeviceOptions options{0, threads, nullptr, nullptr};
  TrefoilStatus status{};
  TrefoilDevice* device = backend->open_device(&options, &status);
  if (!device) return std::printf("%s\n", status.message), 1;
  const char* library = argc > 4 ? argv[4] : "libopenblas.so.0";
  Peer peer(library, threads, options);
  double peak = fma_peak(threads);
  std::printf("%d threads, FMA peak %.1f GFLOP/s, peer %s %s%s%s\n%-18s %4s %9s %6s %9s %6s\n", threads, peak, library, peer.found() ? "found" : "missing",
              cold ? ", from memory: " : "", cold ? cold : "", "m x k x n", "form", "GFLOP/s", "peak", "peer", "ratio");
  double log_ratios = 0, all_flops = 0, all_time = 0, peer_time = 0;
  int ratios = 0;
  std::vector<Shape> shapes(std::begin(kShapes), std::end(kShapes));
  if (chosen && std::strcmp(chosen, "steps") == 0) shapes = step_shapes();
  for (const Shape& shape : shapes) {
    char name[64];
    std::snprintf(name, sizeof name, "%ldx%ldx%ld", long(shape.m), long(shape.k), long(shape.n));
    if (!std::strstr(name, only_shape)) continue;
    auto buffer = [&](int64_t count) {
      float* data = static_cast<float*>(backend->allocate(device, static_cast<size_t>(count) * 4));
      constexpr int64_t kPeriod = 17 * 64;
      for (int64_t i = 0; i < count; ++i) data[i] = i < kPeriod ? static_cast<float>(i % 17) * 0.1f - 0.8f : data[i - kPeriod];
      return data;
    };
    auto copies = [&](char operand, int64_t count) {
      Copies result;
      const bool many = cold && std::strchr(cold, operand);
      const int64_t operands = cold ? static_cast<int64_t>(std::strlen(cold)) : 1;
      for (int64_t i = many ? std::max(int64_t{2}, kBeyondCaches / operands / (count * 4)) : 1; i > 0; --i) result.all.push_back(buffer(count));
      return result;
    };
    Copies a = copies('a', shape.m * shape.k), b = copies('b', shape.k * shape.n), c = copies('c', shape.m * shape.n);
    float* other = buffer(shape.m * shape.n);
    for (const char* form : {"nn", "nt", "tn", "tt"}) {
      if ((only_form && std::strcmp(form, only_form) != 0) || (shape.form && std::strcmp(form, shape.form) != 0)) continue;
      bool ta = form[0] == 't', tb = form[1] == 't';
      auto next = [&] {
        float* left = a.take();
        float* right = b.take();
        return Views{ta ? view(left, shape.k, shape.m) : view(left, shape.m, shape.k), tb ? view(right, shape.n, shape.k) : view(right, shape.k, shape.n),
                     view(c.take(), shape.m, shape.n)};
      };
      Views views = next();
      Product product(backend, device, ta, tb, views);
      auto ours = [&] {
        Views operands = next();
        product.run(operands);
      };
      std::unique_ptr<Product> their_product;
      if (peer.engine) their_product = std::make_unique<Product>(peer.engine, peer.device, ta, tb, views);
      auto theirs = [&] {
        Views operands = next();
        if (their_product) their_product->run(operands);
        else if (peer.found())
          peer.run(ta, tb, int(shape.m), int(shape.n), int(shape.k), static_cast<float*>(operands[0].data), static_cast<float*>(operands[1].data),
                   static_cast<float*>(operands[2].data));
      };
      double flops = 2.0 * double(shape.m) * double(shape.k) * double(shape.n);
      // About 2 ms to a sample.
      long repeats = least ? 1 : std::max(1L, long(2e8 / flops));
      auto sample = [&](auto& body) {
        double start = seconds();
        for (long i = 0; i < repeats; ++i) body();
        return (seconds() - start) / double(repeats);
      };
      sample(ours), sample(theirs);
      std::vector<double> mine, peers, quotients;
      for (double begin = seconds(); mine.size() < 9 || (least ? seconds() - begin < 3 : mine.size() < 41 && seconds() - begin < 0.4);) {
        mine.push_back(sample(ours));
        peers.push_back(sample(theirs));
        quotients.push_back(peers.back() / mine.back());
      }
      auto typical = [&](const std::vector<double>& times) { return least ? *std::min_element(times.begin(), times.end()) : median(times); };
      double speed = flops / typical(mine) / 1e9, theirs_speed = flops / typical(peers) / 1e9;
      double ratio = least ? speed / theirs_speed : median(quotients);
      all_flops += flops, all_time += typical(mine), peer_time += typical(peers);
      if (peer.found()) {
        std::printf("%-18s %4s %9.1f %5.1f%% %9.1f %6.3f\n", name, form, speed, 100 * speed / peak, theirs_speed, ratio);
        log_ratios += std::log(ratio);
        ++ratios;
      } else {
        std::printf("%-18s %4s %9.1f %5.1f%%\n", name, form, speed, 100 * speed / peak);
      }
      std::fflush(stdout);
      if (peer.found()) {
        Views check{views[0], views[1], view(other, shape.m, shape.n)};
        if (their_product) their_product->run(check);
        else peer.run(ta, tb, int(shape.m), int(shape.n), int(shape.k), static_cast<float*>(check[0].data), static_cast<float*>(check[1].data), other);
        product.run(views);
        const float* result = static_cast<const float*>(views[2].data);
        for (int64_t i = 0; i < shape.m * shape.n; ++i)
          if (!(std::fabs(result[i] - other[i]) <= 1e-4 * double(shape.k)))
            return std::printf("wrong at %ld: %g, the peer %g\n", long(i), result[i], other[i]), 1;
      }
    }
    for (const Copies* operand : {&a, &b, &c})
      for (float* data : operand->all) backend->release(device, data);
    backend->release(device, other);
  }
  std::printf("all of them one after the other: %.1f GFLOP/s", all_flops / all_time / 1e9);
  if (ratios) std::printf(", the peer %.1f; geometric mean of the ratios: %.3f over %d", all_flops / peer_time / 1e9, std::exp(log_ratios / ratios), ratios);
  std::printf("\n");
  backend->close_device(device);
}
