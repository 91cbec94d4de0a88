#include "emulation/asynchronous.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "emulation/block.h"
#include "emulation/turns.h"
#include "hopper.h"

namespace trefoil::cuda::emulation {

namespace {

// Shared memory's window: dynamic memory is aligned to 128 bytes and, on purpose, to no more; 18 bits reach what a block may have.
constexpr uint32_t kDynamicStart = 1024 + 128, kWindowBytes = 228 * 1024;

Asynchronous& state() { return thread().block->asynchronous; }

// Memory at [address, address + bytes) of the window, or null.
unsigned char* at_address(const Block& block, uint32_t address, uint32_t bytes) {
  const auto within = [&](uint32_t start, size_t size) { return address >= start && address + size_t{bytes} <= start + size; };
  if (block.dynamic_shared && within(kDynamicStart, block.dynamic_bytes)) return static_cast<unsigned char*>(block.dynamic_shared) + (address - kDynamicStart);
  for (const SharedVariable& variable : block.shared)
    if (within(variable.address, variable.bytes)) return static_cast<unsigned char*>(variable.memory) + (address - variable.address);
  return nullptr;
}

float from_bf16(const unsigned char* at) {
  uint16_t half;
  std::memcpy(&half, at, 2);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// The 128-byte swizzle: bits 4 to 6 of an address are exchanged by its bits 7 to 9.
uint32_t swizzled(uint32_t address) { return address ^ ((address >> 7 & 7u) << 4); }

// ---- mbarriers

constexpr uint64_t kBarrierMark = 0x6d62617272696572;  // what an mbarrier's memory holds here

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

void arrive_at(Barrier& barrier) {
  if (barrier.pending == 0) stop("mbarrier: more arrivals in a phase than the %u it was initialised for", barrier.arrivals);
  --barrier.pending;
  advance(barrier);
}

// ---- the copy engine

// What an encoded map holds; dimensions past its rank have one element.
struct TensorMap {
  static constexpr uint64_t kMark = 0x74656e736f726d70;
  uint64_t mark;
  unsigned char* address;
  uint64_t sizes[5], strides[5];  // elements, bytes
  uint16_t box[5];
  uint16_t rank, swizzle, element_bytes;
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap));

// Calls visit(in shared memory, in the tensor or null, bytes) for each element of a box that lies at `address` of the window. Its bytes; -1: it
// does not fit.
template <class Visit>
int64_t for_box(const Block& block, const CUtensorMap& encoded, const int (&first)[5], uint32_t address, const Visit& visit) {
  TensorMap map;
  std::memcpy(&map, &encoded, sizeof map);
  const uint32_t count = uint32_t{map.box[0]} * map.box[1] * map.box[2] * map.box[3] * map.box[4], bytes = map.element_bytes;
  for (uint32_t i = 0; i < count; ++i) {
    bool inside = true;
    unsigned char* element = map.address;
    uint32_t rest = i;
    for (size_t d = 0; d < 5; ++d) {
      const int64_t at = int64_t{first[d]} + rest % map.box[d];
      rest /= map.box[d];
      inside = inside && at >= 0 && at < static_cast<int64_t>(map.sizes[d]);
      if (inside) element += static_cast<uint64_t>(at) * map.strides[d];
    }
    uint32_t place = address + i * bytes;
    if (map.swizzle == CU_TENSOR_MAP_SWIZZLE_128B) place = swizzled(place);
    unsigned char* memory = at_address(block, place, bytes);
    if (!memory) return -1;
    visit(memory, inside ? element : nullptr, bytes);
  }
  return int64_t{count} * bytes;
}

int64_t finish_box(const Block& block, const Copy& copy) {
  return for_box(block, copy.map, copy.at, copy.to, [](unsigned char* memory, const unsigned char* element, uint32_t bytes) {
    if (element) std::memcpy(memory, element, bytes);
    else std::memset(memory, 0, bytes);
  });
}
void finish_store(const Block& block, BoxStore& store) {
  if (std::exchange(store.done, true)) return;
  const int64_t bytes = for_box(block, store.map, store.at, store.from, [](const unsigned char* memory, unsigned char* element, uint32_t size) {
    if (element) std::memcpy(element, memory, size);
  });
  if (bytes < 0) halt("a store of the copy engine reaches beyond shared memory");
}

void finish_copy(Block& block, const Copy& copy) {
  int64_t bytes = copy.bytes;
  Block& target = block.cluster[copy.target];
  if (copy.from) {
    unsigned char* memory = at_address(target, copy.to, copy.bytes);
    if (memory) std::memcpy(memory, copy.from, copy.bytes);
    else bytes = -1;
  } else {
    bytes = finish_box(target, copy);
  }
  if (bytes < 0) return halt("a copy of the copy engine does not fit into shared memory");
  Barrier* barrier = find_barrier(target, reinterpret_cast<uint64_t*>(at_address(target, copy.barrier, 8)));
  if (!barrier || !barrier->fenced) return halt("a copy to another block of the cluster: its mbarrier is not initialised, or not fenced");
  if (has_ended(target)) return halt("a copy to another block of the cluster, which has ended");
  barrier->bytes -= bytes;
  advance(*barrier);
}

// ---- wgmma

constexpr uint32_t kPoison = 0x7fb0a11d;  // a signalling NaN: what registers read as while a product that writes them is under way

bool poisoned(const float* registers, int count) {
  for (int i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, registers + i, 4);
    if (bits != kPoison) return false;
  }
  return true;
}

// Reads rows [0, rows) x 16 of k as the descriptor says, K-major or (across) MN-major; null, or what is wrong with it.
const char* read_operand(const Block& block, uint64_t descriptor, int rows, bool across, float* to) {
  const uint32_t start = static_cast<uint32_t>(descriptor & 0x3fff) << 4, leading = static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4;
  const uint32_t stride = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
  const uint32_t base_offset = descriptor >> 49 & 7, swizzle = static_cast<uint32_t>(descriptor >> 62);
  if ((descriptor >> 14 & 3) || (descriptor >> 30 & 3) || (descriptor >> 46 & 7) || (descriptor >> 52 & 0x3ff)) return "bits that are reserved are set";
  if (swizzle != 1) return "only the 128-byte swizzle is emulated";
  // The pattern starts at a multiple of 1024 bytes, else the base offset would have to say where.
  if (base_offset != (start >> 7 & 7)) return "the base offset is not that of the pattern's start";
  if (base_offset != 0) return "a base offset other than 0 is not emulated";
  if (!across && (start & 127) + 32 > 128) return "16 of k go beyond a row of 128 bytes";
  if (across && (start & 127) != 0) return "it does not start with a row of 128 bytes";
  for (int row = 0; row < rows; ++row)
    for (int k = 0; k < 16; ++k) {
      // An atom of the swizzle is eight rows of 128 bytes: rows of the operand along k, or rows of k along 64 rows of the operand.
      const int line = across ? k : row, within = across ? row % 64 : k;
      const uint32_t plain = start + static_cast<uint32_t>(line / 8) * stride + static_cast<uint32_t>(line % 8) * 128 + static_cast<uint32_t>(within) * 2 +
                             (across ? static_cast<uint32_t>(row / 64) * leading : 0);
      const unsigned char* memory = at_address(block, swizzled(plain), 2);
      if (!memory) return "it reaches beyond shared memory";
      to[row * 16 + k] = from_bf16(memory);
    }
  return nullptr;
}

Sums* find_sums(Thread& lane, float* registers) {
  for (Sums& sums : lane.sums)
    if (sums.registers == registers) return &sums;
  return nullptr;
}

// A warp's sixteen rows of one product.
void finish_product(Block& block, Warp& warp, const Multiplication& product) {
  const size_t number = static_cast<size_t>(&warp - block.warps.data());
  float a[64 * 16], b[256 * 16];
  if (product.a_in_registers) {
    for (size_t lane = 0; lane < 32; ++lane)
      for (size_t i = 0; i < 8; ++i) {
        const size_t row = 16 * (number % 4) + lane / 4 + 8 * (i / 2 % 2), k = 2 * (lane % 4) + i % 2 + 8 * (i / 4);
        a[row * 16 + k] = from_bf16(reinterpret_cast<const unsigned char*>(product.left[lane]) + 2 * i);
      }
  } else if (const char* wrong = read_operand(block, product.a, 64, product.a_across, a)) {
    return halt("wgmma: descriptor of a: %s", wrong);
  }
  if (const char* wrong = read_operand(block, product.b, product.n, product.b_across, b)) return halt("wgmma: descriptor of b: %s", wrong);
  for (size_t lane = 0; lane < 32; ++lane) {
    Thread& thread = block.threads[number * 32 + lane];
    Sums& sums = *find_sums(thread, product.registers[lane]);
    for (size_t i = 0; i < static_cast<size_t>(product.n) / 2; ++i) {
      const size_t row = 16 * (number % 4) + lane / 4 + 8 * (i / 2 % 2), column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
      float sum = product.add ? sums.values[i] : 0;
      for (size_t k = 0; k < 16; ++k) sum += a[row * 16 + k] * b[column * 16 + k];
      sums.values[i] = sum;
    }
    if (--sums.products) continue;
    std::memcpy(sums.registers, sums.values, static_cast<size_t>(sums.count) * 4);
    thread.sums.erase(thread.sums.begin() + (&sums - thread.sums.data()));
  }
}

bool finish_warp(Block& block, bool backward) {
  for (size_t i = 0; i < block.warps.size(); ++i) {
    const size_t number = backward ? block.warps.size() - 1 - i : i;
    Warp& warp = block.warps[number];
    Thread* const lanes = &block.threads[number * 32];
    if (lanes[0].state != Thread::at_products) continue;
    while (warp.groups.size() > static_cast<size_t>(lanes[0].newest)) {
      for (size_t product = 0; product < warp.groups.front(); ++product) finish_product(block, warp, warp.products[product]);
      warp.products.erase(warp.products.begin(), warp.products.begin() + static_cast<std::ptrdiff_t>(warp.groups.front()));
      warp.groups.erase(warp.groups.begin());
    }
    for (size_t lane = 0; lane < 32; ++lane) lanes[lane].state = Thread::ready;
    return true;
  }
  return false;
}

bool finish_copies(Block& block) {
  std::vector<Copy>& copies = block.asynchronous.copies;
  if (copies.empty()) return false;
  const auto next = block.index.x % 2 ? copies.end() - 1 : copies.begin();
  const Copy copy = *next;
  copies.erase(next);
  finish_copy(block, copy);
  return true;
}

bool finish_stores(Block& block) {
  for (Thread& thread : block.threads) {
    if (thread.state != Thread::at_stores) continue;
    while (thread.store_groups.size() > static_cast<size_t>(thread.newest_stores)) {
      const auto end = thread.box_stores.begin() + static_cast<std::ptrdiff_t>(thread.store_groups.front());
      for (auto store = thread.box_stores.begin(); store != end; ++store) finish_store(block, *store);
      thread.box_stores.erase(thread.box_stores.begin(), end);
      thread.store_groups.erase(thread.store_groups.begin());
    }
    thread.state = Thread::ready;
    return true;
  }
  return false;
}

// The box is one of the tensor that the map describes, and starts where boxes may.
uint32_t check_box(const char* what, const CUtensorMap* map, int rank, const void* shared) {
  TensorMap read;
  std::memcpy(&read, map, sizeof read);
  if (read.mark != TensorMap::kMark) stop("%s: this is no encoded tensor map", what);
  if (read.rank != rank) stop("%s: %d coordinates for a tensor of %d dimensions", what, rank, read.rank);
  const uint32_t address = shared_address(shared);
  if (address % 128 != 0) stop("%s: the address in shared memory is not a multiple of 128", what);
  return address;
}

template <class T, class Read>
void for_warp(const char* name, const T& value, const Read& read) {
  if (__builtin_popcount(thread().warp->members) != 32) stop("%s in a warp of fewer than 32 threads", name);
  collective(0xffffffffu, name, value, [&](const auto& lanes) {
    read(lanes);
    return 0;
  });
}

}  // namespace

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

