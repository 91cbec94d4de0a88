// One block per row of a tensor seen as [rows, last dimension].
#pragma once
#include "kernel.h"

namespace trefoil::cuda {

// body(i) for this thread's share of [0, n). Neighbouring threads take neighbouring elements.
template <class Body>
__device__ __forceinline__ void for_each_element(int64_t n, const Body& body) {
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) body(i);
}

struct Rows {
  int64_t count, length;
  explicit Rows(const TrefoilView& view) : count(row_count(view)), length(last_dimension(view)) {}
  bool empty() const { return count == 0 || length == 0; }
  // Threads of a block: about four elements each, 32 to 512.
  unsigned threads() const {
    unsigned threads = 32;
    while (threads < 512 && threads * 4 < length) threads *= 2;
    return threads;
  }
  Shape shape(const Context& context) const { return {context.grid(count, 1, 16), threads()}; }
};

}  // namespace trefoil::cuda
