#include "emulation/asynchronous.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

#include "emulation/asynchronous_parts.h"
#include "hopper.h"

namespace trefoil::cuda::emulation {

namespace {

// Shared memory's window: dynamic memory is aligned to 128 bytes and, on purpose, to no more; 18 bits reach what a block may have.
constexpr uint32_t kDynamicStart = 1024 + 128, kWindowBytes = 228 * 1024;
constexpr uint64_t kBarrierMark = 0x6d62617272696572;  // what an mbarrier's memory holds here

void arrive_at(Barrier& barrier) {
  if (barrier.pending == 0) stop("mbarrier: more arrivals in a phase than the %u it was initialised for", barrier.arrivals);
  --barrier.pending;
  advance(barrier);
}

}  // namespace

unsigned char* at_address(const Block& block, uint32_t address, uint32_t bytes) {
  const auto within = [&](uint32_t start, size_t size) { return address >= start && address + size_t{bytes} <= start + size; };
  if (block.dynamic_shared && within(kDynamicStart, block.dynamic_bytes)) return static_cast<unsigned char*>(block.dynamic_shared) + (address - kDynamicStart);
  for (const SharedVariable& variable : block.shared)
    if (within(variable.address, variable.bytes)) return static_cast<unsigned char*>(variable.memory) + (address - variable.address);
  return nullptr;
}

Barrier* find_barrier(Block& block, const uint64_t* at) {
  for (Barrier& barrier : block.asynchronous.barriers)
    if (barrier.at == at) return &barrier;
  return nullptr;
}
Barrier& barrier_at(uint64_t* at, const char* what) {
  Barrier* found = find_barrier(*thread().block, at);
  if (!found) stop("%s: the mbarrier is not initialised", what);
  if (*at != kBarrierMark) stop("%s: the mbarrier has been overwritten", what);
  return *found;
}

// Ends the phase where all have arrived and no byte is missing.
void advance(Barrier& barrier) {
  if (barrier.pending || barrier.bytes) return;
  ++barrier.phase;
  barrier.pending = barrier.arrivals;
}

uint32_t shared_address(const void* pointer) {
  const Block& block = *thread().block;
  const auto* at = static_cast<const unsigned char*>(pointer);
  const auto offset = [&](const void* start, size_t bytes) {
    const auto* first = static_cast<const unsigned char*>(start);
    return first && at >= first && at <= first + bytes ? at - first : -1;
  };
  if (const auto within = offset(block.dynamic_shared, block.dynamic_bytes); within >= 0) return kDynamicStart + static_cast<uint32_t>(within);
  for (const SharedVariable& variable : block.shared)
    if (const auto within = offset(variable.memory, variable.bytes); within >= 0) return variable.address + static_cast<uint32_t>(within);
  stop("shared_address: the pointer is not to shared memory");
}

uint32_t place_variable(const Block& block, size_t bytes) {
  size_t address = kDynamicStart + block.dynamic_bytes;
  for (const SharedVariable& variable : block.shared) address = std::max(address, variable.address + variable.bytes);
  address = (address + 15) / 16 * 16;
  if (address + bytes > kWindowBytes) stop("the block has more shared memory than 227 KiB");
  return static_cast<uint32_t>(address);
}

void barrier_init(uint64_t* at, uint32_t arrivals) {
  if (reinterpret_cast<uintptr_t>(at) % 8 != 0) stop("mbarrier: the address is not a multiple of 8");
  if (arrivals == 0 || arrivals >= 1u << 20) stop("mbarrier: %u arrivals", arrivals);
  if (find_barrier(*thread().block, at)) stop("mbarrier: initialised twice");
  shared_address(at);  // in shared memory
  *at = kBarrierMark;
  state().barriers.push_back({at, arrivals, arrivals, 0, 0, false});
}
void barrier_fence() {
  for (Barrier& barrier : state().barriers) barrier.fenced = true;
}
void barrier_arrive(uint64_t* at) {
  finish_engine_stores();
  arrive_at(barrier_at(at, "mbarrier.arrive"));
}
void barrier_arrive_at(uint64_t* at, int rank) {
  const std::span<Block> cluster = thread().block->cluster;
  finish_engine_stores();
  if (rank < 0 || static_cast<size_t>(rank) >= cluster.size()) stop("mbarrier.arrive: block %d of a cluster of %zu", rank, cluster.size());
  Block& block = cluster[static_cast<size_t>(rank)];
  if (&block != thread().block && !block.met) stop("mbarrier.arrive: the other block may not have begun: no barrier of the cluster has been passed");
  Barrier* barrier = find_barrier(block, reinterpret_cast<uint64_t*>(at_address(block, shared_address(at), 8)));
  if (!barrier) stop("mbarrier.arrive: the mbarrier of the other block is not initialised");
  if (has_ended(block)) stop("mbarrier.arrive: the other block has ended");
  arrive_at(*barrier);
}
int cluster_rank() { return static_cast<int>(thread().block->rank); }
void cluster_sync() {
  if (thread().block->cluster.size() == 1) stop("barrier.cluster: the block is alone");
  finish_engine_stores();
  thread().state = Thread::at_cluster;
  suspend_thread();
}
float4 load4_of(int rank, const float* place) {
  const std::span<Block> cluster = thread().block->cluster;
  if (rank < 0 || static_cast<size_t>(rank) >= cluster.size()) stop("ld.shared::cluster: block %d of a cluster of %zu", rank, cluster.size());
  const Block& block = cluster[static_cast<size_t>(rank)];
  const uint32_t address = shared_address(place);
  const unsigned char* at = at_address(block, address, sizeof(float4));
  if (!block.met) stop("ld.shared::cluster: the other block may not have begun: no barrier of the cluster has been passed");
  if (has_ended(block)) stop("ld.shared::cluster: the other block has ended");
  if (address % sizeof(float4) != 0 || !at) stop("ld.shared::cluster: 16 bytes at %u, which is not a multiple of that, or not in the other block's shared memory", address);
  float4 x;
  std::memcpy(&x, at, sizeof x);
  return x;
}
void barrier_expect(uint64_t* at, uint32_t bytes) {
  Barrier& barrier = barrier_at(at, "mbarrier.arrive.expect_tx");
  barrier.bytes += bytes;
  if (barrier.bytes >= 1 << 20) stop("mbarrier: more than 2^20 - 1 bytes are expected in a phase");
  arrive_at(barrier);
}
bool barrier_passed(const Block& block, const uint64_t* at, uint32_t parity) {
  const Barrier* barrier = find_barrier(const_cast<Block&>(block), at);
  return barrier && (barrier->phase & 1u) != parity;
}
void barrier_wait(uint64_t* at, uint32_t parity) {
  if (parity > 1) stop("mbarrier.try_wait.parity: the parity is %u", parity);
  barrier_at(at, "mbarrier.try_wait");
  Thread& self = thread();
  while (!barrier_passed(*self.block, at, parity)) {
    self.barrier = at;
    self.parity = parity;
    self.state = Thread::at_mbarrier;
    suspend_thread();
  }
}
void describe_barrier(const Block& block, const uint64_t* at, char* text, size_t size) {
  const Barrier* barrier = find_barrier(const_cast<Block&>(block), at);
  std::snprintf(text, size, "%u arrivals and %lld bytes are missing in its phase %u", barrier ? barrier->pending : 0, barrier ? static_cast<long long>(barrier->bytes) : 0,
                barrier ? barrier->phase : 0);
}

void store_matrices_for_engine(void* row, const uint32_t (&words)[4]) {
  struct Words {
    uint32_t of[4];
  };
  for_warp("stmatrix", Words{{words[0], words[1], words[2], words[3]}}, [&](const auto& lanes) {
    const int matrix = lanes.self / 8, first = lanes.self % 8 * 4;
    store_for_engine(row, uint4{lanes[first].of[matrix], lanes[first + 1].of[matrix], lanes[first + 2].of[matrix], lanes[first + 3].of[matrix]});
  });
}
void store_bytes_for_engine(void* to, const void* x, size_t bytes) {
  shared_address(to);  // in shared memory
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0) stop("store_for_engine: the address is not a multiple of %zu", bytes);
  EngineStore store{to, bytes, {}};
  std::memcpy(store.value, x, bytes);
  thread().engine_stores.push_back(store);
}
void engine_fence() { thread().fenced_stores = thread().engine_stores.size(); }
// Rows of a along k that a product under way reads, of whichever warp of the group.
static void check_operands(const EngineStore& store) {
  const uint32_t address = shared_address(store.to);
  for (const Warp& warp : thread().block->warps)
    for (const Multiplication& product : warp.products)
      if (const uint32_t start = static_cast<uint32_t>(product.a & 0x3fff) << 4 & ~127u; !product.a_in_registers && !product.a_across && address >= start && address < start + 64 * 128)
        stop("shared memory is written that a wgmma product under way reads");
}
void finish_engine_stores() {
  Thread& self = thread();
  const auto end = self.engine_stores.begin() + static_cast<std::ptrdiff_t>(std::exchange(self.fenced_stores, 0));
  for (auto store = self.engine_stores.begin(); store != end; ++store) {
    check_operands(*store);
    std::memcpy(store->to, store->value, store->bytes);
  }
  self.engine_stores.erase(self.engine_stores.begin(), end);
}

