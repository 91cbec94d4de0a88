#include "attention_forward_bf16.h"

namespace trefoil::cuda {

void attention_forward_bf16(const Context& context, Workspace& workspace, const Attention& a, const TrefoilLaunch& args) {
  const Rows<bf16> k = key_rows(context, workspace, a, args.inputs[1]), v = key_rows(context, workspace, a, args.inputs[2]);
  const Floats q(args.inputs[0]), out(args.outputs[0]);
  float* lse = optional_output<float>(args, 1);
  if (suits_forward_wgmma(context, a)) return attention_forward_wgmma(context, workspace, a, args.inputs[0], k, v, out, lse);
  if (!workspace.running()) return;
  // Blocks of 128 rows read keys half as often, where there are enough of them for every multiprocessor.
  const bool large = a.batch * a.groups * ceil_divide(a.rows, 128) >= 132;
  with_head(a.size, [&](auto dim) {
    // Fewer keys at a time where sums take half of the registers.
    if (large) launch_attention_forward<dim(), 2, dim() == 128 ? 32 : 64>(context, a, q, k, v, out, lse);
    else launch_attention_forward<dim(), 1, 64>(context, a, q, k, v, out, lse);
  });
}

}  // namespace trefoil::cuda
