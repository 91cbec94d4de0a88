// sample_tokens: temperature, top-k and top-p are cuts of the candidates in descending order, found by selection; what is left is drawn
// from in order of index. One block per row; rows are read several times and stay in L2 meanwhile.
#include "kernel.h"
#include "philox.h"
#include "selection.h"

namespace trefoil::cuda {

namespace {

struct Options {
  float scale;  // 1 / temperature; 0: greedy
  double top_p;
  int64_t top_k;
  uint32_t stream;
};

struct Row {
  const float* logits;
  int64_t n;
  __device__ __forceinline__ float operator()(int64_t i) const { return logits[i]; }
  __device__ __forceinline__ float4 four(int64_t i) const { return load_logits(logits, i, n); }
};

__global__ void __launch_bounds__(1024) sample_tokens_kernel(const float* logits, const int32_t* state, int32_t* tokens, float* log_probability, int64_t rows, int64_t n,
                                                             bool own_state, Options options) {
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const Row x{logits + row * n, n};
    float top = -INFINITY;
    each_four(0, n, [&](int64_t i) {
      const float4 v = x.four(i);
      top = fmaxf(fmaxf(top, fmaxf(v.x, v.y)), fmaxf(v.z, v.w));
    });
    top = block_max(top);
    // One state for all: blocks count through the batch. One state to a row: nothing depends on its neighbours.
    const float u = unit_interval(philox(own_state ? state + 4 * row : state, options.stream, own_state ? 0 : static_cast<uint32_t>(row)).x);
    double normaliser;
    const int64_t token = block_sample(n, x, top, options.scale, options.top_k, options.top_p, u, normaliser);
    if (threadIdx.x == 0) {
      if (tokens) tokens[row] = static_cast<int32_t>(token);
      if (log_probability) log_probability[row] = static_cast<float>(static_cast<double>(x(token) - top) - log(normaliser));
    }
  }
}

void sample_tokens(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView& logits = args.inputs[0];
  const int64_t rows = logits.shape[0], n = logits.shape[1];
  if (rows == 0) return;
  if (n == 0) fail(TREFOIL_INVALID_ARGUMENT, "sample_tokens: there are no logits to choose from");
  check_logits("sample_tokens", n);
  const double inverse = args.attributes[0] > 0 ? 1 / args.attributes[0] : 0;
  // Finite: 0 * scale is the top logit's exponent.
  const Options options{inverse < 1e38 ? static_cast<float>(inverse) : 1e38f, args.attributes[2], static_cast<int64_t>(args.attributes[1]),
                        static_cast<uint32_t>(static_cast<int64_t>(args.attributes[3]))};
  const unsigned threads = n > 8192 ? 1024 : n > 1024 ? 256 : 64;
  launch(context, {context.grid(rows, 1), threads}, sample_tokens_kernel, data<float>(logits), data<int32_t>(args.inputs[1]), data<int32_t>(args.outputs[0]),
         optional_output<float>(args, 1), rows, n, args.inputs[1].rank == 2, options);
}

}  // namespace

extern const KernelEntry sampling_kernels[] = {{"sample_tokens", sample_tokens, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