// `phase`: that which this arrival is for.
void arrive_named(int id, int threads, uint32_t& phase) {
  Thread& self = thread();
  finish_engine_stores();
  if (id < 1 || id > 15) stop("named barrier %d: there are 1 to 15", id);
  if (threads <= 0 || threads % 32 != 0 || threads > static_cast<int>(self.block->threads.size())) stop("named barrier %d: %d threads", id, threads);
  NamedBarrier& barrier = state().named[id];
  if (barrier.arrived.empty()) barrier.threads = threads;
  if (barrier.threads != threads) stop("named barrier %d: %d threads here, %d for those that have come", id, threads, barrier.threads);
  if (std::find(barrier.arrived.begin(), barrier.arrived.end(), self.number) != barrier.arrived.end()) stop("named barrier %d: the thread comes twice in a phase", id);
  phase = barrier.phase;
  barrier.arrived.push_back(self.number);
  if (static_cast<int>(barrier.arrived.size()) == threads) {
    ++barrier.phase;
    barrier.arrived.clear();
  }
}
void named_arrive(int id, int threads) {
  uint32_t phase;
  arrive_named(id, threads, phase);
}
void named_sync(int id, int threads) {
  Thread& self = thread();
  arrive_named(id, threads, self.named_phase);
  self.named = id;
  while (!named_passed(self)) {
    self.state = Thread::at_named;
    suspend_thread();
  }
}
bool named_passed(const Thread& waiting) { return waiting.block->asynchronous.named[waiting.named].phase != waiting.named_phase; }

