// Fibers: stacks of their own, switched by hand.
#pragma once
#include <cstddef>

namespace trefoil::cuda::emulation {

struct Fiber;

// Runs body(argument) on a fiber, until it returns or calls suspend(). One scheduler per OS thread.
Fiber* start(void (*body)(void*), void* argument);  // first turn
void resume(Fiber* fiber);
bool ended(const Fiber* fiber);
void suspend();               // called on a fiber: back to the scheduler
void discard(Fiber* fiber);   // its stack is used again

}  // namespace trefoil::cuda::emulation
