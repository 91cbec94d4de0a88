// Checks of index tensors, made before anything is written.
#pragma once
#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

// Every index must be in [least, bound); least is -1 where the op gives -1 a meaning. Names the first offender.
inline void check_indices(const char* op, const char* what, const int32_t* index, int64_t count, int64_t least, int64_t bound) {
  int64_t bad = 0;
  for (int64_t i = 0; i < count; ++i) bad |= (index[i] < least) | (index[i] >= bound);
  if (!bad) return;
  for (int64_t i = 0; i < count; ++i)
    if (index[i] < least || index[i] >= bound)
      fail(TREFOIL_INDEX_OUT_OF_RANGE, "%s: %s %d at position %lld is outside [0, %lld)%s", op, what, index[i],
           static_cast<long long>(i), static_cast<long long>(bound), least < 0 ? " and is not -1" : "");
}

}  // namespace trefoil::cpu::TREFOIL_ISA
