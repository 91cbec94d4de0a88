#include "attention_backward_bf16.h"

namespace trefoil::cuda {

namespace {

// Eight neighbours of a row, of which the first `left` are there; whole: all or none.
__device__ __forceinline__ Vector<8> load8(const Floats& from, int64_t at, int64_t left, bool whole) {
  if (whole && left > 0) return from.unpack(from.load_stored(at));
  Vector<8> x{};
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (i < left) x[i] = from.load(at + i);
  return x;
}

// lse and delta of 64 places, and q and dout rounded where they are wanted: place after place, or (`as_given`) row after row as the op has them.
// `lanes` threads to a row, eight elements each.
template <int lanes>
__global__ void __launch_bounds__(256) lay_out_rows_kernel(Attention a, RowUnits units, Floats q, Floats dout, Floats out, const float* lse, int64_t padded, int64_t stride,
                                                           bool as_given, bf16* q_rows, bf16* dout_rows, float* lse_rows, float* delta_rows) {
  const unsigned blocks = static_cast<unsigned>(padded / kBackwardTile), head = blockIdx.x / blocks, groups = static_cast<unsigned>(a.groups);
  const int64_t b = head / groups, g = head % groups;
  const int first = static_cast<int>(blockIdx.x % blocks) * kBackwardTile, column = static_cast<int>(threadIdx.x) % lanes * 8;
  const bool whole = a.size % 8 == 0;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) / lanes; i < kBackwardTile; i += 256 / lanes) {
    const PlacedRow placed(a, units, first + i);
    const int64_t given = placed.row(a, b, g), from = given * a.size, at = head * padded + first + i, left = placed.there ? a.size - column : 0;
    const Vector<8> x = load8(dout, from + column, left, whole), y = load8(out, from + column, left, whole);
    float delta = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) delta += x[j] * y[j];
#pragma unroll
    for (int step = lanes / 2; step > 0; step /= 2) delta += __shfl_xor_sync(kFullWarp, delta, step);
    const int64_t to = (as_given ? given : at) * stride + column;
    const bool kept = column < stride && (placed.there || !as_given);
    if (dout_rows && kept) store_vector(dout_rows + to, x);
    if (q_rows && kept) store_vector(q_rows + to, load8(q, from + column, left, whole));
    if (column > 0) continue;
    const float sum = placed.there ? lse[(b * a.heads + g * a.shared_heads + placed.head) * a.queries + placed.query] : -INFINITY;
    lse_rows[at] = sum == -INFINITY ? INFINITY : sum * kLog2E;
    delta_rows[at] = delta;
  }
}

}  // namespace

void attention_backward_bf16(const Context& context, Workspace& workspace, const Attention& a, const TrefoilLaunch& args) {
  const bool by_wgmma = suits_wgmma(context, a), one_pass = by_wgmma && context.one_pass_gradient;
  const int shared = static_cast<int>(a.shared_heads);
  const RowUnits units = by_wgmma ? RowUnits{64, 64 / shared, shared} : RowUnits{shared, 1, shared};
  const int64_t tile = by_wgmma ? kWgmmaBackwardTile : kBackwardTile, padded = ceil_divide(ceil_divide(a.queries, units.queries) * units.rows, tile) * tile;
  const int64_t count = a.batch * a.groups * padded, stride = ceil_divide(a.size, 8) * 8;
  // The copy engine takes rows of bf16 from where they are.
  const TrefoilView &q = args.inputs[1], &dout = args.inputs[0];
  const auto take_rows = [&](const TrefoilView& view) {
    if (by_wgmma && view.dtype == TREFOIL_BF16 && a.size % 8 == 0) return static_cast<bf16*>(nullptr);
    return workspace.take<bf16>((by_wgmma ? a.batch * a.groups * a.rows : count) * stride);
  };
  bf16 *q_rows = take_rows(q), *dout_rows = take_rows(dout);
  float *lse = workspace.take<float>(count), *delta = workspace.take<float>(count);
  const Rows<bf16> k = key_rows(context, workspace, a, args.inputs[2]), v = key_rows(context, workspace, a, args.inputs[3]);
  const QuerySums sums = one_pass ? take_query_sums(context, workspace, a, padded) : QuerySums{};
  if (!workspace.running()) return;
  if (count > 0)
    with_head(a.size, [&](auto dim) {
      constexpr int kLanes = dim() / 8;
      launch(context, {static_cast<unsigned>(count / kBackwardTile), 256}, lay_out_rows_kernel<kLanes>, a, units, Floats(q), Floats(dout), Floats(args.inputs[4]), data<float>(args.inputs[5]),
             padded, stride, by_wgmma, q_rows, dout_rows, lse, delta);
    });
  const BackwardRows rows{q_rows ? q_rows : data<bf16>(q), dout_rows ? dout_rows : data<bf16>(dout), lse, delta, padded, stride, units};
  const Floats dq(args.outputs[0]), dk(args.outputs[1]), dv(args.outputs[2]);
  if (!by_wgmma) return with_head(a.size, [&](auto dim) { launch_attention_backward<dim()>(context, a, rows, k, v, dq, dk, dv); });
  // One pass makes all three: what wants only some of them goes the other way.
  if (one_pass && dq && dk && dv) return attention_one_pass_gradient_wgmma(context, a, rows, k, v, sums, dq, dk, dv);
  if (dq) attention_query_gradient_wgmma(context, a, rows, k, v, dq);
  if (dk || dv) attention_key_gradient_wgmma(context, a, rows, k, v, dk, dv);
}

}  // namespace trefoil::cuda
