// Products of a warp group on Hopper (wgmma, sm_90a) behind functions, and how operands lie in shared memory. bf16 times bf16, sums in f32.
#pragma once
#include "hopper.h"

namespace trefoil::cuda {

#if defined(TREFOIL_CUDA_EMULATED)

// d[64 x n] = (or, where `add`, +=) a[64 x 16] b[16 x n], by descriptors below; a along k or (a_across) along its rows, b along k or
// (b_across) along its columns. Lane l of warp w of the group holds D[16 w + l / 4 + 8 (i / 2 % 2)][8 (i / 4) + 2 (l % 4) + i % 2] in d[i].
template <int n, bool a_across, bool b_across>
void wgmma(float (&d)[n / 2], uint64_t a, uint64_t b, bool add) { emulation::wgmma(d, n, a, nullptr, b, add, a_across, b_across); }
// The same of sums that are made anew; what was there may be gone at once.
template <int n, bool a_across, bool b_across>
void wgmma_anew(float (&d)[n / 2], uint64_t a, uint64_t b) { emulation::wgmma(d, n, a, nullptr, b, false, a_across, b_across); }
// The same with a in registers, laid out as that of mma_bf16 (mma.h) for the sixteen rows of each warp. They are read until the product is waited for.
template <int n, bool b_across>
void wgmma(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, bool add) { emulation::wgmma(d, n, 0, a, b, add, false, b_across); }
using emulation::wgmma_commit;
using emulation::wgmma_fence;
template <int newest>
void wgmma_wait() { emulation::wgmma_wait(newest); }
template <int n>
void keep(float (&)[n]) {}
inline void opaque(int&) {}

#elif defined(TREFOIL_HOPPER)

// Before the first product of a group: what was written to registers is seen by it.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most the `newest` last groups of this warp are still under way.
template <int newest>
__device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(newest) : "memory"); }
// The compiler may not move what writes or uses the sums past this point: to it, registers have nothing to do with fences and waits.
template <int n>
__device__ __forceinline__ void keep(float (&d)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// The compiler may not know x before this point, nor what follows from it.
__device__ __forceinline__ void opaque(int& x) { asm volatile("" : "+r"(x)); }

// The sums as operands of an asm statement, and their names in its text: they are its first.
#define TREFOIL_SUM_NAMES_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define TREFOIL_SUM_NAMES_64 \
  TREFOIL_SUM_NAMES_32 ", " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TREFOIL_SUM_NAMES_128 \
  TREFOIL_SUM_NAMES_64 ", " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
// `how`: "+" where they are added to, "=" where they are made anew: until then their registers are free.
#define TREFOIL_SUMS_8(how, i) \
  how "f"(d[i]), how "f"(d[i + 1]), how "f"(d[i + 2]), how "f"(d[i + 3]), how "f"(d[i + 4]), how "f"(d[i + 5]), how "f"(d[i + 6]), how "f"(d[i + 7])
#define TREFOIL_SUMS_32(how, i) TREFOIL_SUMS_8(how, i), TREFOIL_SUMS_8(how, i + 8), TREFOIL_SUMS_8(how, i + 16), TREFOIL_SUMS_8(how, i + 24)
#define TREFOIL_SUMS_64(how, i) TREFOIL_SUMS_32(how, i), TREFOIL_SUMS_32(how, i + 32)
#define TREFOIL_SUMS_128(how, i) TREFOIL_SUMS_64(how, i), TREFOIL_SUMS_64(how, i + 64)

template <int n, bool a_across, bool b_across>
__device__ __forceinline__ void wgmma(float (&d)[n / 2], uint64_t a, uint64_t b, bool add) {
  static_assert(n == 64 || n == 128 || n == 256);
  if constexpr (n == 256) {
      asm volatile(
          "{\n"
          ".reg .pred p;\n"
          "setp.ne.b32 p, %130, 0;\n"
          "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
          TREFOIL_SUM_NAMES_128 "}, %128, %129, p, 1, 1, %131, %132;\n}\n"
          : TREFOIL_SUMS_128("+", 0)
          : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(a_across ? 1 : 0), "n"(b_across ? 1 : 0));
  } else if constexpr (n == 128) {
      asm volatile(
          "{\n"
          ".reg .pred p;\n"
          "setp.ne.b32 p, %66, 0;\n"
          "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
          TREFOIL_SUM_NAMES_64 "}, %64, %65, p, 1, 1, %67, %68;\n}\n"
          : TREFOIL_SUMS_64("+", 0)
          : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(a_across ? 1 : 0), "n"(b_across ? 1 : 0));
  } else {
      asm volatile(
          "{\n"
          ".reg .pred p;\n"
          "setp.ne.b32 p, %34, 0;\n"
          "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
          TREFOIL_SUM_NAMES_32 "}, %32, %33, p, 1, 1, %35, %36;\n}\n"
          : TREFOIL_SUMS_32("+", 0)
          : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(a_across ? 1 : 0), "n"(b_across ? 1 : 0));
  }
}

template <int n, bool a_across, bool b_across>
__device__ __forceinline__ void wgmma_anew(float (&d)[n / 2], uint64_t a, uint64_t b) {
  static_assert(n == 64 || n == 128);
  if constexpr (n == 128) {
      asm volatile(
          "{\n"
          ".reg .pred p;\n"
          "setp.ne.b32 p, 0, 0;\n"
          "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
          TREFOIL_SUM_NAMES_64 "}, %64, %65, p, 1, 1, %66, %67;\n}\n"
          : TREFOIL_SUMS_64("=", 0)
          : "l"(a), "l"(b), "n"(a_across ? 1 : 0), "n"(b_across ? 1 : 0));
  } else {
      asm volatile(
          "{\n"
          ".reg .pred p;\n"
          "setp.ne.b32 p, 0, 0;\n"
          "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
          TREFOIL_SUM_NAMES_32 "}, %32, %33, p, 1, 1, %34, %35;\n}\n"
          : TREFOIL_SUMS_32("=", 0)
          : "l"(a), "l"(b), "n"(a_across ? 1 : 0), "n"(b_across ? 1 : 0));
  }
}

template <int n, bool b_across>
__device__ __forceinline__ void wgmma(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, bool add) {
  static_assert(n == 64 || n == 128);
  if constexpr (n == 128) {
      asm volatile(
          "{\n"
          ".reg .pred p;\n"
          "setp.ne.b32 p, %69, 0;\n"
          "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
          TREFOIL_SUM_NAMES_64 "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}\n"
          : TREFOIL_SUMS_64("+", 0)
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)), "n"(b_across ? 1 : 0));
  } else {
      asm volatile(
          "{\n"
          ".reg .pred p;\n"
          "setp.ne.b32 p, %37, 0;\n"
          "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
          TREFOIL_SUM_NAMES_32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"
          : TREFOIL_SUMS_32("+", 0)
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)), "n"(b_across ? 1 : 0));
  }
}

