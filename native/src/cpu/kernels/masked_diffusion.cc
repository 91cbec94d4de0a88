// One step of parallel decoding (MaskGIT, Chang et al. 2022, arXiv 2202.04200, section 3.2; guidance as in MUSE, arXiv 2301.00704,
// section 2.7): sample every masked token, keep those that the model is sure of, mask the others again.
#include "filtered_draw.h"
#include "philox.h"
#include "vector_math.h"
#include "work_split.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

// weight[i] = e^((x[i] - top) scale); a NaN logit weighs nothing.
void exponentials(const float* x, int64_t n, float top, float scale, float* weight) {
  for (int64_t i = 0; i < n; i += Vec::width) {
    const int lanes = lanes_left(n, i);
    const Vec value = exp((load_part(x + i, lanes) - splat(top)) * splat(scale));
    store_part(weight + i, select(equal(value, value), value, splat(0.0f)), lanes);
  }
}

struct Options {
  float guidance, temperature, noise;
  int64_t top_k;
  double top_p;
};

struct Drawn {
  int64_t token;
  double log_probability;  // under softmax of the guided logits, unfiltered, at temperature 1
};

// One position: n logits, u in [0, 1).
Drawn sample(Context& context, const float* conditional, const float* unconditional, int64_t n, const Options& options, float u) {
  const float* x = conditional;
  float* weight = static_cast<float*>(context.scratch(1, static_cast<size_t>(n) * sizeof(float)));
  Vec most = splat(-HUGE_VALF);
  if (unconditional) {
    float* guided = static_cast<float*>(context.scratch(0, static_cast<size_t>(n) * sizeof(float)));
    for (int64_t i = 0; i < n; i += Vec::width) {
      const int lanes = lanes_left(n, i);
      const Vec c = load_part(conditional + i, lanes);
      store_part(guided + i, fma(c - load_part(unconditional + i, lanes), splat(options.guidance), c), lanes);
    }
    x = guided;
  }
  int64_t i = 0;
  for (; i + Vec::width <= n; i += Vec::width) most = max(load(x + i), most);
  float top = max_lane(most);
  for (; i < n; ++i) top = x[i] > top ? x[i] : top;
  int64_t first = 0;
  while (first + 1 < n && x[first] != top) ++first;
  if (!(top < HUGE_VALF && top > -HUGE_VALF)) return {x[first] == top ? first : 0, top > 0 ? 0.0 : -HUGE_VAL};

  const bool greedy = !(options.temperature > 0);
  const float inverse = greedy ? 1.0f : 1.0f / options.temperature;
  const float scale = inverse < 1e38f ? inverse : 1e38f;  // finite: 0 * scale is the top logit's exponent
  exponentials(x, n, top, scale, weight);
  double normaliser = scale == 1.0f ? total_of(weight, n) : 0, total = normaliser;
  int64_t token = first;
  if (!greedy) {
    filter(context, x, n, options.top_k, options.top_p, weight);
    if (scale != 1.0f || options.top_k > 0 || options.top_p < 1) total = total_of(weight, n);
    token = draw(weight, n, static_cast<double>(u) * total);
  }
  if (scale != 1.0f) {
    exponentials(x, n, top, 1.0f, weight);
    normaliser = total_of(weight, n);
  }
  return {token, static_cast<double>(x[token] - top) - ::log(normaliser)};
}

// Standard Gumbel from 24 bits, never infinite.
double gumbel(uint32_t bits) { return -::log(-::log((static_cast<double>(bits >> 8) + 0.5) * 0x1p-24)); }

enum class Order { confidence = 0, random = 1 };

int64_t workspace_part(int64_t count) { return (count * 4 + 63) / 64 * 64; }

size_t masked_diffusion_step_workspace(const TrefoilLaunch& launch) { return static_cast<size_t>(2 * workspace_part(elements(launch.inputs[2]))); }

