#include "emulation/turns.h"

#include <algorithm>

#include "emulation/asynchronous.h"
#include "emulation/block.h"

namespace trefoil::cuda::emulation {

namespace {

// How many of whose writes are known to have happened.
void learn(Clock& clock, const Clock& other) {
  for (const auto& [writer, count] : other) clock[writer] = std::max(clock[writer], count);
}
uint64_t name_of(const Thread& thread) { return thread.block->number * 1024 + static_cast<uint64_t>(thread.number); }

}  // namespace

int32_t take_ticket(int32_t* counter) {
  if (thread().block->cluster.size() > 1) stop("take_ticket: blocks of a cluster start together, and would wait for each other");
  thread().block->launch->tickets = true;
  return (*counter)++;
}

void await_turn(const int32_t* turn, int32_t mine) {
  Thread& self = thread();
  self.turn = turn;
  self.own_turn = mine;
  while (*turn != mine) {
    self.state = Thread::at_turn;
    suspend_thread();
  }
  learn(self.known, self.block->launch->released[turn]);
}

void pass_turn(int32_t* turn, int32_t next) {
  Clock& released = thread().block->launch->released[turn];
  learn(released, thread().known);
  *turn = next;
}

void global_engine_fence() {
  Thread& self = thread();
  if (self.out_written) self.known[name_of(self)] = self.out_written;
  self.known_to_engine = self.known;
}

void check_turn(const void* to, size_t bytes) {
  Thread& self = thread();
  const auto* first = static_cast<const unsigned char*>(to);
  auto& written = self.block->launch->written;
  for (EngineWrite& write : written) {
    if (first + bytes <= write.first || write.last <= first) continue;
    if (self.known_to_engine[write.writer] < write.number) stop("two writes of the copy engine to global memory have no order: a turn, a wait or a fence is missing between them");
  }
  std::erase_if(written, [&](const EngineWrite& write) { return first <= write.first && write.last <= first + bytes; });
  written.push_back({first, first + bytes, name_of(self), self.out_sent += 1});
}

}  // namespace trefoil::cuda::emulation
