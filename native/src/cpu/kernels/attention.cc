// Scaled dot-product attention with grouped query heads, causal, length and segment masks. See docs/ops.md.
#include "attention_backward.h"
#include "attention_decode.h"
#include "attention_forward.h"

namespace trefoil::cpu::TREFOIL_ISA {

// Asked for before the data is there: whether segments will rule the decode path out is not known yet.
static size_t attention_workspace(const TrefoilLaunch& launch) {
  AttentionShape shape(launch.inputs[0], launch.inputs[1], launch.attributes);
  return AttentionDecode::suits(shape) ? AttentionDecode::workspace(shape) : 0;
}

static void attention(Context& context, const TrefoilLaunch& launch) {
  AttentionShape shape(launch.inputs[0], launch.inputs[1], launch.attributes);
  shape.read_masks("attention", launch, 3);
  if (shape.rows == 0) return;  // no query, or no head
  const float* q = data<float>(launch.inputs[0]);
  KeyValueSource k(launch.inputs[1]), v(launch.inputs[2]);
  float* out = data<float>(launch.outputs[0]);
  float* lse = launch.output_count > 1 ? data<float>(launch.outputs[1]) : nullptr;
  if (AttentionDecode::suits(shape))
    AttentionDecode(shape, q, k, v, out, lse, launch.workspace).run(context);
  else
    AttentionForward(shape, q, k, v, out, lse).run(context);
}

static size_t attention_grad_workspace(const TrefoilLaunch& launch) {
  return AttentionBackward::workspace(AttentionShape(launch.inputs[1], launch.inputs[2], launch.attributes));
}

static void attention_grad(Context& context, const TrefoilLaunch& launch) {
  AttentionShape shape(launch.inputs[1], launch.inputs[2], launch.attributes);
  shape.read_masks("attention_grad", launch, 6);
  AttentionGradients gradients = {data<float>(launch.outputs[0]), data<float>(launch.outputs[1]), data<float>(launch.outputs[2])};
  AttentionBackward(shape, data<float>(launch.inputs[0]), data<float>(launch.inputs[1]), KeyValueSource(launch.inputs[2]),
                    KeyValueSource(launch.inputs[3]), data<float>(launch.inputs[4]), data<float>(launch.inputs[5]), gradients,
                    launch.workspace)
      .run(context);
}

extern const KernelEntry attention_kernels[];
const KernelEntry attention_kernels[] = {{"attention", attention, attention_workspace},
                                         {"attention_grad", attention_grad, attention_grad_workspace},
                                         {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
