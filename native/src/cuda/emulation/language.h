// CUDA C++ as a plain C++ compiler reads it: kernel files run on the host, threads of a block as fibers (see fiber.h).
// Only what the kernels use, with the meaning that the CUDA C++ programming guide gives it.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulation/block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __grid_constant__

#define threadIdx (::trefoil::cuda::emulation::thread().index)
#define blockIdx (::trefoil::cuda::emulation::thread().block->index)
#define blockDim (::trefoil::cuda::emulation::thread().block->size)
#define gridDim (::trefoil::cuda::emulation::thread().block->grid)

#define TREFOIL_SHARED(name, ...)     \
  static char name##_declaration = 0; \
  auto& name = ::trefoil::cuda::emulation::shared<std::type_identity_t<__VA_ARGS__>>(&name##_declaration)

#define __syncthreads() ::trefoil::cuda::emulation::sync_threads(__FILE__, __LINE__)
inline void __syncwarp(uint32_t mask = 0xffffffffu) {
  trefoil::cuda::emulation::collective(mask, "__syncwarp", 0, [](const auto&) { return 0; });
}
inline void __threadfence() {}
inline void __threadfence_block() {}

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) double2 { double x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

template <class To, class From>
inline To trefoil_bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline float __uint_as_float(uint32_t x) { return trefoil_bits_as<float>(x); }
inline uint32_t __float_as_uint(float x) { return trefoil_bits_as<uint32_t>(x); }
inline float __int_as_float(int32_t x) { return trefoil_bits_as<float>(x); }
inline int32_t __float_as_int(float x) { return trefoil_bits_as<int32_t>(x); }
inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int32_t x) { return __builtin_ffs(x); }
inline int __clz(int32_t x) { return x ? __builtin_clz(static_cast<uint32_t>(x)) : 32; }
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
}
template <class T>
inline T __ldg(const T* p) { return *p; }
template <class T>
inline T __ldcs(const T* p) { return *p; }
template <class T>
inline void __stcs(T* p, T x) { *p = x; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline void sincospif(float x, float* sine, float* cosine) {
  *sine = static_cast<float>(std::sin(3.14159265358979323846 * static_cast<double>(x)));
  *cosine = static_cast<float>(std::cos(3.14159265358979323846 * static_cast<double>(x)));
}
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline long min(long a, long b) { return a < b ? a : b; }
inline long max(long a, long b) { return a > b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline long long max(long long a, long long b) { return a > b ? a : b; }

// Threads, and blocks where several run, take turns only where one waits: plain reads and writes are atomic.
template <class T>
inline T atomicAdd(T* at, std::type_identity_t<T> x) {
  T old = *at;
  *at = old + x;
  return old;
}
template <class T>
inline T atomicMax(T* at, std::type_identity_t<T> x) {
  T old = *at;
  *at = old > x ? old : x;
  return old;
}
template <class T>
inline T atomicMin(T* at, std::type_identity_t<T> x) {
  T old = *at;
  *at = old < x ? old : x;
  return old;
}
template <class T>
inline T atomicExch(T* at, std::type_identity_t<T> x) {
  T old = *at;
  *at = x;
  return old;
}
template <class T>
inline T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> x) {
  T old = *at;
  if (old == expected) *at = x;
  return old;
}
inline uint32_t atomicOr(uint32_t* at, uint32_t x) {
  uint32_t old = *at;
  *at = old | x;
  return old;
}

// The value of lane `from`, as read by lane `self`; out of the segment of `width` lanes: one's own.
template <class T, class Source>
inline T trefoil_shuffle(uint32_t mask, const char* name, T value, int width, Source source) {
  return trefoil::cuda::emulation::collective(mask, name, value, [&](const auto& lanes) {
    const int self = lanes.self, base = self & ~(width - 1), from = source(self & (width - 1));
    return from < 0 || from >= width ? value : lanes[base + from];
  });
}
template <class T>
inline T __shfl_sync(uint32_t mask, T value, int lane, int width = 32) {
  return trefoil_shuffle(mask, "__shfl_sync", value, width, [&](int) { return lane & (width - 1); });
}
template <class T>
inline T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32) {
  return trefoil_shuffle(mask, "__shfl_xor_sync", value, width, [&](int self) { return self ^ bits; });
}
template <class T>
inline T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  return trefoil_shuffle(mask, "__shfl_up_sync", value, width, [&](int self) { return self - static_cast<int>(delta); });
}
template <class T>
inline T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  return trefoil_shuffle(mask, "__shfl_down_sync", value, width, [&](int self) { return self + static_cast<int>(delta); });
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
  return trefoil::cuda::emulation::collective(mask, "__ballot_sync", predicate, [&](const auto& lanes) {
    uint32_t result = 0;
    for (int i = 0; i < 32; ++i)
      if (lanes.present(i) && lanes[i]) result |= 1u << i;
    return result;
  });
}
template <class T>
inline uint32_t __match_any_sync(uint32_t mask, T value) {
  return trefoil::cuda::emulation::collective(mask, "__match_any_sync", value, [&](const auto& lanes) {
    uint32_t result = 0;
    for (int i = 0; i < 32; ++i)
      if (lanes.present(i) && lanes[i] == value) result |= 1u << i;
    return result;
  });
}
inline int __any_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

// OR and AND over the block, and the count of threads with a predicate: each is a barrier too.
#define __syncthreads_or(predicate) (::trefoil::cuda::emulation::sync_threads_count(__FILE__, __LINE__, (predicate) != 0) != 0)
#define __syncthreads_count(predicate) ::trefoil::cuda::emulation::sync_threads_count(__FILE__, __LINE__, (predicate) != 0)

namespace trefoil::cuda {
template <class T>
inline T* dynamic_shared() { return static_cast<T*>(emulation::dynamic_shared_memory()); }
}  // namespace trefoil::cuda
