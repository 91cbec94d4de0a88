// Work over many tensors in few launches: their addresses and sizes travel as a kernel argument, and blocks count through chunks of all.
#pragma once
#include "kernel.h"

namespace trefoil::cuda {

constexpr int kListTensors = 48;      // with `pointers` addresses each: well within the 4 KiB of a kernel's arguments
constexpr int64_t kListChunk = 8192;  // elements of a chunk; one block does one chunk at a time

template <int pointers, int extras>
struct TensorList {
  int tensors;
  float* data[kListTensors][pointers];
  int64_t count[kListTensors];
  int64_t first_chunk[kListTensors + 1];
  float extra[kListTensors][extras ? extras : 1];

  int64_t chunks() const { return first_chunk[tensors]; }
  __device__ __forceinline__ int tensor_of(int64_t chunk) const {
    int low = 0, high = tensors;  // first_chunk[low] <= chunk < first_chunk[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (first_chunk[middle] <= chunk)
        low = middle;
      else
        high = middle;
    }
    return low;
  }
};

// fill(list, at, tensor) sets the addresses, count and extras of a tensor; run(list) launches. Tensors without elements are left out.
template <class List, class Fill, class Run>
void for_each_list(int tensors, const Fill& fill, const Run& run) {
  for (int next = 0; next < tensors;) {
    List list{};
    for (; next < tensors && list.tensors < kListTensors; ++next) {
      fill(list, list.tensors, next);
      const int at = list.tensors;
      if (list.count[at] == 0) continue;
      list.first_chunk[at + 1] = list.first_chunk[at] + ceil_divide(list.count[at], kListChunk);
      ++list.tensors;
    }
    if (list.tensors) run(list);
  }
}

}  // namespace trefoil::cuda
