// One step of parallel decoding (MaskGIT, Chang et al. 2022, arXiv 2202.04200, section 3.2; guidance as in MUSE, arXiv 2301.00704,
// section 2.7). One block per masked position: its logits are read once, combined, and kept in shared memory while a token is drawn.
// Then one block per sequence masks the least confident again.
#include "kernel.h"
#include "philox.h"
#include "selection.h"

namespace trefoil::cuda {

namespace {

constexpr unsigned kThreads = 256;

struct Step {
  const float *conditional, *unconditional;
  const int32_t *tokens, *state;
  const float *controls, *priority;
  int32_t *sampled;
  float* confidence;
  int64_t count, positions, n, top_k, priority_step;
  double top_p;
  int32_t mask;
  bool own_state, random_order;
  uint32_t stream;
};

// Guided logits of a position: from shared memory (staged), or worked out at every use where they do not fit. NaN becomes -inf.
template <bool staged>
struct Logits {
  const float *conditional, *unconditional;
  float guidance;
  int64_t n;
  const float* kept;
  __device__ __forceinline__ float guide(float c, float u) const { return fmaxf(unconditional ? fmaf(c - u, guidance, c) : c, -INFINITY); }
  __device__ __forceinline__ float4 guided(int64_t i) const {
    const float4 c = load_logits(conditional, i, n), u = unconditional ? load_logits(unconditional, i, n) : make_float4(0, 0, 0, 0);
    return make_float4(guide(c.x, u.x), guide(c.y, u.y), guide(c.z, u.z), guide(c.w, u.w));
  }
  __device__ __forceinline__ float operator()(int64_t i) const {
    if constexpr (staged) return kept[i];
    return guide(conditional[i], unconditional ? unconditional[i] : 0.0f);
  }
  __device__ __forceinline__ float4 four(int64_t i) const {
    if constexpr (staged) return load4(kept + i);
    return guided(i);
  }
};

// Four blocks to a multiprocessor: while some wait for logits, the others draw.
template <bool staged>
__global__ void __launch_bounds__(kThreads, 4) draw_kernel(Step step) {
  TREFOIL_SHARED(words, uint4);
  const float guidance = step.controls[0], temperature = step.controls[1], noise = step.controls[2];
  const float inverse = temperature > 0 ? 1.0f / temperature : 0.0f;  // 0: greedy
  const float scale = inverse < 1e38f ? inverse : 1e38f;              // finite: 0 * scale is the top logit's exponent
  const int64_t n = step.n;
  int32_t known = step.tokens[blockIdx.x];
  for (int64_t at = blockIdx.x; at < step.count; at += gridDim.x) {
    const int32_t token_there = known;
    if (at + gridDim.x < step.count) known = step.tokens[at + gridDim.x];  // the next one's, asked for early
    if (token_there != step.mask) {
      if (threadIdx.x == 0) {
        step.sampled[at] = token_there;
        step.confidence[at] = INFINITY;
      }
      continue;
    }
    float* row = staged ? dynamic_shared<float>() : nullptr;
    const Logits<staged> x{step.conditional + at * n, step.unconditional ? step.unconditional + at * n : nullptr, guidance, n, row};
    float top = -INFINITY;
#pragma unroll 4
    for (int64_t i = threadIdx.x * 4; i < n; i += kThreads * 4) {
      const float4 v = x.guided(i);
      if constexpr (staged) store4(row + i, v);
      top = fmaxf(fmaxf(top, fmaxf(v.x, v.y)), fmaxf(v.z, v.w));
    }
    const uint32_t b = static_cast<uint32_t>(at) / static_cast<uint32_t>(step.positions), i = static_cast<uint32_t>(at) - b * static_cast<uint32_t>(step.positions);
    if (threadIdx.x == 0) words = philox(step.own_state ? step.state + 4 * b : step.state, step.stream, step.own_state ? i : static_cast<uint32_t>(at));
    top = block_max(top);  // a barrier too: the row is complete
    double normaliser;
    const int64_t token = block_sample(n, x, top, scale, step.top_k, step.top_p, unit_interval(words.x), normaliser);
    const float drawn = x(token);
    const uint32_t noise_word = words.y;
    __syncthreads();  // shared memory is free for the next position
    if (threadIdx.x != 0) continue;
    step.sampled[at] = static_cast<int32_t>(token);
    const double log_probability = top < INFINITY && top > -INFINITY ? static_cast<double>(drawn - top) - log(normaliser) : top > 0 ? 0.0 : -INFINITY;
    // Standard Gumbel from 24 bits, never infinite.
    const double gumbel = noise != 0 ? static_cast<double>(noise) * -log(-log((static_cast<double>(noise_word >> 8) + 0.5) * 0x1p-24)) : 0.0;
    step.confidence[at] = step.priority       ? step.priority[b * step.priority_step + i]
                          : step.random_order ? unit_interval(noise_word)
                                              : static_cast<float>(log_probability + gumbel);
  }
}

__global__ void remask_kernel(const int32_t* tokens, const int32_t* remaining, const int32_t* sampled, const float* confidence, int32_t* next, int64_t batch,
                              int64_t positions, int32_t mask, ErrorRecord* errors) {
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    const int32_t* known = tokens + b * positions;
    const float* sure = confidence + b * positions;
    int64_t again = remaining[b];
    if (threadIdx.x == 0) index_in_range(errors, Checked::masked_diffusion_step_remaining, again, b, 0, positions + 1);
    Fixed masked = 0;
    for (int64_t i = threadIdx.x; i < positions; i += blockDim.x) masked += known[i] == mask;
    masked = block_sum(masked);
    if (again < 0 || masked == 0) again = 0;
    else if (again >= static_cast<int64_t>(masked)) again = static_cast<int64_t>(masked) - 1;  // every step reveals a token
    unsigned long long last = ~0ull;
    if (again > 0)
      last = block_select(positions, [&](int64_t i) { return candidate_key(sure[i], i); },
                          [&](int64_t i, unsigned long long) { return static_cast<Fixed>(known[i] == mask); }, masked - static_cast<Fixed>(again) - 1);
    for (int64_t i = threadIdx.x; i < positions; i += blockDim.x)
      next[b * positions + i] = known[i] == mask && candidate_key(sure[i], i) > last ? mask : sampled[b * positions + i];
    __syncthreads();
  }
}

// The same check where nobody reads `next`.
__global__ void check_remaining_kernel(const int32_t* remaining, int64_t batch, int64_t bound, ErrorRecord* errors) {
  for (int64_t b = first_index(); b < batch; b += index_stride()) index_in_range(errors, Checked::masked_diffusion_step_remaining, remaining[b], b, 0, bound);
}

int64_t workspace_part(int64_t count) { return (count * 4 + 63) / 64 * 64; }

void masked_diffusion_step(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView &logits = args.inputs[0], &state = args.inputs[5];
  const int64_t batch = logits.shape[0], positions = logits.shape[1], n = logits.shape[2], count = batch * positions;
  if (count == 0) return;
  if (n == 0) fail(TREFOIL_INVALID_ARGUMENT, "masked_diffusion_step: there are no logits to choose from");
  check_logits("masked_diffusion_step", n);
  if (count > INT32_MAX) fail(TREFOIL_INVALID_ARGUMENT, "masked_diffusion_step: there are 2^31 positions or more");
  int32_t *next = data<int32_t>(args.outputs[0]), *sampled = data<int32_t>(args.outputs[1]);
  float* confidence = data<float>(args.outputs[2]);
  if (!sampled) sampled = static_cast<int32_t*>(args.workspace);
  if (!confidence) confidence = reinterpret_cast<float*>(static_cast<char*>(args.workspace) + workspace_part(count));
  const float* priority = optional_input<float>(args, 6);
  const Step step{data<float>(logits), data<float>(args.inputs[1]), data<int32_t>(args.inputs[2]), data<int32_t>(state), data<float>(args.inputs[4]), priority,
                  sampled, confidence, count, positions, n, static_cast<int64_t>(args.attributes[1]), priority && args.inputs[6].rank == 2 ? positions : 0,
                  args.attributes[2], static_cast<int32_t>(args.attributes[0]), state.rank == 2, args.attributes[3] == 1,
                  static_cast<uint32_t>(static_cast<int64_t>(args.attributes[4]))};
  const size_t row_bytes = static_cast<size_t>(ceil_divide(n, 4)) * sizeof(float4);
  // 8 KiB stay for what the kernel declares itself, which is 6.
  if (row_bytes + 8192 <= context.shared_limit)
    launch(context, {context.grid(count, 1), kThreads, row_bytes}, draw_kernel<true>, step);
  else
    launch(context, {context.grid(count, 1), kThreads}, draw_kernel<false>, step);
  const int32_t* remaining = data<int32_t>(args.inputs[3]);
  if (next)
    launch(context, {context.grid(batch, 1), kThreads}, remask_kernel, step.tokens, remaining, sampled, confidence, next, batch, positions, step.mask, context.errors);
  else
    launch(context, {context.grid(batch, 256), 256}, check_remaining_kernel, remaining, batch, positions + 1, context.errors);
}

size_t masked_diffusion_step_workspace(const Context&, const TrefoilLaunch& args) { return static_cast<size_t>(2 * workspace_part(elements(args.inputs[2]))); }

}  // namespace

extern const KernelEntry masked_diffusion_kernels[] = {{"masked_diffusion_step", masked_diffusion_step, masked_diffusion_step_workspace},
                                                       {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
