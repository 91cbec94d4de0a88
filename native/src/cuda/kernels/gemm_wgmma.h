// A product by Hopper's wgmma, see gemm_wgmma.cu.
#pragma once
#include "gemm_problem.h"

namespace trefoil::cuda {

// C = epilogue(A B); with splits their sums are left for add_splits. False: not this product, or not this device; nothing was launched.
bool gemm_wgmma(const Context& context, const Rows<bf16>& a, bool a_by_depth, const Rows<bf16>& b, bool b_by_depth, const Product& p);

}  // namespace trefoil::cuda
