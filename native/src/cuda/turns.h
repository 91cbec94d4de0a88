// What blocks of one launch tell each other, so that sums in global memory have an order. Blocks may start in any order, and some only when others have
// ended: a block that draws a ticket when it starts, and waits for blocks of lower tickets alone, waits for blocks that run. The lowest of those that
// have not ended waits for none, so that it ends; hence all do, however few run at once.
#pragma once
#include "language.h"
#if defined(TREFOIL_CUDA_EMULATED)
#include "emulation/turns.h"
#endif

namespace trefoil::cuda {

#if defined(TREFOIL_CUDA_EMULATED)

using emulation::await_turn;
using emulation::pass_turn;
using emulation::take_ticket;

#else

// 0, 1, 2, … in the order in which blocks ask; the counter starts at 0. By one thread of a block, before it waits for anything.
__device__ __forceinline__ int32_t take_ticket(int32_t* counter) { return atomicAdd(counter, 1); }
// Until pass_turn has set `turn` to `mine`: what that thread did before is seen by this one from here on (acquire and release, of the device).
__device__ __forceinline__ void await_turn(const int32_t* turn, int32_t mine) {
  int32_t seen;
  do asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(turn) : "memory");
  while (seen != mine);
}
__device__ __forceinline__ void pass_turn(int32_t* turn, int32_t next) { asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(turn), "r"(next) : "memory"); }

#endif

}  // namespace trefoil::cuda