void masked_diffusion_step(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &logits = launch.inputs[0], &uncond = launch.inputs[1], &state = launch.inputs[5];
  const int64_t batch = logits.shape[0], positions = logits.shape[1], n = logits.shape[2], count = batch * positions;
  const int32_t *tokens = data<int32_t>(launch.inputs[2]), *remaining = data<int32_t>(launch.inputs[3]);
  const float* controls = data<float>(launch.inputs[4]);
  const float* priority = launch.input_count > 6 ? data<float>(launch.inputs[6]) : nullptr;
  const int64_t priority_step = priority && launch.inputs[6].rank == 2 ? positions : 0;
  const int32_t mask = static_cast<int32_t>(launch.attributes[0]);
  const Options options{controls[0], controls[1], controls[2], static_cast<int64_t>(launch.attributes[1]), launch.attributes[2]};
  const Order order = static_cast<Order>(static_cast<int>(launch.attributes[3]));
  if (count == 0) return;
  if (n == 0) fail(TREFOIL_INVALID_ARGUMENT, "masked_diffusion_step: there are no logits to choose from");
  for (int64_t b = 0; b < batch; ++b)
    if (remaining[b] < 0 || remaining[b] > positions)
      fail(TREFOIL_INDEX_OUT_OF_RANGE, "masked_diffusion_step: remaining[%lld] is %d; it must be in [0, %lld]", static_cast<long long>(b),
           remaining[b], static_cast<long long>(positions));
  int32_t* sampled = static_cast<int32_t*>(launch.workspace);
  float* confidence = reinterpret_cast<float*>(static_cast<char*>(launch.workspace) + workspace_part(count));

  parallel_ranges(context, count, rows_per_task(n, 16384), [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      sampled[at] = tokens[at];
      confidence[at] = HUGE_VALF;
      if (tokens[at] != mask) continue;
      // One state for all: blocks count through the batch. One state to a sequence: nothing depends on its neighbours.
      const int64_t b = at / positions, i = at % positions;
      TrefoilView own = state;
      if (state.rank == 2) own.data = data<int32_t>(state) + 4 * b;
      uint32_t words[4][kPhiloxBatch];
      philox(philox_stream(own, launch.attributes[4]), static_cast<uint32_t>(state.rank == 2 ? i : at), words);
      const Drawn drawn = sample(context, data<float>(logits) + at * n, uncond.data ? data<float>(uncond) + at * n : nullptr, n, options,
                                 unit_interval(words[0][0]));
      sampled[at] = static_cast<int32_t>(drawn.token);
      if (priority) confidence[at] = priority[b * priority_step + i];
      else if (order == Order::random) confidence[at] = unit_interval(words[1][0]);
      else confidence[at] = static_cast<float>(drawn.log_probability + (options.noise != 0 ? static_cast<double>(options.noise) * gumbel(words[1][0]) : 0.0));
    }
  });
  if (launch.outputs[1].data) memcpy(launch.outputs[1].data, sampled, static_cast<size_t>(count) * 4);
  if (launch.outputs[2].data) memcpy(launch.outputs[2].data, confidence, static_cast<size_t>(count) * 4);
  int32_t* next = data<int32_t>(launch.outputs[0]);
  if (!next) return;
  context.parallel(batch, [&](int64_t b) {
    uint64_t* keys = static_cast<uint64_t*>(context.scratch(2, static_cast<size_t>(positions) * sizeof(uint64_t)));
    int64_t masked = 0;
    for (int64_t i = 0; i < positions; ++i) {
      const int64_t at = b * positions + i;
      next[at] = sampled[at];
      if (tokens[at] == mask) keys[masked++] = candidate_key(confidence[at], i);
    }
    if (masked == 0) return;
    const int64_t again = remaining[b] < masked ? remaining[b] : masked - 1;  // every step reveals a token
    select_count(keys, masked, masked - again);
    for (int64_t k = masked - again; k < masked; ++k) next[b * positions + candidate_index(keys[k])] = mask;
  });
}

}  // namespace

extern const KernelEntry masked_diffusion_kernels[];
const KernelEntry masked_diffusion_kernels[] = {{"masked_diffusion_step", masked_diffusion_step, masked_diffusion_step_workspace},
                                                {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