static void check_fenced(uint64_t* barrier) {
  if (!barrier_at(barrier, "copy").fenced) stop("copy: no fence.mbarrier_init has made the mbarrier known to the copy engine");
}
void copy_bytes(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  const uint32_t address = shared_address(to);
  if (address % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0 || bytes % 16 != 0 || bytes == 0) stop("copy_bytes: an address, or the size, is not a multiple of 16");
  check_fenced(barrier);
  state().copies.push_back({{}, from, address, bytes, {}, shared_address(barrier), thread().block->rank});
}
void copy_box(void* to, const CUtensorMap* map, const int* at, int rank, uint64_t* barrier) {
  copy_box_to(static_cast<uint16_t>(1u << thread().block->rank), to, map, at, rank, barrier);
}
void copy_box_to(uint16_t blocks, void* to, const CUtensorMap* map, const int* at, int rank, uint64_t* barrier) {
  const uint32_t address = check_box("copy_box", map, rank, to);
  check_fenced(barrier);
  Copy copy{*map, nullptr, address, 0, {}, shared_address(barrier), 0};
  std::copy(at, at + rank, copy.at);
  const Block& block = *thread().block;
  if (blocks == 0 || blocks >> block.cluster.size()) stop("copy_box: blocks %x of a cluster of %zu", blocks, block.cluster.size());
  if (blocks != 1u << block.rank && !block.met) stop("copy_box: the other blocks may not have begun: no barrier of the cluster has been passed");
  // Each block has its copy at another time.
  for (; copy.target < block.cluster.size(); ++copy.target)
    if (blocks >> copy.target & 1) state().copies.push_back(copy);
}

