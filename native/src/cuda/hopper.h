// Hopper's asynchronous instructions behind functions (sm_90a): mbarriers, the copy engine (TMA), clusters, registers of warp groups, named
// barriers; wgmma.h has the products, turns.h what blocks tell each other. The emulated form follows the PTX ISA: emulation/asynchronous.h.
// TREFOIL_HOPPER: the code is compiled where they exist.
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
using emulation::barrier_arrive_at;
using emulation::barrier_expect;
using emulation::barrier_fence;
using emulation::barrier_init;
using emulation::barrier_wait;
using emulation::add_out;
using emulation::copy_bytes;
using emulation::copy_out;
using emulation::engine_fence;
using emulation::global_engine_fence;
using emulation::named_arrive;
using emulation::named_sync;
using emulation::shared_address;
using emulation::cluster_rank;
using emulation::cluster_sync;
using emulation::wait_for_previous;
inline void let_next_start() {}
using emulation::load4_of;
using emulation::commit_stores;
using emulation::store_for_engine;
using emulation::store_matrices_for_engine;
template <int rank>
void copy_box(void* to, const CUtensorMap* map, const int (&at)[rank], uint64_t* barrier) { emulation::copy_box(to, map, at, rank, barrier); }
template <int rank>
void copy_box_to(uint16_t blocks, void* to, const CUtensorMap* map, const int (&at)[rank], uint64_t* barrier) { emulation::copy_box_to(blocks, to, map, at, rank, barrier); }
template <int rank>
void store_box(const CUtensorMap* map, const int (&at)[rank], const void* from) { emulation::store_box(map, at, rank, from); }
inline void prefetch_map(const CUtensorMap*) {}
template <int newest>
void wait_stores_read() { emulation::wait_stores(newest, false); }
template <int newest>
void wait_stores() { emulation::wait_stores(newest, true); }
template <int count>
void give_registers() { emulation::set_registers(count); }
template <int count>
void take_registers() { emulation::set_registers(count); }

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
// The first copy need not wait for its map.
__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }
// The box of the tensor that starts at `at`, fastest dimension first, to shared memory; its bytes count at the barrier.
template <int rank>
__device__ __forceinline__ void copy_box(void* to, const CUtensorMap* map, const int (&at)[rank], uint64_t* barrier) {
  static_assert(rank >= 3 && rank <= 5);
  if constexpr (rank == 5)
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(shared_address(to)), "l"(map),
                 "r"(shared_address(barrier)), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]) : "memory");
  else if constexpr (rank == 3)
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(to)), "l"(map),
                 "r"(shared_address(barrier)), "r"(at[0]), "r"(at[1]), "r"(at[2]) : "memory");
  else
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(to)), "l"(map),
                 "r"(shared_address(barrier)), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]) : "memory");
}

// The same to the same place in each block of the cluster that has its bit in `blocks`; the bytes count at each one's barrier.
template <int rank>
__device__ __forceinline__ void copy_box_to(uint16_t blocks, void* to, const CUtensorMap* map, const int (&at)[rank], uint64_t* barrier) {
  static_assert(rank == 3);
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(shared_address(to)), "l"(map),
               "r"(shared_address(barrier)), "r"(at[0]), "r"(at[1]), "r"(at[2]), "h"(blocks) : "memory");
}

// Blocks that run together (a cluster): which of them this is; until all their threads are here; arrival at a barrier of another one.
__device__ __forceinline__ int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
__device__ __forceinline__ void cluster_sync() { asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory"); }
__device__ __forceinline__ void barrier_arrive_at(uint64_t* barrier, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n"
      "}\n" ::"r"(shared_address(barrier)), "r"(rank) : "memory");
}

// Programmatic dependent launch, for kernels that are launched `early` (launch.h): until all that the launches before this one have written is there
// to be read, and nothing of theirs is read any more; and the launch after this one may begin, as far as there is room, once all blocks have said so.
__device__ __forceinline__ void wait_for_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void let_next_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// What block `rank` of the cluster has at this place of its own shared memory: between two cluster_sync, after it has written and before it ends.
__device__ __forceinline__ float4 load4_of(int rank, const float* place) {
  float4 x;
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %4, %5;\n"
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [remote];\n"
      "}\n" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "r"(shared_address(place)), "r"(rank) : "memory");
  return x;
}

// `bytes` as they lie in memory; they and both addresses are multiples of 16.
__device__ __forceinline__ void copy_bytes(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)), "l"(from), "r"(bytes),
               "r"(shared_address(barrier)) : "memory");
}

// From shared memory to global memory: floats as they lie, or added to those there, each by itself in f32. Bytes and addresses as above; what
// threads wrote there goes through store_for_engine. Both belong to the thread's group of stores.
__device__ __forceinline__ void copy_out(float* to, const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void add_out(float* to, const void* from, uint32_t bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)), "r"(bytes) : "memory");
}
// Between what the copy engine does to global memory and what the thread does there, either way round.
__device__ __forceinline__ void global_engine_fence() { asm volatile("fence.proxy.async.global;" ::: "memory"); }

// To shared memory, for products of warp groups or store_box to read: once engine_fence has followed, and a barrier that both sides pass.
template <class T>
__device__ __forceinline__ void store_for_engine(void* to, T x) { *static_cast<T*>(to) = x; }
// The same of 16 bytes by a warp, four matrices of 8 x 8 bf16: lanes 8 m..8 m + 7 give where the rows of matrix m go, words are laid out as those of load_matrix_x4 (mma.h).
__device__ __forceinline__ void store_matrices_for_engine(void* row, const uint32_t (&words)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}
__device__ __forceinline__ void engine_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A box from shared memory to where it starts in the tensor; what lies outside of that is left out. One thread's stores up to its
// commit_stores are a group.
template <int rank>
__device__ __forceinline__ void store_box(const CUtensorMap* map, const int (&at)[rank], const void* from) {
  static_assert(rank >= 3 && rank <= 5);
  if constexpr (rank == 5)
    asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(map), "r"(shared_address(from)), "r"(at[0]), "r"(at[1]),
                 "r"(at[2]), "r"(at[3]), "r"(at[4]) : "memory");
  else if constexpr (rank == 3)
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map), "r"(shared_address(from)), "r"(at[0]), "r"(at[1]),
                 "r"(at[2]) : "memory");
  else
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map), "r"(shared_address(from)), "r"(at[0]), "r"(at[1]),
                 "r"(at[2]), "r"(at[3]) : "memory");
}
__device__ __forceinline__ void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until of this thread's groups all but the `newest` last have read shared memory; until they have written what they write.
template <int newest>
__device__ __forceinline__ void wait_stores_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(newest) : "memory"); }
template <int newest>
__device__ __forceinline__ void wait_stores() { asm volatile("cp.async.bulk.wait_group %0;" ::"n"(newest) : "memory"); }

// Barrier `id` of 1..15 lets pass once `threads` have come to it, those included that only arrive and go on. Whole warps.
__device__ __forceinline__ void named_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ __forceinline__ void named_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// A warp group's registers for each of its threads, down and up; a multiple of 8.
template <int count>
__device__ __forceinline__ void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count)); }
template <int count>
__device__ __forceinline__ void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count)); }

#else

// Never launched early where the code is not Hopper's.
__device__ __forceinline__ void wait_for_previous() {}
__device__ __forceinline__ void let_next_start() {}

#endif

}  // namespace trefoil::cuda
