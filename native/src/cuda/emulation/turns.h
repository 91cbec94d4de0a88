// What blocks of a launch tell each other. The first ticket that is drawn has up to four blocks run at a time: device 0 gives each a turn, device 1
// goes on with the one that started last for as long as it can. What the copy engine does to global memory for one block must be ordered after
// what it did there for another: waited for, fenced, released, acquired and fenced again, or the launch ends with an error.
#pragma once
#include <cstddef>
#include <cstdint>

namespace trefoil::cuda::emulation {

int32_t take_ticket(int32_t* counter);
void await_turn(const int32_t* turn, int32_t mine);
void pass_turn(int32_t* turn, int32_t next);

// Before the thread has the copy engine write there.
void check_turn(const void* to, size_t bytes);

}  // namespace trefoil::cuda::emulation
