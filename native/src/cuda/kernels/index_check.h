// Checks of index tensors on the device. The kernels that follow in the stream read bad entries as absent rows.
#pragma once
#include "kernel.h"

namespace trefoil::cuda {

// index[i] in [least, bound) for all i.
void check_index(const Context& context, Checked what, const int32_t* index, int64_t count, int64_t least, int64_t bound);
// offsets [groups + 1] rise from 0 to rows.
void check_offsets(const Context& context, Checked what, const int32_t* offsets, int64_t groups, int64_t rows);

}  // namespace trefoil::cuda
