// Attention on the tensor cores, in bf16 precision: heads of up to 128, a positive scale. Operands are rounded to bf16, probabilities
// too before they meet the values; scores, sums and results are f32. Each kernel has a file of its own.
#pragma once
#include "attention_problem.h"
#include "multiply.h"

namespace trefoil::cuda {

constexpr int64_t kMostDecodeRows = 16;  // (query, head) pairs per key-value head that the split-key kernel takes

// Within one batch, offsets fit 32 bits.
inline bool suits_tensor_cores(const Context& context, const Attention& a) {
  return context.precision == Precision::bf16 && a.size <= 128 && a.scale > 0 && a.rows < INT32_MAX / 128 && (a.keys + 64) * a.groups < INT32_MAX / 128;
}
// Few rows: keys are cut into parts that blocks of their own walk.
inline bool suits_decode(const Attention& a) { return a.rows <= kMostDecodeRows && !a.segments; }

// By Hopper's wgmma: heads that fill more than a half of what the kernels are made for. A warp group's 64 rows are whole queries.
constexpr int64_t kMostSharedHeads = 64;
inline bool suits_wgmma(const Context& context, const Attention& a) {
  return context.wgmma && a.size > 32 && a.keys > 0 && a.batch * a.rows > 0 && a.shared_heads <= kMostSharedHeads;
}

// Each takes what it needs of the workspace: without memory there it only counts.
void attention_forward_bf16(const Context& context, Workspace& workspace, const Attention& a, const TrefoilLaunch& args);
void attention_decode_bf16(const Context& context, Workspace& workspace, const Attention& a, const TrefoilLaunch& args);
void attention_backward_bf16(const Context& context, Workspace& workspace, const Attention& a, const TrefoilLaunch& args);

// See attention_wgmma.h.
bool suits_forward_wgmma(const Context& context, const Attention& a);
void attention_forward_wgmma(const Context& context, Workspace& workspace, const Attention& a, const TrefoilView& q, const Rows<bf16>& k, const Rows<bf16>& v, const Floats& out, float* lse);

// Keys or values as rows of bf16, [batch, keys, groups]. The two have one stride: they are used as they are, or filled up, together.
inline Rows<bf16> key_rows(const Context& context, Workspace& workspace, const Attention& a, const TrefoilView& view) {
  return as_rows<bf16>(context, workspace, {view.data, view.dtype, a.batch * a.keys * a.groups, a.size}, false);
}

// run(std::integral_constant<int, dim>): the head size that kernels are made for.
template <class Run>
void with_head(int64_t size, const Run& run) {
  if (size <= 32) return run(std::integral_constant<int, 32>{});
  if (size <= 64) return run(std::integral_constant<int, 64>{});
  run(std::integral_constant<int, 128>{});
}

}  // namespace trefoil::cuda
