#include "index_check.h"

namespace trefoil::cuda {

namespace {

__global__ void __launch_bounds__(256) check_index_kernel(ErrorRecord* errors, Checked what, const int32_t* index, int64_t count,
                                                          int64_t least, int64_t bound) {
  for (int64_t i = first_index(); i < count; i += index_stride()) index_in_range(errors, what, index[i], i, least, bound);
}

__global__ void __launch_bounds__(256) check_offsets_kernel(ErrorRecord* errors, Checked what, const int32_t* offsets, int64_t groups,
                                                            int64_t rows) {
  for (int64_t e = first_index(); e <= groups; e += index_stride()) {
    const int64_t low = e == groups ? rows : e == 0 ? 0 : offsets[e - 1], high = e == 0 && groups > 0 ? 0 : rows;
    index_in_range(errors, what, offsets[e], e, low, high + 1);
  }
}

}  // namespace

void check_index(const Context& context, Checked what, const int32_t* index, int64_t count, int64_t least, int64_t bound) {
  if (count > 0) launch(context, {context.grid(count, 256), 256}, check_index_kernel, context.errors, what, index, count, least, bound);
}

void check_offsets(const Context& context, Checked what, const int32_t* offsets, int64_t groups, int64_t rows) {
  launch(context, {1, 256}, check_offsets_kernel, context.errors, what, offsets, groups, rows);
}

}  // namespace trefoil::cuda
