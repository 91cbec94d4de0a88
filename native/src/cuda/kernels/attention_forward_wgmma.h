// The forward pass of attention by Hopper's wgmma, see attention_forward_wgmma.cu.
#pragma once
#include "attention_bf16.h"

namespace trefoil::cuda {

// Heads of more than 32 elements (and at most 128), at least one key. False: not these, or not this device; nothing was launched.
bool attention_forward_wgmma(const Context& context, const Attention& a, const Floats& q, const Rows<bf16>& k, const Rows<bf16>& v, const Floats& out, float* lse);

}  // namespace trefoil::cuda
