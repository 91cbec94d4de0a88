// sample_tokens: temperature, top-k and top-p are cuts of the candidates in descending order, found by selection; what is left is drawn
// from in order of index. One block per row; rows are read several times and stay in L2 meanwhile.
#include "kernel.h"
#include "philox.h"
#include "selection.h"

namespace trefoil::cuda {

namespace {

constexpr unsigned kMaxThreads = 512;

struct Options {
  float scale;  // 1 / temperature; 0: greedy
  double top_p;
  int64_t top_k;
  uint32_t stream;
};

__global__ void sample_tokens_kernel(const float* logits, const int32_t* state, int32_t* tokens, float* log_probability, int64_t rows, int64_t n, bool own_state, Options options) {
  TREFOIL_SHARED(warp_totals, Fixed[kMaxThreads / kWarp]);
  // Indices of a warp.
  const int64_t stretch = (n + blockDim.x - 1) / blockDim.x * kWarp, begin = warp_index() * stretch, end = begin + stretch < n ? begin + stretch : n;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const float* x = logits + row * n;
    float top = -INFINITY;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) top = fmaxf(top, x[i]);
    top = block_max(top);
    const auto key = [&](int64_t i) { return candidate_key(x[i], i); };
    const auto weight = [&](int64_t i) { return fixed_weight(expf((x[i] - top) * options.scale)); };
    Fixed total = 0;
    double normaliser = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      total += weight(i);
      if (log_probability) normaliser += static_cast<double>(expf(x[i] - top));
    }
    total = block_sum(total);
    if (log_probability) normaliser = block_sum(normaliser);
    int64_t token;
    if (options.scale == 0 || options.top_k == 1 || total == 0) {  // total 0: no largest logit is finite
      token = block_find(n, [&](int64_t i) { return x[i]; }, top);
      if (token == n) token = 0;
    } else {
      const Kept kept = block_filter(n, key, weight, total, options.top_k, options.top_p);
      const auto left = [&](int64_t i) { return key(i) <= kept.last ? weight(i) : Fixed{0}; };
      Fixed own = 0, ahead = 0;
      for (int64_t i = begin + lane_index(); i < end; i += kWarp) own += left(i);
      own = warp_sum(own);
      if (lane_index() == 0) warp_totals[warp_index()] = own;
      __syncthreads();
      for (int w = 0; w < warp_index(); ++w) ahead += warp_totals[w];
      // One state for all: blocks count through the batch. One state to a row: nothing depends on its neighbours.
      const float u = unit_interval(philox(own_state ? state + 4 * row : state, options.stream, own_state ? 0 : static_cast<uint32_t>(row)).x);
      token = block_draw(n, stretch, left, ahead, own, fixed_target(u, kept.total));
    }
    if (threadIdx.x == 0) {
      if (tokens) tokens[row] = static_cast<int32_t>(token);
      if (log_probability) log_probability[row] = static_cast<float>(static_cast<double>(x[token] - top) - log(normaliser));
    }
    __syncthreads();
  }
}

void sample_tokens(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView& logits = args.inputs[0];
  const int64_t rows = logits.shape[0], n = logits.shape[1];
  if (rows == 0) return;
  if (n == 0) fail(TREFOIL_INVALID_ARGUMENT, "sample_tokens: there are no logits to choose from");
  const double inverse = args.attributes[0] == 0 ? 0 : 1 / args.attributes[0];
  // Finite: 0 * scale is the top logit's exponent.
  const Options options{inverse < 1e38 ? static_cast<float>(inverse) : 1e38f, args.attributes[2], static_cast<int64_t>(args.attributes[1]),
                        static_cast<uint32_t>(static_cast<int64_t>(args.attributes[3]))};
  const unsigned threads = n > 4096 ? kMaxThreads : n > 512 ? 256 : 64;
  launch(context, {context.grid(rows, 1), threads}, sample_tokens_kernel, data<float>(logits), data<int32_t>(args.inputs[1]), data<int32_t>(args.outputs[0]),
         optional_output<float>(args, 1), rows, n, args.inputs[1].rank == 2, options);
}

}  // namespace

extern const KernelEntry sampling_kernels[] = {{"sample_tokens", sample_tokens, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
