// Many tensors cut into chunks of fixed size: one flat list of tasks, whatever the number of threads.
#pragma once
#include "kernel.h"
#include "work_split.h"

namespace trefoil::cpu::TREFOIL_ISA {

struct TensorChunks {
  static constexpr int64_t size = 16384;
  int64_t* first;  // [tensors + 1]: the number of the first chunk of each tensor
  int tensors;

  int64_t count() const { return first[tensors]; }

  // Tensor that holds chunk `task`: the last one that begins at or before it and is not empty.
  int tensor_of(int64_t task) const {
    int low = 0, high = tensors;
    while (high - low > 1) {
      int middle = (low + high) / 2;
      (first[middle] <= task ? low : high) = middle;
    }
    return low;
  }
};

// The tensors are views[0], views[step], …; storage holds tensors + 1 numbers.
inline TensorChunks cut(const TrefoilView* views, int tensors, int step, int64_t* storage) {
  TensorChunks chunks{storage, tensors};
  storage[0] = 0;
  for (int i = 0; i < tensors; ++i) storage[i + 1] = storage[i] + ceil_divide(elements(views[i * step]), TensorChunks::size);
  return chunks;
}

}  // namespace trefoil::cpu::TREFOIL_ISA
