// How kernels cut work into tasks: by size only, never by the number of threads.
#pragma once
#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows per task so that a task does about `elements` elements of work.
inline int64_t rows_per_task(int64_t row_elements, int64_t elements = 32768) {
  int64_t rows = elements / (row_elements > 0 ? row_elements : 1);
  return rows > 0 ? rows : 1;
}

// Runs body(begin, end) over [0, count) in ranges of `grain`.
template <class Body>
void parallel_ranges(Context& context, int64_t count, int64_t grain, const Body& body) {
  context.parallel(ceil_divide(count, grain), [&](int64_t task) {
    int64_t begin = task * grain, end = begin + grain;
    body(begin, end < count ? end : count);
  });
}

}  // namespace trefoil::cpu::TREFOIL_ISA
