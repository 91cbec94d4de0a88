// The emulated execution model: one block or cluster at a time, or a few blocks where they tell each other of their work (turns.h), threads as fibers that take
// turns at barriers. A thread that leaves while others wait for it, or waits elsewhere than they do, is an error with a name: on a device it
// would hang or compute nonsense.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "platform.h"
#include "emulation/tensor_map.h"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace trefoil::cuda::emulation {

struct Fiber;
struct Block;

// One exchange between the lanes of a warp: complete once all lanes of `mask` have arrived.
struct Exchange {
  uint32_t mask = 0, arrived = 0;
  int readers = 0;  // lanes that have yet to read; 0: the slot is free
  bool complete = false;
  const char* name = nullptr;
  alignas(16) unsigned char values[32][64];
};

// A product of a warp group that a warp has issued, with each lane's registers; see asynchronous.h.
struct Multiplication {
  uint64_t a, b;  // descriptors
  int n;
  bool add, a_across, b_across, a_in_registers;
  float* registers[32];
  const uint32_t* left[32];  // where a is in registers
};
// A lane's sums while products that write them are under way: its registers read as NaN meanwhile.
struct Sums {
  float* registers;
  int count, products;
  float values[128];
};

// A store of the copy engine that a thread has asked for.
struct BoxStore {
  CUtensorMap map;
  uint32_t from;
  int at[5];
  bool done;
};
// Shared memory that a thread has written and the engine does not see yet.
struct EngineStore {
  void* to;
  size_t bytes;
  unsigned char value[16];
};

struct Warp {
  uint32_t members = 0, finished = 0;
  Exchange exchanges[4];
  std::vector<Multiplication> products;  // under way, oldest first
  std::vector<size_t> groups;            // how many of them each committed group has
  size_t uncommitted = 0, issued = 0;
};

// What the copy engine is to write to global memory for a thread.
struct Outgoing {
  float* to;
  uint32_t from, bytes;
  bool add, committed;
  std::vector<float> values;  // once they are read
};
using Clock = std::map<uint64_t, uint32_t>;

struct Thread {
  dim3 index;
  int number, lane;
  Block* block;
  Warp* warp;
  Fiber* fiber = nullptr;
  enum State { ready, at_barrier, in_exchange, at_mbarrier, at_named, at_products, at_stores, at_cluster, at_turn, at_previous, finished } state = ready;
  const char* file = nullptr;  // of the barrier it waits at
  int line = 0;
  const uint64_t* barrier = nullptr;  // of the mbarrier, until its phase of this parity has ended
  uint32_t parity = 0;
  int named = 0;             // the named barrier it waits at, in its phase named_phase
  uint32_t named_phase = 0;
  int newest = 0;  // groups of products that may still be under way
  bool fenced = false;
  int registers = 0;  // by setmaxnreg
  std::vector<Sums> sums;
  const int32_t* turn = nullptr;  // the counter that it waits for, to become own_turn
  int32_t own_turn = 0;
  bool waited = false;  // for the launch before this one
  std::vector<Outgoing> outgoing;
  uint32_t out_sent = 0, out_written = 0;
  Clock known, known_to_engine;  // writes of other threads' copy engines that came before: see turns.cc
  std::vector<EngineStore> engine_stores;  // shared memory written for the engine that it does not see yet
  size_t fenced_stores = 0;                          // how many of them a fence has followed
  std::vector<BoxStore> box_stores;     // under way, oldest first
  std::vector<size_t> store_groups;     // how many of them each committed group has
  size_t uncommitted_stores = 0;
  int newest_stores = 0;
  Exchange* waits_for = nullptr;
  std::vector<std::function<void()>> pending_copies, committed_copies;  // cp.async: see mma.h
  std::vector<size_t> committed_groups;
};

struct SharedVariable {
  const void* declaration;
  void* memory;
  size_t bytes;
  uint32_t address;  // in the window that instructions see
};

