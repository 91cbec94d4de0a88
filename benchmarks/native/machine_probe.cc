// What the machine can do at best: fused multiply-adds held in registers, and copies between arrays larger than any cache.
// One request a line, `THREADS`; one JSON object a line back. Ends with its input.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Keeps a value without storing it: the loops below must not be optimised away.
volatile float sink;

// Each function does `rounds` x `flops_per_round` operations. Latency 4 x 2 pipes needs 8 chains; 12 leave a margin.
struct Level {
  const char* name;
  double flops_per_round;
  void (*run)(long rounds);
};

constexpr int chains = 12;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) void fma_avx512(long rounds) {
  __m512 sum[chains];
  for (int i = 0; i < chains; i++) sum[i] = _mm512_set1_ps(0.5f + static_cast<float>(i));
  const __m512 factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(0.001f);
  for (long round = 0; round < rounds; round++) {
#pragma GCC unroll 12
    for (int i = 0; i < chains; i++) sum[i] = _mm512_fmadd_ps(sum[i], factor, term);
  }
  for (int i = 1; i < chains; i++) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  sink = _mm512_cvtss_f32(sum[0]);
}

__attribute__((target("avx2,fma"))) void fma_avx2(long rounds) {
  __m256 sum[chains];
  for (int i = 0; i < chains; i++) sum[i] = _mm256_set1_ps(0.5f + static_cast<float>(i));
  const __m256 factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(0.001f);
  for (long round = 0; round < rounds; round++) {
#pragma GCC unroll 12
    for (int i = 0; i < chains; i++) sum[i] = _mm256_fmadd_ps(sum[i], factor, term);
  }
  for (int i = 1; i < chains; i++) sum[0] = _mm256_add_ps(sum[0], sum[i]);
  sink = _mm256_cvtss_f32(sum[0]);
}
#elif defined(__aarch64__)
void fma_neon(long rounds) {
  // Four pipes of latency 4 on the wide cores.
  constexpr int neon_chains = 24;
  float32x4_t sum[neon_chains];
  for (int i = 0; i < neon_chains; i++) sum[i] = vdupq_n_f32(0.5f + static_cast<float>(i));
  const float32x4_t factor = vdupq_n_f32(0.999f), term = vdupq_n_f32(0.001f);
  for (long round = 0; round < rounds; round++) {
#pragma GCC unroll 24
    for (int i = 0; i < neon_chains; i++) sum[i] = vfmaq_f32(term, sum[i], factor);
  }
  for (int i = 1; i < neon_chains; i++) sum[0] = vaddq_f32(sum[0], sum[i]);
  sink = vgetq_lane_f32(sum[0], 0);
}
#endif

std::vector<Level> levels() {
  std::vector<Level> found;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) found.push_back({"avx512", 2.0 * 16 * chains, fma_avx512});
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back({"avx2", 2.0 * 8 * chains, fma_avx2});
#elif defined(__aarch64__)
  found.push_back({"neon", 2.0 * 4 * 24, fma_neon});
#endif
  return found;
}

// Starts every thread's work together and returns the seconds until the last is done.
double on_threads(int threads, const std::function<void(int)>& work) {
  auto begin = Clock::now();
  std::vector<std::thread> others;
  for (int i = 1; i < threads; i++) others.emplace_back(work, i);
  work(0);
  for (std::thread& other : others) other.join();
  return seconds_since(begin);
}

double fma_gigaflops(const Level& level, int threads) {
  long rounds = 1 << 16;
  double best = 0;
  // Long enough that starting threads does not count; the best of five, because a peak is asked for.
  while (on_threads(threads, [&](int) { level.run(rounds); }) < 0.01) rounds *= 2;
  for (int i = 0; i < 5; i++) {
    double seconds = on_threads(threads, [&](int) { level.run(rounds); });
    best = std::max(best, level.flops_per_round * static_cast<double>(rounds) * threads / seconds / 1e9);
  }
  return best;
}

// 128 MiB each: beyond the last-level cache of most machines. Read and written bytes both count.
constexpr size_t array_bytes = size_t{128} << 20;

struct Copy {
  std::unique_ptr<char[]> from{new char[array_bytes]}, to{new char[array_bytes]};
  Copy() {
    std::memset(from.get(), 1, array_bytes);
    std::memset(to.get(), 2, array_bytes);
  }

  double gigabytes_per_second(int threads) {
    double best = 0;
    size_t part = array_bytes / static_cast<size_t>(threads) / 64 * 64;
    for (int i = 0; i < 5; i++) {
      double seconds = on_threads(threads, [&](int thread) {
        std::memcpy(to.get() + part * static_cast<size_t>(thread), from.get() + part * static_cast<size_t>(thread), part);
      });
      best = std::max(best, 2.0 * static_cast<double>(part) * threads / seconds / 1e9);
    }
    return best;
  }
};

}  // namespace

int main() {
  Copy copy;
  std::vector<Level> available = levels();
  int threads = 0;
  while (std::scanf("%d", &threads) == 1) {
    if (threads < 1 || threads > 4096) {
      std::printf("{\"error\":\"threads must be 1 to 4096\"}\n");
      std::fflush(stdout);
      continue;
    }
    double flops = 0;
    const char* isa = "scalar";
    for (const Level& level : available) {
      double measured = fma_gigaflops(level, threads);
      if (measured <= flops) continue;
      flops = measured;
      isa = level.name;
    }
    std::printf("{\"fmaGigaflops\":%.3f,\"isa\":\"%s\",\"copyGigabytes\":%.3f}\n", flops, isa,
                copy.gigabytes_per_second(threads));
    std::fflush(stdout);
  }
}
