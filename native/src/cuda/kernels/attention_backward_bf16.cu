#include "attention_backward_bf16.h"

#include "divisor.h"

namespace trefoil::cuda {

namespace {

constexpr int kLayOutBlocks = 5;  // 48 registers to a thread

struct RowLayout {
  Divisor padded, groups, shared_heads;
  int64_t rows, stride;
  int lane_bits;  // 2^lane_bits neighbours of a warp share a row, eight elements to each
};

// Eight elements from `at`; `left` of them are the row's, the others zero.
__device__ __forceinline__ Vector<8> load_end(const Floats& x, int64_t at, int64_t left) {
  Vector<8> v{};
  for (int k = 0; k < 8; ++k)
    if (k < left) v[k] = x.load(at + k);
  return v;
}

// q and dout rounded, lse and delta, in the order of BackwardRows.
__global__ void __launch_bounds__(kLoopThreads, kLayOutBlocks) lay_out_rows_kernel(Attention a, RowLayout layout, Floats q, Floats dout, Floats out, const float* lse,
                                                                                   bf16* q_rows, bf16* dout_rows, float* lse_rows, float* delta_rows) {
  const int lanes = 1 << layout.lane_bits;
  // A multiple of 32: the same number of rounds for all lanes of a warp.
  for (int64_t item = first_index(); item < layout.rows << layout.lane_bits; item += index_stride()) {
    const int64_t at = item >> layout.lane_bits, d = (item & (lanes - 1)) * 8;
    const Divided of_head = layout.padded.divide(at), of_batch = layout.groups.divide(of_head.quotient);
    const bool there = of_head.remainder < a.rows;
    const Divided of_query = layout.shared_heads.divide(there ? of_head.remainder : 0);
    const int64_t b = of_batch.quotient, query = of_query.quotient, head = of_batch.remainder * a.shared_heads + of_query.remainder;
    const int64_t from = ((b * a.queries + query) * a.heads + head) * a.size + d, left = there ? a.size - d : 0;
    const float shift = there ? lse[(b * a.heads + head) * a.queries + query] : -INFINITY;
    Vector<8> q_values{}, dout_values{}, out_values{};
    if (a.size % 8 == 0) {
      if (left > 0) {
        const Floats::Stored stored_q = q.load_stored(from), stored_dout = dout.load_stored(from), stored_out = out.load_stored(from);
        q_values = q.unpack(stored_q), dout_values = dout.unpack(stored_dout), out_values = out.unpack(stored_out);
      }
    } else {
      q_values = load_end(q, from, left), dout_values = load_end(dout, from, left), out_values = load_end(out, from, left);
    }
    float delta = 0;
#pragma unroll
    for (int k = 0; k < 8; ++k) delta += dout_values[k] * out_values[k];
    for (int offset = lanes / 2; offset > 0; offset /= 2) delta += __shfl_xor_sync(kFullWarp, delta, offset);
    if (d < layout.stride) {
      store_vector(q_rows + at * layout.stride + d, q_values);
      store_vector(dout_rows + at * layout.stride + d, dout_values);
    }
    if (d != 0) continue;
    lse_rows[at] = shift == -INFINITY ? INFINITY : shift * kLog2E;
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
  if (count > 0) {
    RowLayout layout{Divisor(padded), Divisor(a.groups), Divisor(a.shared_heads), count, stride, 0};
    while (8 << layout.lane_bits < stride) ++layout.lane_bits;
    launch(context, {context.grid(count << layout.lane_bits, kLoopThreads, kLayOutBlocks), kLoopThreads}, lay_out_rows_kernel, a, layout, Floats(args.inputs[1]),
           Floats(args.inputs[0]), Floats(args.inputs[4]), data<float>(args.inputs[5]), q, dout, lse, delta);
  }
  const BackwardRows rows{q, dout, lse, delta, padded};
  Floats dq(args.outputs[0]), dk(args.outputs[1]), dv(args.outputs[2]);
  if (one_pass) return attention_one_pass_gradient_wgmma(context, a, rows, k, v, sums, dq, dk, dv);
  if (attention_query_gradient_wgmma(context, a, rows, k, v, dq)) dq = {};
  if (attention_key_gradient_wgmma(context, a, rows, k, v, dk, dv)) dk = dv = {};
  if (dq || dk) with_head(a.size, [&](auto dim) { launch_attention_backward<dim()>(context, a, rows, k, v, dq, dk, dv); });
}

}  // namespace trefoil::cuda
