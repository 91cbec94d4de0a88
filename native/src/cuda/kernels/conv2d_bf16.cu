#include "conv_sources.h"
#include "gemm_bf16.h"

namespace trefoil::cuda {

void gemm_conv(const Context& context, const Windows<bf16>& x, const Rows<bf16>& w, const Product& p, bool large) {
  launch_gemm_bf16<Windows<bf16>, true, Rows<bf16>, true>(context, x, w, p, large);
}
void gemm_conv(const Context& context, const Windows<bf16>& dy, const Taps<bf16>& w, const Product& p, bool large) {
  launch_gemm_bf16<Windows<bf16>, true, Taps<bf16>, false>(context, dy, w, p, large);
}
void gemm_conv(const Context& context, const Rows<bf16>& dy, const Windows<bf16>& x, const Product& p, bool large) {
  launch_gemm_bf16<Rows<bf16>, false, Windows<bf16>, false>(context, dy, x, p, large);
}

}  // namespace trefoil::cuda
