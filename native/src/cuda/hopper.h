// Hopper's asynchronous instructions behind functions (sm_90a): mbarriers, the copy engine (TMA), products of a warp group (wgmma). The
// emulated form follows the PTX ISA: emulation/asynchronous.h. TREFOIL_HOPPER: the code is compiled where they exist.
#pragma once
#include "tensor_map.h"

#if defined(TREFOIL_CUDA_EMULATED)
#include "emulation/asynchronous.h"
#define TREFOIL_HOPPER 1
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define TREFOIL_HOPPER 1
#endif

namespace trefoil::cuda {

#if defined(TREFOIL_CUDA_EMULATED)

using emulation::barrier_arrive;
using emulation::barrier_expect;
using emulation::barrier_fence;
using emulation::barrier_init;
using emulation::barrier_wait;
using emulation::copy_box;
using emulation::shared_address;
using emulation::wgmma_commit;
using emulation::wgmma_fence;
template <bool b_across>
void wgmma_m64n128k16(float (&d)[64], uint64_t a, uint64_t b, bool add) { emulation::wgmma_m64n128k16(d, a, b, add, b_across); }
template <int count>
void give_registers() { emulation::set_registers(count); }
template <int count>
void take_registers() { emulation::set_registers(count); }
template <int newest>
void wgmma_wait() { emulation::wgmma_wait(newest); }
inline void keep(float (&)[64]) {}

#elif defined(TREFOIL_HOPPER)

__device__ __forceinline__ uint32_t shared_address(const void* pointer) { return static_cast<uint32_t>(__cvta_generic_to_shared(pointer)); }

__device__ __forceinline__ void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// After barrier_init, by the same thread: the copy engine sees the barriers.
__device__ __forceinline__ void barrier_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and has the phase last until so many bytes have been copied.
__device__ __forceinline__ void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
// Until the phase of this parity has ended.
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}\n" ::"r"(shared_address(barrier)), "r"(parity) : "memory");
}
// The box of the tensor that starts at (x, y) to shared memory; its bytes count at the barrier.
__device__ __forceinline__ void copy_box(void* to, const CUtensorMap* map, int x, int y, uint64_t* barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)), "l"(map),
               "r"(shared_address(barrier)), "r"(x), "r"(y) : "memory");
}

// A warp group's registers for each of its threads, down and up; a multiple of 8.
template <int count>
__device__ __forceinline__ void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count)); }
template <int count>
__device__ __forceinline__ void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count)); }

// Before the first product of a group: what was written to registers is seen by it.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most the `newest` last groups of this warp are still under way.
template <int newest>
__device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(newest) : "memory"); }
// The compiler may not move what writes or uses the sums past this point: to it, registers have nothing to do with fences and waits.
__device__ __forceinline__ void keep(float (&d)[64]) {
#pragma unroll
  for (float& x : d) asm volatile("" : "+f"(x)::"memory");
}

// d[64 x 128] = (or, where `add`, +=) a[64 x 16] b[16 x 128] of bf16, a along k; b along k as well or (b_across) along its columns. Lane l of warp w of the group holds
// D[16 w + l / 4 + 8 (i / 2 % 2)][8 (i / 4) + 2 (l % 4) + i % 2] in d[i].
template <bool b_across>
__device__ __forceinline__ void wgmma_m64n128k16(float (&d)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, p, 1, 1, 0, %67;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
        "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
        "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
        "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(b_across ? 1 : 0));
}

#endif

#if defined(TREFOIL_HOPPER)
// A wgmma operand in shared memory: rows of 128 bytes along k (64 of bf16), swizzled by 128 bytes from a multiple of 1024 on; eight rows
// are 1024 bytes from the next eight. 16 of k further on is 32 bytes: 2 more.
__device__ __forceinline__ uint64_t describe_rows_of_128(const void* tile) {
  return static_cast<uint64_t>((shared_address(tile) & 0x3ffffu) >> 4) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
// Across k: rows of 128 bytes along the columns, 64 of them, the next 64 columns `next` bytes on; eight of k are 1024 bytes from the next
// eight, so that 16 of k are 128 more.
__device__ __forceinline__ uint64_t describe_columns_of_128(const void* tile, uint32_t next) {
  return static_cast<uint64_t>((shared_address(tile) & 0x3ffffu) >> 4) | static_cast<uint64_t>(next >> 4) << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
#endif

}  // namespace trefoil::cuda
