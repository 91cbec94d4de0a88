#include "emulation/block.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "emulation/asynchronous.h"
#include "emulation/fiber.h"
#include "error.h"

namespace trefoil::cuda::emulation {

thread_local Thread* current_thread = nullptr;

namespace {

thread_local std::string stopped;  // why the launch under way must end

// Fresh shared memory is NaN, so that a read before the first write shows.
void* poisoned(size_t bytes) {
  void* memory = std::aligned_alloc(128, (bytes + 127) / 128 * 128 + (bytes ? 0 : 128));
  if (!memory) throw std::bad_alloc();
  std::memset(memory, 0xFF, bytes);
  return memory;
}

std::string place(const Thread& thread) {
  char text[256];
  std::snprintf(text, sizeof text, "thread (%u, %u, %u) of block (%u, %u, %u)", thread.index.x, thread.index.y, thread.index.z,
                thread.block->index.x, thread.block->index.y, thread.block->index.z);
  return text;
}

std::string where(const Thread& thread) {
  switch (thread.state) {
    case Thread::finished: return place(thread) + " has returned";
    case Thread::at_barrier: return place(thread) + " waits at __syncthreads, " + thread.file + ":" + std::to_string(thread.line);
    case Thread::in_exchange: return place(thread) + " waits in " + thread.waits_for->name;
    case Thread::at_products: return place(thread) + " waits in wgmma.wait_group";
    case Thread::at_cluster: return place(thread) + " waits for its cluster";
    case Thread::at_stores: return place(thread) + " waits in cp.async.bulk.wait_group";
    case Thread::at_previous: return place(thread) + " waits for the launch before this one";
    case Thread::at_turn: return place(thread) + " waits for turn " + std::to_string(thread.own_turn) + " at a counter that is " + std::to_string(*thread.turn);
    case Thread::at_named: {
      const NamedBarrier& barrier = thread.block->asynchronous.named[thread.named];
      return place(thread) + " waits at named barrier " + std::to_string(thread.named) + ", where " + std::to_string(barrier.arrived.size()) + " of " +
             std::to_string(barrier.threads) + " threads are";
    }
    case Thread::at_mbarrier: {
      char missing[100];
      describe_barrier(*thread.block, thread.barrier, missing, sizeof missing);
      return place(thread) + " waits for an mbarrier's phase of parity " + std::to_string(thread.parity) + "; " + missing;
    }
    default: return place(thread) + " runs";
  }
}

void run_thread(void* argument) { (*static_cast<const std::function<void()>*>(argument))(); }

// One turn of a thread: until it waits or ends.
void step(Thread& thread, const std::function<void()>& kernel) {
  current_thread = &thread;
  if (!thread.fiber)
    thread.fiber = start(run_thread, const_cast<void*>(static_cast<const void*>(&kernel)));
  else
    resume(thread.fiber);
  if (!ended(thread.fiber)) return;
  discard(thread.fiber);
  thread.fiber = nullptr;
  thread.state = Thread::finished;
  thread.warp->finished |= 1u << thread.lane;
  if (!thread.pending_copies.empty() || !thread.committed_copies.empty())
    stopped = place(thread) + " returned before its cp.async copies were waited for";
  if (!thread.store_groups.empty() || thread.uncommitted_stores) stopped = place(thread) + " returned before its stores by the copy engine were committed and waited for";
  check_out();
  if (thread.block->launch->early && !thread.waited) stopped = place(thread) + " returned before it waited for the launch before this one";
  if (!thread.engine_stores.empty()) stopped = place(thread) + " wrote shared memory for the engine, and no fence.proxy.async and barrier followed";
}

// Turns for the threads of a warp until none can go on alone. Whether any had one.
bool run_warp(Block& block, size_t warp, bool backward, const std::function<void()>& kernel) {
  const size_t first = warp * 32, last = std::min(first + 32, block.threads.size());
  bool any = false;
  for (bool progress = true; progress && stopped.empty();) {
    progress = false;
    for (size_t i = first; i < last && stopped.empty(); ++i) {
      Thread& thread = block.threads[backward ? last - 1 - (i - first) : i];
      if (thread.state == Thread::in_exchange && thread.waits_for->complete) thread.state = Thread::ready;
      if (thread.state == Thread::at_named && named_passed(thread)) thread.state = Thread::ready;
      if (thread.state == Thread::at_mbarrier && barrier_passed(block, thread.barrier, thread.parity)) thread.state = Thread::ready;
      if (thread.state == Thread::at_turn && *thread.turn == thread.own_turn) thread.state = Thread::ready;
      if (thread.state == Thread::at_previous && block.launch->previous_ended) thread.state = Thread::ready;
      if (thread.state != Thread::ready) continue;
      step(thread, kernel);
      any = progress = true;
    }
  }
  return any;
}

// All threads wait or have returned: lets them pass the barrier, or says why they may not.
bool pass_barrier(Block& block) {
  for (const Thread& thread : block.threads)
    if (thread.state == Thread::at_turn || thread.state == Thread::at_previous) return false;
  const Thread* finished = nullptr;
  const Thread* waiting = nullptr;
  for (const Thread& thread : block.threads) {
    if (thread.state == Thread::finished) {
      finished = &thread;
      continue;
    }
    if (thread.state == Thread::in_exchange) {
      std::string others;
      for (const Thread& other : block.threads)
        if (other.warp == thread.warp && (thread.waits_for->mask >> other.lane & 1u) && other.waits_for != thread.waits_for) {
          others = "; " + where(other);
          break;
        }
      stopped = "divergent warp: " + where(thread) + others;
      return false;
    }
    if (thread.state == Thread::at_mbarrier || thread.state == Thread::at_named || thread.state == Thread::at_cluster) {
      stopped = "deadlock: " + where(thread);
      return false;
    }
    if (waiting && (waiting->line != thread.line || (waiting->file != thread.file && std::strcmp(waiting->file, thread.file) != 0))) {
      stopped = "divergent barrier: " + where(*waiting) + "; " + where(thread);
      return false;
    }
    waiting = &thread;
  }
  if (!waiting) return false;
  if (finished) {
    stopped = "divergent barrier: " + where(*waiting) + "; " + where(*finished);
    return false;
  }
  block.last_predicate_count = block.predicate_count;
  block.predicate_count = 0;
  for (Thread& thread : block.threads) thread.state = Thread::ready;
  return true;
}

bool all_threads(const Block& block, Thread::State state) {
  return std::all_of(block.threads.begin(), block.threads.end(), [&](const Thread& thread) { return thread.state == state; });
}

// Turns for all warps, until something must happen beside them or at a barrier. False: the block has ended, or waits for another one.
bool advance(Block& block, const std::function<void()>& kernel) {
  const bool backward = block.launch->backward;
  const size_t warps = block.warps.size();
  bool any = false;
  const auto turns = [&] {
    bool some = false;
    for (size_t warp = 0; warp < warps && stopped.empty(); ++warp) some |= run_warp(block, backward ? warps - 1 - warp : warp, backward, kernel);
    any |= some;
    return some && !block.asynchronous.barriers.empty();  // a warp may have ended a phase that one before it waits for
  };
  while (turns());
  return stopped.empty() && (finish_asynchronous(block, backward) || pass_barrier(block) || any);
}

bool waits_for_previous(const Block& block) {
  return std::any_of(block.threads.begin(), block.threads.end(), [](const Thread& thread) { return thread.state == Thread::at_previous; });
}

// The same for the blocks of a cluster.
bool pass_barriers(std::span<Block> blocks) {
  if (std::any_of(blocks.begin(), blocks.end(), waits_for_previous)) return false;
  if (std::all_of(blocks.begin(), blocks.end(), [](const Block& block) { return all_threads(block, Thread::at_cluster); })) {
    for (Block& block : blocks) {
      block.met = true;
      for (Thread& thread : block.threads) thread.state = Thread::ready;
    }
    return true;
  }
  for (Block& block : blocks)
    if (all_threads(block, Thread::at_barrier)) return pass_barrier(block);
  for (Block& block : blocks)
    if (!all_threads(block, Thread::at_cluster) && pass_barrier(block)) return true;  // or says what is wrong
  for (Block& block : blocks)
    if (stopped.empty() && !all_threads(block, Thread::finished)) pass_barrier(block);
  return false;
}

void run_cluster(std::span<Block> blocks, bool backward, const std::function<void()>& kernel) {
  const auto next = [&](size_t i, size_t count) { return backward ? count - 1 - i : i; };
  const auto turns = [&] {
    bool any = false, barriers = false;
    for (size_t i = 0; i < blocks.size(); ++i) {
      Block& block = blocks[next(i, blocks.size())];
      const size_t warps = block.warps.size();
      for (size_t warp = 0; warp < warps && stopped.empty(); ++warp) any |= run_warp(block, next(warp, warps), backward, kernel);
      barriers |= !block.asynchronous.barriers.empty();
    }
    return any && barriers;  // a warp may have ended a phase that one before it waits for
  };
  const auto finish_one = [&] {
    for (size_t i = 0; i < blocks.size(); ++i)
      if (finish_asynchronous(blocks[next(i, blocks.size())], backward)) return true;
    return false;
  };
  do
    while (turns());
  while (stopped.empty() && (finish_one() || pass_barriers(blocks)));
}

void prepare(Block& block) {
  const size_t count = block.threads.size();
  block.predicate_count = 0;
  block.met = false;
  for (Warp& warp : block.warps) {
    warp.members = warp.finished = 0;
    for (Exchange& exchange : warp.exchanges) exchange.readers = 0, exchange.arrived = 0, exchange.complete = false, exchange.mask = 0;
    warp.products.clear();
    warp.groups.clear();
    warp.uncommitted = warp.issued = 0;
  }
  block.asynchronous = {};
  block.asynchronous.issued.resize((block.warps.size() + 3) / 4);
  for (size_t i = 0; i < count; ++i) {
    Thread& thread = block.threads[i];
    const unsigned number = static_cast<unsigned>(i);
    thread.index = dim3(number % block.size.x, number / block.size.x % block.size.y, number / (block.size.x * block.size.y));
    thread.number = static_cast<int>(i);
    thread.lane = static_cast<int>(i % 32);
    thread.block = &block;
    thread.warp = &block.warps[i / 32];
    thread.warp->members |= 1u << thread.lane;
    thread.state = Thread::ready;
    thread.waits_for = nullptr;
    thread.fenced = false;
    thread.registers = 0;
    thread.sums.clear();
    thread.engine_stores.clear();
    thread.fenced_stores = 0;
    thread.box_stores.clear();
    thread.store_groups.clear();
    thread.uncommitted_stores = 0;
    thread.outgoing.clear();
    thread.out_sent = thread.out_written = 0;
    thread.known.clear();
    thread.known_to_engine.clear();
    thread.waited = false;
  }
}

void create(Block& block, dim3 grid, dim3 size, Launch& launch) {
  block.launch = &launch;
  block.size = size;
  block.grid = grid;
  block.threads.resize(size_t{size.x} * size.y * size.z);
  block.warps.resize((block.threads.size() + 31) / 32);
}

void begin(Block& block, uint64_t number, size_t shared_bytes) {
  block.number = number;
  block.index = dim3(static_cast<unsigned>(number % block.grid.x), static_cast<unsigned>(number / block.grid.x % block.grid.y),
                     static_cast<unsigned>(number / (uint64_t{block.grid.x} * block.grid.y)));
  prepare(block);
  block.dynamic_bytes = shared_bytes;
  if (shared_bytes) block.dynamic_shared = poisoned(shared_bytes);
}

// Its shared memory.
void release(Block& block) {
  for (const SharedVariable& variable : block.shared) std::free(variable.memory);
  block.shared.clear();
  std::free(block.dynamic_shared);
  block.dynamic_shared = nullptr;
}

// Of so many blocks (clusters) of a launch these run, by TREFOIL_EMULATED_BLOCKS: all where it is not set, else so many, the first and the last:
// results are then not the op's, but launches of any size end, and their addresses show.
struct Sample {
  explicit Sample(uint64_t all) : all(all), count(all) {
    const char* most = std::getenv("TREFOIL_EMULATED_BLOCKS");
    if (most) count = std::min<uint64_t>(all, std::strtoull(most, nullptr, 10));
  }
  uint64_t number(uint64_t i) const { return 2 * i < count ? i : all - count + i; }
  uint64_t all, count;
};

// One cluster after another.
class Clusters {
 public:
  Clusters(dim3 grid, dim3 size, size_t shared_bytes, unsigned cluster, Launch& launch)
      : shared_bytes_(shared_bytes), launch_(launch), sample_(uint64_t{grid.x} * grid.y * grid.z / cluster), together_(cluster) {
    for (Block& block : together_) {
      create(block, grid, size, launch);
      block.cluster = together_;
      block.rank = static_cast<size_t>(&block - together_.data());
    }
  }
  ~Clusters() {
    for (Block& block : together_) {
      release(block);
      for (Thread& thread : block.threads)
        if (thread.fiber) discard(thread.fiber);
    }
  }
  Clusters(const Clusters&) = delete;

