#include "attention_backward_bf16.h"

namespace trefoil::cuda {

namespace {

// q and dout rounded, lse and delta, in the order of BackwardRows: one warp per row.
__global__ void __launch_bounds__(256) lay_out_rows_kernel(Attention a, Floats q, Floats dout, Floats out, const float* lse, int64_t padded, int64_t stride,
                                                           bf16* q_rows, bf16* dout_rows, float* lse_rows, float* delta_rows) {
  const int64_t count = a.batch * a.groups * padded, warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kWarp);
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + warp_index(); at < count; at += warps) {
    const int64_t head = at / padded, row = at - head * padded;
    const bool there = row < a.rows;
    const int64_t b = head / a.groups, g = head - b * a.groups, from = there ? a.row_at(b, g, row) : 0;
    float delta = 0;
    for (int64_t d = 2 * lane_index(); d < stride; d += 2 * kWarp) {
      const bool low = there && d < a.size, high = there && d + 1 < a.size;
      const float dout_low = low ? dout.load(from + d) : 0.0f, dout_high = high ? dout.load(from + d + 1) : 0.0f;
      delta += dout_low * (low ? out.load(from + d) : 0.0f) + dout_high * (high ? out.load(from + d + 1) : 0.0f);
      *reinterpret_cast<uint32_t*>(q_rows + at * stride + d) = pack_bf16(low ? q.load(from + d) : 0.0f, high ? q.load(from + d + 1) : 0.0f);
      *reinterpret_cast<uint32_t*>(dout_rows + at * stride + d) = pack_bf16(dout_low, dout_high);
    }
    delta = warp_sum(delta);
    if (lane_index() != 0) continue;
    const float x = there ? lse[a.statistic_at(b, g, row)] : -INFINITY;
    lse_rows[at] = x == -INFINITY ? INFINITY : x * kLog2E;
    delta_rows[at] = delta;
  }
}

}  // namespace

void attention_backward_bf16(const Context& context, Workspace& workspace, const Attention& a, const TrefoilLaunch& args) {
  // One pass makes all three: what wants only some of them goes the other way.
  const bool one_pass = suits_one_pass(context, a);
  const int64_t tile = one_pass ? kOnePassTile : kBackwardTile, padded = ceil_divide(a.rows, tile) * tile, count = a.batch * a.groups * padded, stride = ceil_divide(a.size, 8) * 8;
  bf16 *q = workspace.take<bf16>(count * stride), *dout = workspace.take<bf16>(count * stride);
  float *lse = workspace.take<float>(count), *delta = workspace.take<float>(count);
  const Rows<bf16> k = key_rows(context, workspace, a, args.inputs[2]), v = key_rows(context, workspace, a, args.inputs[3]);
  const QuerySums sums = one_pass ? take_query_sums(context, workspace, a, padded) : QuerySums{};
  if (!workspace.running()) return;
  if (count > 0)
    launch(context, {context.grid(count, 8), 256}, lay_out_rows_kernel, a, Floats(args.inputs[1]), Floats(args.inputs[0]), Floats(args.inputs[4]),
           data<float>(args.inputs[5]), padded, stride, q, dout, lse, delta);
  const BackwardRows rows{q, dout, lse, delta, padded};
  Floats dq(args.outputs[0]), dk(args.outputs[1]), dv(args.outputs[2]);
  if (one_pass) return attention_one_pass_gradient_wgmma(context, a, rows, k, v, sums, dq, dk, dv);
  if (attention_query_gradient_wgmma(context, a, rows, k, v, dq)) dq = {};
  if (attention_key_gradient_wgmma(context, a, rows, k, v, dk, dv)) dk = dv = {};
  if (dq || dk) with_head(a.size, [&](auto dim) { launch_attention_backward<dim()>(context, a, rows, k, v, dq, dk, dv); });
}

}  // namespace trefoil::cuda