void store_box(const CUtensorMap* map, const int* at, int rank, const void* from) {
  Thread& self = thread();
  BoxStore store{*map, check_box("store_box", map, rank, from), {}, false};
  std::copy(at, at + rank, store.at);
  if (self.block->index.x % 2) finish_store(*self.block, store);
  self.box_stores.push_back(store);
  ++self.uncommitted_stores;
}
static void read_out(Outgoing& out) {
  if (!out.values.empty()) return;
  const unsigned char* memory = at_address(*thread().block, out.from, out.bytes);
  if (!memory) stop("copy_out: it reaches beyond shared memory");
  out.values.resize(out.bytes / 4);
  std::memcpy(out.values.data(), memory, out.bytes);
}
static void write_out(const Outgoing& out) {
  for (size_t i = 0; i < out.values.size(); ++i) out.to[i] = out.add ? out.to[i] + out.values[i] : out.values[i];
  ++thread().out_written;
}
static void send_out(float* to, const void* from, uint32_t bytes, bool add) {
  Thread& self = thread();
  const uint32_t address = shared_address(from);
  if (address % 16 != 0 || reinterpret_cast<uintptr_t>(to) % 16 != 0 || bytes % 16 != 0 || bytes == 0) stop("copy_out: an address, or the size, is not a multiple of 16");
  check_turn(to, bytes);
  Outgoing& out = self.outgoing.emplace_back(Outgoing{to, address, bytes, add, false, {}});
  if (self.block->launch->backward) read_out(out);
}
void copy_out(float* to, const void* from, uint32_t bytes) { send_out(to, from, bytes, false); }
void add_out(float* to, const void* from, uint32_t bytes) { send_out(to, from, bytes, true); }
void commit_stores() {
  Thread& self = thread();
  self.store_groups.push_back(std::exchange(self.uncommitted_stores, 0));
  for (Outgoing& out : self.outgoing) out.committed = true;
}
// Others go on meanwhile.
void wait_stores(int newest, bool written) {
  Thread& self = thread();
  if (self.store_groups.size() <= static_cast<size_t>(newest) && self.outgoing.empty()) return;
  if (newest > 0 && !self.outgoing.empty()) stop("cp.async.bulk.wait_group: copies of bytes are all waited for here");
  self.newest_stores = newest;
  self.state = Thread::at_stores;
  suspend_thread();
  for (Outgoing& out : self.outgoing)
    if (out.committed) read_out(out);
  if (!written) return;
  while (!self.outgoing.empty() && self.outgoing.front().committed) {
    write_out(self.outgoing.front());
    self.outgoing.erase(self.outgoing.begin());
  }
}
void check_out() {
  for (const Outgoing& out : thread().outgoing) {
    if (!out.committed || out.values.empty()) return halt("a thread has ended before its copies to global memory had read shared memory");
    write_out(out);
  }
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

void wgmma_fence() {
  for_warp("wgmma.fence", 0, [](const auto&) {});
  thread().fenced = true;
}

void wgmma(float* d, int n, uint64_t a, const uint32_t* a_registers, uint64_t b, bool add, bool a_across, bool b_across) {
  Thread& self = thread();
  const int count = n / 2;
  if (!self.fenced) stop("wgmma.mma_async without wgmma.fence since the last group was committed");
  Sums* sums = find_sums(self, d);
  if (sums && (sums->count != count || !poisoned(d, count))) stop("wgmma: registers of a product that is under way have been written");
  if (!sums) {
    sums = &self.sums.emplace_back(Sums{d, count, 0, {}});
    std::memcpy(sums->values, d, static_cast<size_t>(count) * 4);
    for (int i = 0; i < count; ++i) std::memcpy(d + i, &kPoison, 4);
  }
  ++sums->products;
  struct Given {
    uint64_t a, b;
    float* registers;
    const uint32_t* left;
    bool add;
  };
  for_warp("wgmma.mma_async", Given{a, b, d, a_registers, add}, [&](const auto& lanes) {
    Block& block = *self.block;
    const size_t number = static_cast<size_t>(self.number) / 32;
    if (lanes.self != 0) return;
    Multiplication product{a, b, n, add, a_across, b_across, a_registers != nullptr, {}, {}};
    for (int lane = 0; lane < 32; ++lane) {
      const Given given = lanes[lane];
      product.registers[lane] = given.registers;
      product.left[lane] = given.left;
      if (given.a != a || given.b != b || given.add != add) stop("wgmma: lanes of a warp give different descriptors");
    }
    // The four warps of a group issue the same products in the same order.
    if (block.warps.size() < number / 4 * 4 + 4) stop("wgmma: the warp group has fewer than four warps");
    std::vector<Multiplication>& issued = block.asynchronous.issued[number / 4];
    if (self.warp->issued == issued.size()) issued.push_back(product);
    const Multiplication& same = issued[self.warp->issued++];
    if (same.a != a || same.b != b || same.add != add || same.n != n || same.a_in_registers != product.a_in_registers) stop("wgmma: warps of a warp group give different descriptors");
    if (!block.launch->backward && block.number / 2 % 2) return finish_product(block, *self.warp, product);
    self.warp->products.push_back(product);
    ++self.warp->uncommitted;
  });
}

void wgmma_commit() {
  thread().fenced = false;
  for_warp("wgmma.commit_group", 0, [](const auto& lanes) {
    if (lanes.self == 0) thread().warp->groups.push_back(std::exchange(thread().warp->uncommitted, 0));
  });
}

void wgmma_wait(int newest) {
  Thread& self = thread();
  for_warp("wgmma.wait_group", newest, [](const auto&) {});
  // Lane 0 comes to the commit before it comes here.
  if (self.warp->groups.size() <= static_cast<size_t>(newest)) return;
  self.newest = newest;
  self.state = Thread::at_products;
  suspend_thread();
}

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

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address, const cuuint64_t* sizes, const cuuint64_t* strides,
                                const cuuint32_t* box, const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  using trefoil::cuda::emulation::TensorMap;
  const auto multiple = [](const void* pointer, uintptr_t of) { return reinterpret_cast<uintptr_t>(pointer) % of == 0; };
  const uint16_t bytes = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4 : 2;
  bool valid = multiple(map, 64) && (bytes == 4 || type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16) && rank >= 3 && rank <= 5 && multiple(address, 16);
  TensorMap encoded{TensorMap::kMark, static_cast<unsigned char*>(address), {1, 1, 1, 1, 1}, {bytes, 0, 0, 0, 0}, {1, 1, 1, 1, 1}, static_cast<uint16_t>(rank), static_cast<uint16_t>(swizzle), bytes};
  for (cuuint32_t i = 0; valid && i < rank; ++i) {
    valid = sizes[i] > 0 && sizes[i] <= uint64_t{1} << 32 && box[i] > 0 && box[i] <= 256 && steps[i] == 1;
    if (i > 0) valid = valid && strides[i - 1] % 16 == 0 && strides[i - 1] < uint64_t{1} << 40;
    // Each stride is a multiple of the one before, and reaches over its dimension.
    if (i > 1) valid = valid && strides[i - 1] % strides[i - 2] == 0 && strides[i - 1] / strides[i - 2] >= sizes[i - 1];
    encoded.sizes[i] = sizes[i];
    encoded.box[i] = static_cast<uint16_t>(box[i]);
    if (i > 0) encoded.strides[i] = strides[i - 1];
  }
  valid = valid && strides[0] >= sizes[0] * bytes && box[0] * bytes % 16 == 0;
  valid = valid && interleave == CU_TENSOR_MAP_INTERLEAVE_NONE && fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
  valid = valid && (swizzle == CU_TENSOR_MAP_SWIZZLE_NONE || (swizzle == CU_TENSOR_MAP_SWIZZLE_128B && box[0] * bytes <= 128));
  if (!valid) return CUDA_ERROR_INVALID_VALUE;
  __builtin_memcpy(map, &encoded, sizeof encoded);
  return CUDA_SUCCESS;
}

namespace trefoil::cuda {
EncodeTensorMap find_encode_tensor_map() { return &cuTensorMapEncodeTiled; }
}  // namespace trefoil::cuda
