#include "gemm_f32.h"
#include "multiply.h"

namespace trefoil::cuda {

void gemm_rows(const Context& context, const Rows<float>& a, bool a_by_depth, const Rows<float>& b, bool b_by_depth, const Product& p, bool large) {
  using R = Rows<float>;
  if (a_by_depth) {
    if (b_by_depth) launch_gemm_f32<R, true, R, true>(context, a, b, p, large);
    else launch_gemm_f32<R, true, R, false>(context, a, b, p, large);
  } else {
    if (b_by_depth) launch_gemm_f32<R, false, R, true>(context, a, b, p, large);
    else launch_gemm_f32<R, false, R, false>(context, a, b, p, large);
  }
}

}  // namespace trefoil::cuda