  // The next one, or what is left of the one that waits. False: it waits again, or none is left.
  bool advance(const std::function<void()>& kernel) {
    if (!begun_) {
      if (next_ == sample_.count) return false;
      const uint64_t number = sample_.number(launch_.backward ? sample_.count - 1 - next_ : next_);
      for (Block& block : together_) begin(block, number * together_.size() + block.rank, shared_bytes_);
      begun_ = true;
      ++next_;
    }
    run_cluster(together_, launch_.backward, kernel);
    if (!stopped.empty() || std::any_of(together_.begin(), together_.end(), waits_for_previous)) return false;
    for (Block& block : together_)
      if (stopped.empty()) check_asynchronous(block);
    for (Block& block : together_) release(block);
    begun_ = false;
    return stopped.empty();
  }

 private:
  size_t shared_bytes_;
  Launch& launch_;
  Sample sample_;
  std::vector<Block> together_;
  uint64_t next_ = 0;
  bool begun_ = false;
};

// The blocks of a launch that run.
class Resident {
 public:
  Resident(dim3 grid, dim3 size, size_t shared_bytes, Launch& launch) : grid_(grid), size_(size), shared_bytes_(shared_bytes), launch_(launch), sample_(uint64_t{grid.x} * grid.y * grid.z), left_(sample_.count) {}
  ~Resident() {
    for (auto* blocks : {&running_, &idle_})
      for (auto& block : *blocks) {
        release(*block);
        for (Thread& thread : block->threads)
          if (thread.fiber) discard(thread.fiber);
      }
  }
  Resident(const Resident&) = delete;

