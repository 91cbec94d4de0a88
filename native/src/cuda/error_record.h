// Errors that only the data shows (an index out of range): kernels note the first one in device memory and go on without touching
// memory out of bounds; synchronize() reports it.
#pragma once
#include <cstdint>

#include "language.h"

namespace trefoil::cuda {

// Operands whose numbers are looked at, and their names in messages. A name that ends in [] is followed by the position. Kernels hand on the
// number alone: the address of a string would be one of device memory.
#define TREFOIL_CHECKED_OPERANDS(entry) \
  entry(gather_rows_index, "gather_rows: index") \
  entry(scatter_add_rows_index, "scatter_add_rows: index") \
  entry(gather_last_index, "gather_last: index") \
  entry(scatter_last_index, "scatter_last: index") \
  entry(rope_position, "rope: position") \
  entry(rope_to_cache_position, "rope_to_cache_: position") \
  entry(rope_to_cache_start, "rope_to_cache_: with so many rows to write, start") \
  entry(update_rows_position, "update_rows_: with so many rows to write, position") \
  entry(masked_diffusion_step_remaining, "masked_diffusion_step: remaining") \
  entry(grouped_matmul_offsets, "grouped_matmul: offsets[]") \
  entry(grouped_matmul_row_index, "grouped_matmul: row_index[]") \
  entry(grouped_matmul_weight_grad_offsets, "grouped_matmul_weight_grad: offsets[]") \
  entry(grouped_matmul_weight_grad_a_index, "grouped_matmul_weight_grad: a_index[]") \
  entry(grouped_matmul_weight_grad_b_index, "grouped_matmul_weight_grad: b_index[]") \
  entry(cross_entropy_targets, "cross_entropy: targets[]") \
  entry(linear_cross_entropy_targets, "linear_cross_entropy: targets[]") \
  entry(attention_key_lengths, "attention: key_lengths[]") \
  entry(attention_grad_key_lengths, "attention_grad: key_lengths[]") \
  entry(moe_gate_grad_expert, "moe_gate_grad: expert") \
  entry(moe_sort_expert, "moe_sort: expert") \
  entry(moe_combine_row, "moe_combine: row") \
  entry(moe_combine_grad_slot, "moe_combine_grad: slot")

enum class Checked : int32_t {
#define TREFOIL_ENTRY(operand, name) operand,
  TREFOIL_CHECKED_OPERANDS(TREFOIL_ENTRY)
#undef TREFOIL_ENTRY
};

struct ErrorRecord {
  int32_t set;
  Checked what;
  int64_t value, position, least, bound;
  int64_t width;  // not 0: the position counts through rows of so many
};

// Of many threads the first to arrive is kept.
__device__ inline void report_index(ErrorRecord* errors, Checked what, int64_t value, int64_t position, int64_t least, int64_t bound,
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
__device__ inline bool index_in_range(ErrorRecord* errors, Checked what, int64_t value, int64_t position, int64_t least, int64_t bound,
                                      int64_t width = 0) {
  if (value >= least && value < bound) return true;
  report_index(errors, what, value, position, least, bound, width);
  return false;
}

}  // namespace trefoil::cuda
