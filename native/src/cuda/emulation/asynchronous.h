// Hopper's asynchronous instructions, as the PTX ISA describes them: mbarriers, copies of boxes (TMA), and products of a warp group (wgmma).
// What runs beside the threads happens only when no thread can go on alone: device 0 then finishes products before copies, device 1 copies
// before products; of copies blocks take the oldest and the newest first in turn; and every other two blocks of device 0 finish products at once. So
// a read too early finds what was there before, by a thread or by a product, and a stage that is given back too early is overwritten. `hopper.h` and `wgmma.h` are what kernels call;
// copy_engine.cc and products.cc hold those parts.
#pragma once
#include <cstddef>
#include <cstdint>

#include "emulation/language.h"
#include "emulation/tensor_map.h"

namespace trefoil::cuda::emulation {

struct Block;
struct Thread;

// The address of shared memory as instructions see it: a window of its own for each block, not aligned to more than 128 bytes.
uint32_t shared_address(const void* pointer);

void barrier_init(uint64_t* barrier, uint32_t arrivals);
void barrier_fence();  // fence.mbarrier_init
void barrier_arrive(uint64_t* barrier);
void barrier_arrive_at(uint64_t* barrier, int rank);  // the same one of another block of the cluster
void barrier_expect(uint64_t* barrier, uint32_t bytes);
void barrier_wait(uint64_t* barrier, uint32_t parity);
void copy_box(void* to, const CUtensorMap* map, const int* at, int rank, uint64_t* barrier);
void copy_box_to(uint16_t blocks, void* to, const CUtensorMap* map, const int* at, int rank, uint64_t* barrier);
void copy_bytes(void* to, const void* from, uint32_t bytes, uint64_t* barrier);

// A box, read at once in every other block, or when its group is waited for.
void store_box(const CUtensorMap* map, const int* at, int rank, const void* from);
// Bytes: read once nothing else can go on and the thread waits for that (device 0), or at once (device 1); written when it waits for that.
void copy_out(float* to, const void* from, uint32_t bytes);
void add_out(float* to, const void* from, uint32_t bytes);
void commit_stores();
void wait_stores(int newest, bool written);
void global_engine_fence();  // fence.proxy.async.global
void check_out();            // the thread has ended

void store_matrices_for_engine(void* row, const uint32_t (&words)[4]);
void store_bytes_for_engine(void* to, const void* x, size_t bytes);  // happens at the first barrier of the block, named one, or arrival at an mbarrier after engine_fence
template <class T>
void store_for_engine(void* to, T x) { store_bytes_for_engine(to, &x, sizeof x); }
void engine_fence();                       // fence.proxy.async
void finish_engine_stores();

int cluster_rank();
void cluster_sync();
float4 load4_of(int rank, const float* place);

void named_sync(int id, int threads);
void named_arrive(int id, int threads);

void wgmma_fence();
// a_registers: the left operand where it is not in shared memory. It is read when the product is finished.
void wgmma(float* d, int n, uint64_t a, const uint32_t* a_registers, uint64_t b, bool add, bool a_across, bool b_across);
void wgmma_commit();
void wgmma_wait(int newest);
void set_registers(int count);

// For the scheduler. The thread's barrier has passed the phase it waits for?
bool named_passed(const Thread& thread);
bool barrier_passed(const Block& block, const uint64_t* barrier, uint32_t parity);
// One copy, the products that one warp waits for, or the stores that one thread waits for; false: nothing is under way.
bool finish_asynchronous(Block& block, bool backward);
// What is missing of the phase that somebody waits for.
void describe_barrier(const Block& block, const uint64_t* barrier, char* text, size_t size);
// An error where something is left when a block has ended.
void check_asynchronous(Block& block);

}  // namespace trefoil::cuda::emulation