#undef TREFOIL_SUM_NAMES_32
#undef TREFOIL_SUM_NAMES_64
#undef TREFOIL_SUM_NAMES_128
#undef TREFOIL_SUMS_8
#undef TREFOIL_SUMS_32
#undef TREFOIL_SUMS_64
#undef TREFOIL_SUMS_128

#endif

#if defined(TREFOIL_HOPPER)
// An operand in shared memory: rows of 128 bytes along k (64 of bf16), swizzled by 128 bytes from a multiple of 1024 on; eight rows
// are 1024 bytes from the next eight. 16 of k further on is 32 bytes: 2 more.
__device__ __forceinline__ uint64_t describe_rows_of_128(const void* tile) {
  return static_cast<uint64_t>((shared_address(tile) & 0x3ffffu) >> 4) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
// Across k: rows of 128 bytes along the columns, 64 of them, the next 64 columns `next` bytes on; eight of k are 1024 bytes from the next
// eight, so that 16 of k are 128 more.
__device__ __forceinline__ uint64_t describe_columns_of_128(const void* tile, uint32_t next) {
  return static_cast<uint64_t>((shared_address(tile) & 0x3ffffu) >> 4) | static_cast<uint64_t>(next >> 4) << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
// Such an operand so many 16 bytes further on. The upper half of a descriptor has no part in it, so that it can stay a constant.
__device__ __forceinline__ uint64_t further(uint64_t descriptor, uint32_t steps) { return (descriptor >> 32) << 32 | (static_cast<uint32_t>(descriptor) + steps); }
// Where such a tile has the 16-byte chunk `chunk` of its row `row`, in bytes.
__device__ __forceinline__ int chunk_of_128(int row, int chunk) { return row * 128 + ((chunk ^ row) & 7) * 16; }
#endif

}  // namespace trefoil::cuda
