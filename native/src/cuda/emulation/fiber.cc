#if defined(__APPLE__)
// ucontext.h asks for the first, which hides MAP_ANONYMOUS without the second.
#define _XOPEN_SOURCE 700
#define _DARWIN_C_SOURCE
#endif
#include "emulation/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#define TREFOIL_SWITCH_BY_HAND 1
#else
#define TREFOIL_SWITCH_BY_HAND 0
#include <ucontext.h>
#endif

namespace trefoil::cuda::emulation {

namespace {
constexpr size_t kStackBytes = size_t{1} << 18;  // address space; only pages that are touched cost memory
}

struct Fiber {
  void* stack;
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  bool ended = false;
  void* sanitizer_stack = nullptr;
#if TREFOIL_SWITCH_BY_HAND
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  Fiber() : stack(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (stack == MAP_FAILED) throw std::bad_alloc();
  }
  ~Fiber() { munmap(stack, kStackBytes); }
};

namespace {

struct Scheduler {
#if TREFOIL_SWITCH_BY_HAND
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  Fiber* running = nullptr;
  void* sanitizer_stack = nullptr;
  const void* stack_bottom = nullptr;
  size_t stack_size = 0;
  std::vector<std::unique_ptr<Fiber>> all;
  std::vector<Fiber*> idle;
};
thread_local Scheduler scheduler;

void run_fiber();

}  // namespace

#if TREFOIL_SWITCH_BY_HAND
// Saves the registers that a function must keep, swaps stacks, restores. Never inlined: the call saves the rest.
extern "C" void trefoil_switch_stack(void** save, void* load);
asm(R"(
.text
.globl trefoil_switch_stack
.hidden trefoil_switch_stack
.type trefoil_switch_stack, @function
trefoil_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size trefoil_switch_stack, .-trefoil_switch_stack
)");

namespace {
void prepare(Fiber* fiber) {
  void** top = reinterpret_cast<void**>(static_cast<char*>(fiber->stack) + kStackBytes);
  *--top = nullptr;  // where a return address would be: the stack is aligned as at a function's entry
  *--top = reinterpret_cast<void*>(run_fiber);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber->stack_pointer = top;
}
void to_fiber(Fiber* fiber) { trefoil_switch_stack(&scheduler.stack_pointer, fiber->stack_pointer); }
void to_scheduler(Fiber* fiber) { trefoil_switch_stack(&fiber->stack_pointer, scheduler.stack_pointer); }
}  // namespace
#else
namespace {
void prepare(Fiber* fiber) {
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack;
  fiber->context.uc_stack.ss_size = kStackBytes;
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, run_fiber, 0);
}
void to_fiber(Fiber* fiber) { swapcontext(&scheduler.context, &fiber->context); }
void to_scheduler(Fiber* fiber) { swapcontext(&fiber->context, &scheduler.context); }
}  // namespace
#endif

namespace {

void entered_fiber([[maybe_unused]] Fiber* fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber->sanitizer_stack, &scheduler.stack_bottom, &scheduler.stack_size);
#endif
}

void back([[maybe_unused]] Fiber* fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fiber->ended ? nullptr : &fiber->sanitizer_stack, scheduler.stack_bottom, scheduler.stack_size);
#endif
  to_scheduler(fiber);
  entered_fiber(fiber);
}

void run_fiber() {
  Fiber* fiber = scheduler.running;
  entered_fiber(fiber);
  fiber->body(fiber->argument);
  fiber->ended = true;
  back(fiber);
}

void turn(Fiber* fiber) {
  scheduler.running = fiber;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&scheduler.sanitizer_stack, fiber->stack, kStackBytes);
#endif
  to_fiber(fiber);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(scheduler.sanitizer_stack, nullptr, nullptr);
#endif
  scheduler.running = nullptr;
}

}  // namespace

Fiber* start(void (*body)(void*), void* argument) {
  if (scheduler.idle.empty()) scheduler.idle.push_back(scheduler.all.emplace_back(std::make_unique<Fiber>()).get());
  Fiber* fiber = scheduler.idle.back();
  scheduler.idle.pop_back();
  fiber->body = body;
  fiber->argument = argument;
  fiber->ended = false;
  fiber->sanitizer_stack = nullptr;
  prepare(fiber);
  turn(fiber);
  return fiber;
}

void resume(Fiber* fiber) { turn(fiber); }
bool ended(const Fiber* fiber) { return fiber->ended; }
void suspend() { back(scheduler.running); }
void discard(Fiber* fiber) { scheduler.idle.push_back(fiber); }

}  // namespace trefoil::cuda::emulation
