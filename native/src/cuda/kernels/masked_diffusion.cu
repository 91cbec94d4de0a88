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
  const float* kept;
  __device__ __forceinline__ float guided(int64_t i) const {
    const float c = conditional[i], x = unconditional ? fmaf(c - unconditional[i], guidance, c) : c;
    return x == x ? x : -INFINITY;
  }
  __device__ __forceinline__ float operator()(int64_t i) const {
    if constexpr (staged) return kept[i];
    return guided(i);
  }
};

template <bool staged>
__global__ void __launch_bounds__(kThreads) draw_kernel(Step step) {
  TREFOIL_SHARED(warp_totals, Fixed[kThreads / kWarp]);
  const float guidance = step.controls[0], temperature = step.controls[1], noise = step.controls[2];
  const bool greedy = !(temperature > 0);
  const float inverse = greedy ? 1.0f : 1.0f / temperature;
  const float scale = inverse < 1e38f ? inverse : 1e38f;  // finite: 0 * scale is the top logit's exponent
  const int64_t n = step.n;
  for (int64_t at = blockIdx.x; at < step.count; at += gridDim.x) {
    if (step.tokens[at] != step.mask) {
      if (threadIdx.x == 0) {
        step.sampled[at] = step.tokens[at];
        step.confidence[at] = INFINITY;
      }
      continue;
    }
    float* row = staged ? dynamic_shared<float>() : nullptr;
    const Logits<staged> x{step.conditional + at * n, step.unconditional ? step.unconditional + at * n : nullptr, guidance, row};
    float top = -INFINITY;
    if (staged && n % 4 == 0) {
      for (int64_t i = threadIdx.x * 4; i < n; i += kThreads * 4) {
        float4 c = load4(x.conditional + i);
        if (x.unconditional) {
          const float4 u = load4(x.unconditional + i);
          c = make_float4(fmaf(c.x - u.x, guidance, c.x), fmaf(c.y - u.y, guidance, c.y), fmaf(c.z - u.z, guidance, c.z), fmaf(c.w - u.w, guidance, c.w));
        }
        c = make_float4(c.x == c.x ? c.x : -INFINITY, c.y == c.y ? c.y : -INFINITY, c.z == c.z ? c.z : -INFINITY, c.w == c.w ? c.w : -INFINITY);
        store4(row + i, c);
        top = fmaxf(fmaxf(top, fmaxf(c.x, c.y)), fmaxf(c.z, c.w));
      }
    } else {
      for (int64_t i = threadIdx.x; i < n; i += kThreads) {
        const float value = x.guided(i);
        if constexpr (staged) row[i] = value;
        top = fmaxf(top, value);
      }
    }
    top = block_max(top);  // a barrier too: the row is complete

    const bool finite = top < INFINITY && top > -INFINITY;
    int64_t token = 0;
    double log_probability = top > 0 ? 0.0 : -INFINITY;
    if (greedy || !finite) {
      token = block_find(n, x, top);
      if (token == n) token = 0;
    }
    if (finite) {
      const auto key = [&](int64_t i) { return candidate_key(x(i), i); };
      const auto weight = [&](int64_t i) { return fixed_weight(expf((x(i) - top) * scale)); };
      unsigned long long last = ~0ull;
      if (!greedy && ((step.top_k > 0 && step.top_k < n) || step.top_p < 1)) {
        Fixed total = 0;
        for (int64_t i = threadIdx.x; i < n; i += kThreads) total += weight(i);
        last = block_filter(n, key, weight, block_sum(total), step.top_k, step.top_p).last;
      }
      // Weights of this warp's stretch, and the normaliser at temperature 1.
      const int64_t stretch = (n + kThreads - 1) / kThreads * kWarp, begin = warp_index() * stretch, end = begin + stretch < n ? begin + stretch : n;
      Fixed own = 0;
      float sum = 0;
      for (int64_t i = begin + lane_index(); i < end; i += kWarp) {
        const float value = x(i), exponential = expf(value - top);
        sum += exponential;
        if (greedy || candidate_key(value, i) > last) continue;
        own += fixed_weight(scale == 1.0f ? exponential : expf((value - top) * scale));
      }
      const double normaliser = block_sum(static_cast<double>(sum));
      if (!greedy) {
        own = warp_sum(own);
        if (lane_index() == 0) warp_totals[warp_index()] = own;
        __syncthreads();
        Fixed ahead = 0, total = 0;
        for (int w = 0; w < static_cast<int>(kThreads / kWarp); ++w) {
          if (w < warp_index()) ahead += warp_totals[w];
          total += warp_totals[w];
        }
        const int64_t i = at % step.positions;
        const int32_t* state = step.own_state ? step.state + 4 * (at / step.positions) : step.state;
        const float u = unit_interval(philox(state, step.stream, static_cast<uint32_t>(step.own_state ? i : at)).x);
        const auto kept = [&](int64_t k) { return key(k) <= last ? weight(k) : Fixed{0}; };
        token = block_draw(n, stretch, kept, ahead, own, fixed_target(u, total));
      }
      log_probability = static_cast<double>(x(token) - top) - log(normaliser);
    }
    if (threadIdx.x == 0) {
      const int64_t b = at / step.positions, i = at - b * step.positions;
      const int32_t* state = step.own_state ? step.state + 4 * b : step.state;
      const uint32_t word = philox(state, step.stream, static_cast<uint32_t>(step.own_state ? i : at)).y;
      step.sampled[at] = static_cast<int32_t>(token);
      // Standard Gumbel from 24 bits, never infinite.
      const double gumbel = noise != 0 ? static_cast<double>(noise) * -log(-log((static_cast<double>(word >> 8) + 0.5) * 0x1p-24)) : 0.0;
      step.confidence[at] = step.priority       ? step.priority[b * step.priority_step + i]
                            : step.random_order ? unit_interval(word)
                                                : static_cast<float>(log_probability + gumbel);
    }
    __syncthreads();  // shared memory is free for the next position
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
                          [&](int64_t i, unsigned long long) { return static_cast<Fixed>(known[i] == mask); }, masked - static_cast<Fixed>(again) - 1).key;
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
  int32_t *next = data<int32_t>(args.outputs[0]), *sampled = data<int32_t>(args.outputs[1]);
  float* confidence = data<float>(args.outputs[2]);
  if (!sampled) sampled = static_cast<int32_t*>(args.workspace);
  if (!confidence) confidence = reinterpret_cast<float*>(static_cast<char*>(args.workspace) + workspace_part(count));
  const float* priority = optional_input<float>(args, 6);
  const Step step{data<float>(logits), data<float>(args.inputs[1]), data<int32_t>(args.inputs[2]), data<int32_t>(state), data<float>(args.inputs[4]), priority,
                  sampled, confidence, count, positions, n, static_cast<int64_t>(args.attributes[1]), priority && args.inputs[6].rank == 2 ? positions : 0,
                  args.attributes[2], static_cast<int32_t>(args.attributes[0]), state.rank == 2, args.attributes[3] == 1,
                  static_cast<uint32_t>(static_cast<int64_t>(args.attributes[4]))};
  const size_t row_bytes = static_cast<size_t>(n) * sizeof(float);
  // 8 KiB stay for what the kernel declares itself, which is 5.
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