  // A turn for each, or on device 1 as many as it takes for the last one that can go on. False: none is left, or none can.
  bool advance(const std::function<void()>& kernel) {
    while (left_ > 0 && running_.size() < (launch_.tickets ? kMost : 1)) start();
    if (running_.empty()) return false;
    bool any = false;
    for (size_t i = 0; i < running_.size() && stopped.empty() && !(any && launch_.backward); ++i) {
      Block& block = *running_[launch_.backward ? running_.size() - 1 - i : i];
      any |= emulation::advance(block, kernel);
    }
    const auto ended = std::stable_partition(running_.begin(), running_.end(), [](const auto& block) { return !has_ended(*block); });
    any |= ended != running_.end();
    for (auto block = ended; block != running_.end() && stopped.empty(); ++block) check_asynchronous(**block);
    for (auto block = ended; block != running_.end(); ++block) {
      release(**block);
      idle_.push_back(std::move(*block));
    }
    running_.erase(ended, running_.end());
    if (!any && stopped.empty()) {
      for (const Thread& thread : running_.front()->threads)
        if (thread.state == Thread::at_turn) stopped = "deadlock: " + where(thread);
    }
    return any && stopped.empty();
  }

 private:
  static constexpr size_t kMost = 4;

  void start() {
    if (idle_.empty()) {
      Block& block = *idle_.emplace_back(std::make_unique<Block>());
      create(block, grid_, size_, launch_);
      block.cluster = {&block, 1};
    }
    Block& block = *running_.emplace_back(std::move(idle_.back()));
    idle_.pop_back();
    --left_;
    begin(block, sample_.number(launch_.backward ? left_ : sample_.count - 1 - left_), shared_bytes_);
  }

