// AdamW (Loshchilov & Hutter 2019, decoupled weight decay) over all parameters in one pass: memory bandwidth is the bound.
#include "simd.h"
#include "tensor_chunks.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

struct Step {
  float gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
  float step_size;         // lr / (1 - beta1^t)
  float inverse_root_bias; // 1 / sqrt(1 - beta2^t)
  float epsilon;
};

void update(const Step& step, float keep, float* p, const float* g, float* m, float* v, int64_t n) {
  const Vec scale = splat(step.gradient_scale), beta1 = splat(step.beta1), rest1 = splat(step.one_minus_beta1);
  const Vec beta2 = splat(step.beta2), rest2 = splat(step.one_minus_beta2), size = splat(step.step_size);
  const Vec root = splat(step.inverse_root_bias), epsilon = splat(step.epsilon), kept = splat(keep);
  auto lanes = [&](Vec p0, Vec g0, Vec m0, Vec v0, Vec& m1, Vec& v1) {
    Vec gradient = g0 * scale;
    m1 = fma(beta1, m0, rest1 * gradient);
    v1 = fma(beta2, v0, rest2 * gradient * gradient);
    return fnma(size, m1 / fma(sqrt(v1), root, epsilon), p0 * kept);
  };
  Vec m1, v1;
  int64_t i = 0;
  for (; i + Vec::width <= n; i += Vec::width) {
    store(p + i, lanes(load(p + i), load(g + i), load(m + i), load(v + i), m1, v1));
    store(m + i, m1);
    store(v + i, v1);
  }
  if (i < n) {
    int left = static_cast<int>(n - i);
    store_n(p + i, lanes(load_n(p + i, left), load_n(g + i, left), load_n(m + i, left), load_n(v + i, left), m1, v1), left);
    store_n(m + i, m1, left);
    store_n(v + i, v1, left);
  }
}

void adamw(Context& context, const TrefoilLaunch& launch) {
  int tensors = (launch.input_count - 1) / 4;
  if (launch.input_count != 1 + 4 * tensors || launch.attribute_count != 3 + tensors || elements(launch.inputs[0]) != 3)
    fail(TREFOIL_INVALID_ARGUMENT, "adamw_: needs hyper [3], then parameter, gradient and two moments with one weight decay each");
  for (int i = 0; i < tensors; ++i)
    for (int k = 2; k <= 4; ++k)
      if (elements(launch.inputs[4 * i + k]) != elements(launch.inputs[4 * i + 1]))
        fail(TREFOIL_INVALID_ARGUMENT, "adamw_: parameter %d and its gradient or moments differ in size", i);
  const float* hyper = data<float>(launch.inputs[0]);
  if (!(::fabsf(hyper[1]) <= 3.4028235e38f)) return;
  double rate = hyper[0], count = hyper[2], beta1 = launch.attributes[0], beta2 = launch.attributes[1];
  Step step;
  step.gradient_scale = hyper[1];
  step.beta1 = static_cast<float>(beta1);
  step.one_minus_beta1 = static_cast<float>(1 - beta1);
  step.beta2 = static_cast<float>(beta2);
  step.one_minus_beta2 = static_cast<float>(1 - beta2);
  step.step_size = static_cast<float>(rate / (1 - ::pow(beta1, count)));
  step.inverse_root_bias = static_cast<float>(1 / ::sqrt(1 - ::pow(beta2, count)));
  step.epsilon = static_cast<float>(launch.attributes[2]);

  int64_t* storage = static_cast<int64_t*>(context.scratch(0, static_cast<size_t>(tensors + 1) * sizeof(int64_t)));
  TensorChunks chunks = cut(launch.inputs + 1, tensors, 4, storage);
  context.parallel(chunks.count(), [&](int64_t task) {
    int tensor = chunks.tensor_of(task);
    const TrefoilView* views = launch.inputs + 1 + 4 * tensor;
    int64_t begin = (task - chunks.first[tensor]) * TensorChunks::size, n = elements(views[0]) - begin;
    float keep = static_cast<float>(1 - rate * launch.attributes[3 + tensor]);
    update(step, keep, data<float>(views[0]) + begin, data<float>(views[1]) + begin, data<float>(views[2]) + begin,
           data<float>(views[3]) + begin, n < TensorChunks::size ? n : TensorChunks::size);
  });
}

}  // namespace

extern const KernelEntry optimizer_kernels[];
const KernelEntry optimizer_kernels[] = {{"adamw_", adamw, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
