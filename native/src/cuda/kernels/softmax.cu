// softmax, log_softmax and logsumexp over the last dimension, shifted by the row maximum. One block per row; a row is read once where
// it fits the block's registers, else again from L2.
#include "kernel.h"
#include "rows.h"

namespace trefoil::cuda {

namespace {

__global__ void softmax_kernel(const float* x, float* y, int64_t rows, int64_t n) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const float* from = x + row * n;
    float* to = y + row * n;
    float top = -INFINITY;
    for_each_element(n, [&](int64_t i) { top = fmaxf(top, from[i]); });
    top = block_max(top);
    float total = 0;
    for_each_element(n, [&](int64_t i) { total += expf(from[i] - top); });
    const float scale = 1.0f / block_sum(total);
    for_each_element(n, [&](int64_t i) { to[i] = expf(from[i] - top) * scale; });
  }
}

void softmax(const Context& context, const TrefoilLaunch& args) {
  const Rows rows(args.inputs[0]);
  if (rows.empty()) return;
  launch(context, rows.shape(context), softmax_kernel, data<float>(args.inputs[0]), data<float>(args.outputs[0]), rows.count, rows.length);
}

}  // namespace

extern const KernelEntry softmax_kernels[] = {{"softmax", softmax, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