  dim3 grid_, size_;
  size_t shared_bytes_;
  Launch& launch_;
  Sample sample_;
  uint64_t left_;  // to be started
  std::vector<std::unique_ptr<Block>> running_, idle_;
};

}  // namespace

bool has_ended(const Block& block) { return all_threads(block, Thread::finished); }

void stop(const char* format, ...) {
  char message[300];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  if (stopped.empty()) stopped = place(thread()) + ": " + message;
  suspend();
  std::abort();  // a stopped fiber is never resumed
}

void halt(const char* format, ...) {
  char message[300];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  if (stopped.empty()) stopped = message;
}

void suspend_thread() { suspend(); }

void sync_threads(const char* file, int line) {
  Thread& self = thread();
  finish_engine_stores();
  self.file = file;
  self.line = line;
  self.state = Thread::at_barrier;
  suspend();
}

int sync_threads_count(const char* file, int line, bool predicate) {
  thread().block->predicate_count += predicate;
  sync_threads(file, line);
  return thread().block->last_predicate_count;
}

void* shared_memory(const void* declaration, size_t bytes) {
  std::vector<SharedVariable>& all = thread().block->shared;
  for (const SharedVariable& variable : all)
    if (variable.declaration == declaration) return variable.memory;
  const uint32_t address = place_variable(*thread().block, bytes);
  return all.emplace_back(SharedVariable{declaration, poisoned(bytes), bytes, address}).memory;
}

void* dynamic_shared_memory() {
  if (!thread().block->dynamic_shared) stop("the launch gave no dynamic shared memory");
  return thread().block->dynamic_shared;
}

Exchange& arrive(uint32_t mask, const char* name, const void* value, size_t bytes) {
  Thread& self = thread();
  Warp& warp = *self.warp;
  if (!(mask >> self.lane & 1u)) stop("%s with mask %08x, in which the calling lane %d is missing", name, mask, self.lane);
  mask &= warp.members;
  Exchange* mine = nullptr;
  for (Exchange& exchange : warp.exchanges)
    if (exchange.readers && !exchange.complete && exchange.mask == mask) mine = &exchange;
  if (!mine) {
    for (Exchange& exchange : warp.exchanges)
      if (!exchange.readers) {
        mine = &exchange;
        break;
      }
    if (!mine) stop("%s: more than 4 exchanges under way in one warp", name);
    mine->mask = mask;
    mine->arrived = 0;
    mine->complete = false;
    mine->name = name;
    mine->readers = __builtin_popcount(mask);
  }
  if (mine->name != name && std::strcmp(mine->name, name) != 0) stop("divergent warp: this lane is in %s, others are in %s", name, mine->name);
  std::memcpy(mine->values[self.lane], value, bytes);
  mine->arrived |= 1u << self.lane;
  if (mine->arrived == mine->mask) {
    mine->complete = true;
    return *mine;
  }
  self.waits_for = mine;
  self.state = Thread::in_exchange;
  suspend();
  return *mine;
}

void leave(Exchange& exchange) {
  thread().waits_for = nullptr;
  --exchange.readers;
}

void wait_for_previous() {
  Thread& self = thread();
  self.waited = true;
  if (self.block->launch->previous_ended) return;
  // What is copied asynchronously may have been read by now.
  for (auto* copies : {&self.pending_copies, &self.committed_copies})
    for (auto& copy : *copies) std::exchange(copy, [] {})();
  self.state = Thread::at_previous;
  suspend();
}

struct Grid::Blocks {
  std::optional<Clusters> clusters;
  std::optional<Resident> resident;
};

Grid::Grid(const Submission& submission, bool backward) : submission_(submission), launch_{backward, submission.early}, blocks_(std::make_unique<Blocks>()) {
  const auto& [grid, block, shared_bytes, cluster, early, kernel] = submission_;
  const size_t threads = size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024) fail(TREFOIL_INTERNAL, "a block of %zu threads cannot be launched", threads);
  if (cluster == 0 || cluster > 8 || grid.x % cluster) fail(TREFOIL_INTERNAL, "a grid of %u blocks in x cannot be launched in clusters of %u", grid.x, cluster);
  if (cluster > 1) blocks_->clusters.emplace(grid, block, shared_bytes, cluster, launch_);
  else blocks_->resident.emplace(grid, block, shared_bytes, launch_);
}
Grid::~Grid() = default;

void Grid::advance() {
  Thread* const outer = current_thread;
  stopped.clear();
  while (blocks_->clusters ? blocks_->clusters->advance(submission_.kernel) : blocks_->resident->advance(submission_.kernel));
  current_thread = outer;
  if (!stopped.empty()) fail(TREFOIL_INTERNAL, "emulated kernel: %s", std::string(stopped).c_str());
}

void Grid::start() {
  launch_.previous_ended = false;
  advance();
}

void Grid::finish() {
  launch_.previous_ended = true;
  advance();
}

}  // namespace trefoil::cuda::emulation
