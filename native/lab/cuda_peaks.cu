#include "cuda_peaks.h"

#include <stdexcept>
#include <string>

#include "hopper.h"
#include "mma.h"
#include "wgmma.h"

namespace {

constexpr int kSteps = 4096;

// Eight independent chains to a thread hide the latency of an addition.
__global__ void fma_kernel(float* out, float a, float b) {
  float x[8];
  for (int k = 0; k < 8; ++k) x[k] = static_cast<float>(threadIdx.x + static_cast<unsigned>(k));
  for (int i = 0; i < kSteps; ++i)
#pragma unroll
    for (int k = 0; k < 8; ++k) x[k] = fmaf(x[k], a, b);
  float total = 0;
  for (float value : x) total += value;
  if (total == 12345.0f) *out = total;  // keeps the chains
}

__global__ void mma_kernel(float* out, uint32_t seed) {
  float d[8][4] = {};
  const uint32_t a[4] = {seed, seed, seed, seed}, b[2] = {seed, seed};
  for (int i = 0; i < kSteps; ++i)
#pragma unroll
    for (int k = 0; k < 8; ++k) trefoil::cuda::mma_bf16(d[k], a, b);
  float total = 0;
  for (const auto& fragment : d)
    for (float value : fragment) total += value;
  if (total == 12345.0f) *out = total;
}

constexpr int kLeftBytes = 64 * 128, kRightBytes = 128 * 128, kWgmmaShared = kLeftBytes + kRightBytes + 1024;

// A warp group multiplies the same tiles, 64 x 64 and 64 x 128, over and over: four products to a step, two steps under way.
__global__ void __launch_bounds__(128) wgmma_kernel(float* out, uint32_t seed) {
#if defined(TREFOIL_HOPPER)
  using namespace trefoil::cuda;
  unsigned char* tiles = dynamic_shared<unsigned char>();
  tiles += (1024 - shared_address(tiles) % 1024) % 1024;
  for (int i = static_cast<int>(threadIdx.x); i < (kLeftBytes + kRightBytes) / 4; i += 128) reinterpret_cast<uint32_t*>(tiles)[i] = seed;
  engine_fence();  // products read past the threads' own view of shared memory
  __syncthreads();
  float sums[64];
#pragma unroll
  for (float& sum : sums) sum = 0;
  keep(sums);
  const uint64_t a = describe_rows_of_128(tiles), b = describe_rows_of_128(tiles + kLeftBytes);
  for (int i = 0; i < kSteps; ++i) {
    wgmma_fence();
#pragma unroll
    for (uint64_t k = 0; k < 4; ++k) wgmma<128, false, false>(sums, a + 2 * k, b + 2 * k, true);
    wgmma_commit();
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  keep(sums);
  float total = 0;
  for (float sum : sums) total += sum;
  if (total == 12345.0f) *out = total;
#endif
}

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

// The best of five, as ceilings are.
template <class Launch>
double fastest(const Launch& launch) {
  cudaEvent_t start, end;
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&end));
  double best = 1e30;
  for (int i = 0; i < 6; ++i) {
    check(cudaEventRecord(start));
    launch();
    check(cudaEventRecord(end));
    check(cudaEventSynchronize(end));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start, end));
    if (i > 0 && milliseconds * 1e-3 < best) best = milliseconds * 1e-3;
  }
  cudaEventDestroy(start);
  cudaEventDestroy(end);
  return best;
}

}  // namespace

Peaks measure_peaks(bool wgmma) {
  int multiprocessors = 0;
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
  float* out = nullptr;
  check(cudaMalloc(&out, sizeof(float)));
  const unsigned blocks = static_cast<unsigned>(multiprocessors) * 8, threads = 256;
  const double fma = fastest([&] { fma_kernel<<<blocks, threads>>>(out, 0.999f, 0.001f); });
  const double mma = fastest([&] { mma_kernel<<<blocks, threads>>>(out, 0x3c003c00u); });
  double group = 0;
  if (wgmma) group = fastest([&] { wgmma_kernel<<<blocks, 128, kWgmmaShared>>>(out, 0x3c003c00u); });
  check(cudaGetLastError());
  check(cudaFree(out));
  const double work = double(blocks) * threads * 8 * kSteps;
  return {work * 2 / fma, work / 32 * (16 * 8 * 16 * 2) / mma, wgmma ? double(blocks) * kSteps * 4 * (64 * 128 * 16 * 2) / group : 0};
}
