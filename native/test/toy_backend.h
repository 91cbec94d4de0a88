// A backend for the tests of the runtime: a few ops on f32, in memory that the host cannot follow by mistake.
#pragma once
#include <memory>

#include "runtime/device.h"

namespace trefoil::test {

// Ops: add(x, y) -> z; scale(x) -> y, attribute: factor; accumulate_(total, x) -> total in place; sum_via_workspace(x) -> y scalar;
// nap() -> y, attribute: milliseconds; fail() -> y; divide_by_zero(x) -> y.
// host_memory: whether it says that the host may touch its memory; if not, its pointers are shifted.
std::shared_ptr<runtime::Device> open_toy_device(bool host_memory);

// Blocks that were not yet given back when their device was closed, over all devices so far.
int64_t toy_blocks_left();

}  // namespace trefoil::test