struct Barrier {
  uint64_t* at;
  uint32_t arrivals, pending;
  int64_t bytes;  // expected and not yet copied
  uint32_t phase;
  bool fenced;
};
struct NamedBarrier {
  int threads = 0;
  uint32_t phase = 0;
  std::vector<int> arrived;  // numbers of threads
};
struct Copy {
  CUtensorMap map;
  const void* from;  // of plain bytes; null: a box
  uint32_t to, bytes;
  int at[5];
  uint32_t barrier;  // where it is in the window
  size_t target;     // the block of the cluster
};
struct Asynchronous {
  std::vector<Barrier> barriers;
  NamedBarrier named[16];
  std::vector<Copy> copies;                        // under way, oldest first
  std::vector<std::vector<Multiplication>> issued;  // by each warp group
};

// The last write of the copy engine to [first, last) of global memory: the writer's `number`-th.
struct EngineWrite {
  const unsigned char *first, *last;
  uint64_t writer;
  uint32_t number;
};
struct Launch {
  bool backward;
  bool early = false;  // begins before the one before it has ended: each thread must wait for that
  bool previous_ended = true;
  bool tickets = false;  // have been drawn
  std::map<const int32_t*, Clock> released;  // with each turn
  std::vector<EngineWrite> written;
};

struct Block {
  Launch* launch;
  uint64_t number;
  dim3 index, size, grid;
  std::span<Block> cluster;  // itself among them
  size_t rank = 0;
  bool met = false;  // its cluster, at a barrier of it: before that the others may not have begun
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<SharedVariable> shared;  // allocated one by one, so that AddressSanitizer sees their ends
  void* dynamic_shared = nullptr;
  size_t dynamic_bytes = 0;
  Asynchronous asynchronous;
  int predicate_count = 0, last_predicate_count = 0;
};

extern thread_local Thread* current_thread;
inline Thread& thread() { return *current_thread; }

// Ends the launch with an error that names the kernel's place. Does not return: the fiber is left where it is.
[[noreturn]] void stop(const char* format, ...) __attribute__((format(printf, 1, 2)));

// The same from outside of a thread: returns, and nothing more is run.
void halt(const char* format, ...) __attribute__((format(printf, 1, 2)));
void suspend_thread();  // its state says until when
void wait_for_previous();
bool has_ended(const Block& block);
uint32_t place_variable(const Block& block, size_t bytes);

void sync_threads(const char* file, int line);
int sync_threads_count(const char* file, int line, bool predicate);
void* shared_memory(const void* declaration, size_t bytes);
void* dynamic_shared_memory();

Exchange& arrive(uint32_t mask, const char* name, const void* value, size_t bytes);  // waits until all lanes have arrived
void leave(Exchange& exchange);

template <class T>
T& shared(const void* declaration) { return *static_cast<T*>(shared_memory(declaration, sizeof(T))); }

// What the lanes of an exchange gave. A lane that took no part reads as 0xFF bytes: NaN.
template <class T>
struct Lanes {
  const Exchange& exchange;
  int self;
  bool present(int lane) const { return exchange.arrived >> lane & 1u; }
  T operator[](int lane) const {
    T value;
    if (present(lane))
      __builtin_memcpy(&value, exchange.values[lane], sizeof value);
    else
      __builtin_memset(static_cast<void*>(&value), 0xFF, sizeof value);
    return value;
  }
};

// Every lane of mask gives a value; read(lanes) makes this lane's result from all of them.
template <class T, class Read>
auto collective(uint32_t mask, const char* name, const T& value, const Read& read) {
  static_assert(sizeof(T) <= sizeof(Exchange::values[0]));
  Exchange& exchange = arrive(mask, name, &value, sizeof value);
  auto result = read(Lanes<T>{exchange, thread().lane});
  leave(exchange);
  return result;
}

struct Submission {
  dim3 grid, block;
  size_t shared_bytes;
  unsigned cluster;
  bool early;  // see launch.h
  std::function<void()> kernel;
};
// Runs a grid now, or records it where the stream is capturing. Throws KernelError for what stop() reports, as does Grid.
void submit(platform::Stream stream, Submission submission);

class Grid {
 public:
  Grid(const Submission& submission, bool backward);
  ~Grid();
  Grid(const Grid&) = delete;
  void start();   // an early one, while the one before it has not begun: its first block (cluster), as far as that comes
  void finish();

 private:
  struct Blocks;
  void advance();
  Submission submission_;
  Launch launch_;
  std::unique_ptr<Blocks> blocks_;
};

}  // namespace trefoil::cuda::emulation