void set_registers(int count) {
  if (count % 8 != 0 || count < 24 || count > 256) stop("setmaxnreg: %d registers", count);
  for_warp("setmaxnreg", count, [](const auto&) {});
  thread().registers = count;
}

bool finish_asynchronous(Block& block, bool backward) {
  return (backward ? finish_copies(block) || finish_warp(block, true) : finish_warp(block, false) || finish_copies(block)) || finish_stores(block);
}

void check_asynchronous(Block& block) {
  if (!block.asynchronous.copies.empty()) return halt("the block has ended while a copy of the copy engine was under way");
  for (const Warp& warp : block.warps) {
    if (!warp.products.empty()) return halt("a warp has ended before its wgmma products were waited for");
    const size_t group = static_cast<size_t>(&warp - block.warps.data()) / 4;
    if (warp.issued != block.asynchronous.issued[group].size()) return halt("warps of a warp group have issued different numbers of wgmma products");
  }
  for (size_t id = 0; id < 16; ++id)
    if (const size_t left = block.asynchronous.named[id].arrived.size()) return halt("the block has ended with %zu threads at named barrier %zu", left, id);
  int registers = 0;
  for (const Thread& thread : block.threads) {
    if (thread.registers != block.threads[static_cast<size_t>(thread.number) / 128 * 128].registers) return halt("setmaxnreg: not all warps of a warp group have run it");
    registers += thread.registers;
  }
  // A block starts with as many for each thread as ptxas may use (a multiple of 8), and can only give and take of those.
  const int threads = static_cast<int>(block.threads.size()), most = 65536 / threads / 8 * 8 * threads;
  if (registers > most) return halt("setmaxnreg: %d registers in all, a block of %d threads starts with %d: one that takes more waits for ever", registers, threads, most);
}

}  // namespace trefoil::cuda::emulation
