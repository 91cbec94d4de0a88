#include "gemm_bf16.h"
#include "multiply.h"

namespace trefoil::cuda {

void gemm_rows(const Context& context, const Rows<bf16>& a, bool a_by_depth, const Rows<bf16>& b, bool b_by_depth, const Product& p, bool large) {
  using R = Rows<bf16>;
  if (a_by_depth) {
    if (b_by_depth) launch_gemm_bf16<R, true, R, true>(context, a, b, p, large);
    else launch_gemm_bf16<R, true, R, false>(context, a, b, p, large);
  } else {
    if (b_by_depth) launch_gemm_bf16<R, false, R, true>(context, a, b, p, large);
    else launch_gemm_bf16<R, false, R, false>(context, a, b, p, large);
  }
}

void gemm_rows_in_clusters(const Context& context, const Rows<bf16>& a, bool a_by_depth, const Rows<bf16>& b, bool b_by_depth, const Product& p) {
  using R = Rows<bf16>;
  if (a_by_depth) {
    if (b_by_depth) launch_gemm_bf16_cluster<R, true, R, true>(context, a, b, p);
    else launch_gemm_bf16_cluster<R, true, R, false>(context, a, b, p);
  } else {
    if (b_by_depth) launch_gemm_bf16_cluster<R, false, R, true>(context, a, b, p);
    else launch_gemm_bf16_cluster<R, false, R, false>(context, a, b, p);
  }
}

}  // namespace trefoil::cuda
