// Errors that only the data shows (an index out of range): kernels note the first one in device memory and go on without touching
// memory out of bounds; synchronize() reports it.
#pragma once
#include <cstdint>

#include "language.h"

namespace trefoil::cuda {

struct ErrorRecord {
  int32_t set;
  const char* what;  // a host pointer, "gather_rows: index": passed through the device, read on the host
  int64_t value, position, least, bound;
  int64_t width;  // not 0: the position counts through rows of so many
};

// `what` names the operand, "gather_rows: index"; if it ends in [] the message reads "moe: offsets[3] is 7; it must be …".
// Of many threads the first to arrive is kept. `what` is a string literal of the host code.
__device__ inline void report_index(ErrorRecord* errors, const char* what, int64_t value, int64_t position, int64_t least, int64_t bound,
                                    int64_t width = 0) {
  if (atomicCAS(&errors->set, 0, 1) != 0) return;
  errors->what = what;
  errors->value = value;
  errors->position = position;
  errors->least = least;
  errors->bound = bound;
  errors->width = width;
}

// value in [least, bound), else reported.
__device__ inline bool index_in_range(ErrorRecord* errors, const char* what, int64_t value, int64_t position, int64_t least, int64_t bound,
                                      int64_t width = 0) {
  if (value >= least && value < bound) return true;
  report_index(errors, what, value, position, least, bound, width);
  return false;
}

}  // namespace trefoil::cuda
