#include "conv_sources.h"
#include "gemm_f32.h"

namespace trefoil::cuda {

void gemm_conv(const Context& context, const Windows<float>& x, const Rows<float>& w, const Product& p, bool large) {
  launch_gemm_f32<Windows<float>, true, Rows<float>, true>(context, x, w, p, large);
}
void gemm_conv(const Context& context, const Windows<float>& dy, const Taps<float>& w, const Product& p, bool large) {
  launch_gemm_f32<Windows<float>, true, Taps<float>, false>(context, dy, w, p, large);
}
void gemm_conv(const Context& context, const Rows<float>& dy, const Windows<float>& x, const Product& p, bool large) {
  launch_gemm_f32<Rows<float>, false, Windows<float>, false>(context, dy, x, p, large);
}

}  // namespace trefoil::cuda
