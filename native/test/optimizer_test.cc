// adamw_ against the update rule in double precision, over several tensors and steps.
#include <limits>

#include "harness.h"

using namespace trefoil::test;

namespace {

struct Tensor {
  F32 p, g, m, v;
  double decay;
  std::vector<double> p64, m64, v64;
};

std::vector<TrefoilView> inputs_of(F32& hyper, std::vector<Tensor>& tensors) {
  std::vector<TrefoilView> result = {view(hyper)};
  for (Tensor& tensor : tensors)
    for (F32* array : {&tensor.p, &tensor.g, &tensor.m, &tensor.v}) result.push_back(view(*array));
  return result;
}
std::vector<TrefoilView> outputs_of(std::vector<Tensor>& tensors) {
  std::vector<TrefoilView> result;
  for (Tensor& tensor : tensors)
    for (F32* array : {&tensor.p, &tensor.m, &tensor.v}) result.push_back(view(*array));
  return result;
}

std::vector<Tensor> make_tensors(std::mt19937& generator) {
  std::vector<Tensor> tensors;
  double decay = 0.1;
  for (std::vector<int64_t> shape : {std::vector<int64_t>{40, 1001}, {0}, {3}, {17}, {16384}}) {
    Tensor tensor{normal(generator, shape), F32(shape), F32(shape), F32(shape), decay, {}, {}, {}};
    tensor.p64.assign(tensor.p.values.begin(), tensor.p.values.end());
    tensor.m64.assign(tensor.p.size(), 0.0);
    tensor.v64.assign(tensor.p.size(), 0.0);
    tensors.push_back(std::move(tensor));
    decay = decay == 0 ? 0.1 : 0;
  }
  return tensors;
}

}  // namespace

TEST(adamw_follows_the_rule) {
  const double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  std::mt19937 generator(1);
  std::vector<Tensor> tensors = make_tensors(generator);
  std::vector<double> attributes = {beta1, beta2, epsilon};
  for (const Tensor& tensor : tensors) attributes.push_back(tensor.decay);
  for (int step = 1; step <= 5; ++step) {
    F32 hyper({3}, {1e-2f * static_cast<float>(step), 0.5f, static_cast<float>(step)});
    for (Tensor& tensor : tensors) tensor.g = normal(generator, tensor.g.shape);
    std::vector<TrefoilView> outputs = step == 2 ? std::vector<TrefoilView>(3 * tensors.size(), absent()) : outputs_of(tensors);
    launch(device, "adamw_", inputs_of(hyper, tensors), outputs, attributes);
    double rate = hyper[0], c1 = 1 - std::pow(beta1, step), c2 = 1 - std::pow(beta2, step);
    for (Tensor& tensor : tensors) {
      for (size_t i = 0; i < tensor.p.size(); ++i) {
        double g = tensor.g[i] * 0.5;
        tensor.m64[i] = beta1 * tensor.m64[i] + (1 - beta1) * g;
        tensor.v64[i] = beta2 * tensor.v64[i] + (1 - beta2) * g * g;
        tensor.p64[i] = tensor.p64[i] * (1 - rate * tensor.decay) - rate * (tensor.m64[i] / c1) / (std::sqrt(tensor.v64[i] / c2) + epsilon);
      }
      check_close(tensor.p, tensor.p64, 1e-6, 0, "parameter");
      check_close(tensor.m, tensor.m64, 1e-6, 0, "first moment");
      check_close(tensor.v, tensor.v64, 1e-6, 0, "second moment");
    }
  }
}

TEST(adamw_skips_non_finite_scale) {
  for (float scale : {std::numeric_limits<float>::quiet_NaN(), INFINITY, -INFINITY}) {
    F32 hyper({3}, {0.1f, scale, 1}), p({2}, {1, 2}), g({2}, {1, 1}), m({2}, {3, 4}), v({2}, {5, 6});
    launch(device, "adamw_", {view(hyper), view(p), view(g), view(m), view(v)}, {view(p), view(m), view(v)}, {0.9, 0.999, 1e-8, 0.1});
    CHECK(p[0] == 1 && p[1] == 2 && m[0] == 3 && v[1] == 6);
  }
}

TEST(adamw_rejects_mismatched_sizes) {
  F32 hyper({3}, {0.1f, 1, 1}), p({2}), g({3}), m({2}), v({2});
  CHECK(launch_error(device, "adamw_", {view(hyper), view(p), view(g), view(m), view(v)}, {view(p), view(m), view(v)}, {0.9, 0.999, 1e-8, 0}).code ==
        TREFOIL_INVALID_ARGUMENT);
  CHECK(launch_error(device, "adamw_", {view(hyper), view(p), view(m), view(m), view(v)}, {view(p), view(m), view(v)}, {0.9, 0.999, 1e-8}).code ==
        TREFOIL_INVALID_ARGUMENT);
}

TEST(adamw_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    std::mt19937 generator(2);
    std::vector<Tensor> tensors = make_tensors(generator);
    for (Tensor& tensor : tensors) tensor.g = normal(generator, tensor.g.shape);
    F32 hyper({3}, {1e-2f, 1, 1});
    launch(other, "adamw_", inputs_of(hyper, tensors), outputs_of(tensors), {0.9, 0.95, 1e-8, 0.1, 0.1, 0.1, 0.1, 0.1});
    std::vector<F32> results;
    for (Tensor& tensor : tensors)
      if (tensor.p.size()) results.push_back(tensor.p);
    return results;
  });
}
