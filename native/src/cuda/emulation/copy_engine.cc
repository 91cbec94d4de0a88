// The emulated copy engine: boxes and bytes into shared memory and out of it.
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "emulation/asynchronous_parts.h"
#include "emulation/turns.h"
#include "hopper.h"

namespace trefoil::cuda::emulation {

namespace {

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

void check_fenced(uint64_t* barrier) {
  if (!barrier_at(barrier, "copy").fenced) stop("copy: no fence.mbarrier_init has made the mbarrier known to the copy engine");
}

void read_out(Outgoing& out) {
  if (!out.values.empty()) return;
  const unsigned char* memory = at_address(*thread().block, out.from, out.bytes);
  if (!memory) stop("copy_out: it reaches beyond shared memory");
  out.values.resize(out.bytes / 4);
  std::memcpy(out.values.data(), memory, out.bytes);
}
void write_out(const Outgoing& out) {
  for (size_t i = 0; i < out.values.size(); ++i) out.to[i] = out.add ? out.to[i] + out.values[i] : out.values[i];
  ++thread().out_written;
}
void send_out(float* to, const void* from, uint32_t bytes, bool add) {
  Thread& self = thread();
  const uint32_t address = shared_address(from);
  if (address % 16 != 0 || reinterpret_cast<uintptr_t>(to) % 16 != 0 || bytes % 16 != 0 || bytes == 0) stop("copy_out: an address, or the size, is not a multiple of 16");
  check_turn(to, bytes);
  Outgoing& out = self.outgoing.emplace_back(Outgoing{to, address, bytes, add, false, {}});
  if (self.block->launch->backward) read_out(out);
}

}  // namespace

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
