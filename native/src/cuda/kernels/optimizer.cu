// AdamW (Loshchilov & Hutter 2019, decoupled weight decay) over all parameters, with their bf16 copies for products where programs keep them:
// memory bandwidth is the bound.
#include "kernel.h"
#include "tensor_list.h"

namespace trefoil::cuda {

namespace {

using AdamList = TensorList<5, 1>;  // parameter, gradient, two moments, (bf16) copy or null; weight decay

struct Constants {
  double beta1, beta2;
  float epsilon;
};

// What a step's numbers are worth, worked out once per block.
struct Step {
  float scale, rate, step_size, inverse_root_bias;
};

__device__ __forceinline__ void update(const Step& step, const Constants& c, float keep, float& p, float g, float& m, float& v) {
  const float gradient = g * step.scale;
  m = static_cast<float>(c.beta1) * m + static_cast<float>(1 - c.beta1) * gradient;
  v = static_cast<float>(c.beta2) * v + static_cast<float>(1 - c.beta2) * gradient * gradient;
  p = p * keep - step.step_size * (m / (sqrtf(v) * step.inverse_root_bias + c.epsilon));
}

__global__ void adamw_kernel(const float* hyper, AdamList list, Constants constants, const ErrorRecord* errors) {
  TREFOIL_SHARED(shared, Step);
  // A gradient whose norm is not finite, or a step that has already failed, changes nothing.
  if (errors->set || !(fabsf(hyper[1]) <= 3.4028235e38f)) return;
  if (threadIdx.x == 0) {
    const double rate = static_cast<double>(hyper[0]), count = static_cast<double>(hyper[2]);
    shared.scale = hyper[1];
    shared.rate = hyper[0];
    shared.step_size = static_cast<float>(rate / (1 - pow(constants.beta1, count)));
    shared.inverse_root_bias = static_cast<float>(1 / sqrt(1 - pow(constants.beta2, count)));
  }
  __syncthreads();
  const Step step = shared;
  for (int64_t chunk = blockIdx.x; chunk < list.first_chunk[list.tensors]; chunk += gridDim.x) {
    const int tensor = list.tensor_of(chunk);
    const int64_t begin = (chunk - list.first_chunk[tensor]) * kListChunk, left = list.count[tensor] - begin, n = left < kListChunk ? left : kListChunk;
    float *p = list.data[tensor][0] + begin, *m = list.data[tensor][2] + begin, *v = list.data[tensor][3] + begin;
    const float* g = list.data[tensor][1] + begin;
    bf16* copy = list.data[tensor][4] ? reinterpret_cast<bf16*>(list.data[tensor][4]) + begin : nullptr;
    const float keep = static_cast<float>(1 - static_cast<double>(step.rate) * static_cast<double>(list.extra[tensor][0]));
    for (int64_t i = threadIdx.x * 4; i < n; i += blockDim.x * 4) {
      if (i + 4 <= n) {
        float4 p4 = load4(p + i), m4 = load4(m + i), v4 = load4(v + i);
        const float4 g4 = load4(g + i);
        update(step, constants, keep, p4.x, g4.x, m4.x, v4.x);
        update(step, constants, keep, p4.y, g4.y, m4.y, v4.y);
        update(step, constants, keep, p4.z, g4.z, m4.z, v4.z);
        update(step, constants, keep, p4.w, g4.w, m4.w, v4.w);
        store4(p + i, p4);
        store4(m + i, m4);
        store4(v + i, v4);
        if (copy) store4(copy + i, p4);
      } else {
        for (int64_t k = i; k < n; ++k) {
          update(step, constants, keep, p[k], g[k], m[k], v[k]);
          if (copy) copy[k] = narrow<bf16>(p[k]);
        }
      }
    }
  }
}

void adamw(const Context& context, const TrefoilLaunch& args) {
  const int tensors = args.attribute_count - 3, copies = args.input_count - 1 - 4 * tensors;
  if (tensors < 0 || (copies != 0 && copies != tensors) || elements(args.inputs[0]) != 3)
    fail(TREFOIL_INVALID_ARGUMENT, "adamw_: needs hyper [3], then parameter, gradient and two moments with one weight decay each, then a copy for each parameter or none");
  for (int i = 0; i < tensors; ++i)
    for (int k = 2; k <= 4; ++k)
      if (elements(args.inputs[4 * i + k]) != elements(args.inputs[4 * i + 1]))
        fail(TREFOIL_INVALID_ARGUMENT, "adamw_: parameter %d and its gradient or moments differ in size", i);
  const TrefoilView* copy = args.inputs + 1 + 4 * tensors;
  for (int i = 0; i < copies; ++i)
    if (copy[i].data && (copy[i].dtype != TREFOIL_BF16 || elements(copy[i]) != elements(args.inputs[4 * i + 1])))
      fail(TREFOIL_INVALID_ARGUMENT, "adamw_: the copy of parameter %d is not of its size in bf16", i);
  const Constants constants{args.attributes[0], args.attributes[1], static_cast<float>(args.attributes[2])};
  for_each_list<AdamList>(
      tensors,
      [&](AdamList& list, int at, int tensor) {
        for (int k = 0; k < 4; ++k) list.data[at][k] = data<float>(args.inputs[1 + 4 * tensor + k]);
        list.data[at][4] = copies ? data<float>(copy[tensor]) : nullptr;
        list.count[at] = elements(args.inputs[1 + 4 * tensor]);
        list.extra[at][0] = static_cast<float>(args.attributes[3 + tensor]);
      },
      [&](const AdamList& list) {
        launch(context, {context.grid(list.chunks(), 1), 256}, adamw_kernel, data<float>(args.inputs[0]), list, constants, context.errors);
      });
}

}  // namespace

extern const KernelEntry optimizer_kernels[] = {{"adamw_", adamw, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
