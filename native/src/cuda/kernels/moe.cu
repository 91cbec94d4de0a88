// Mixture-of-experts routing: gate, sort by expert, combine, and their gradients. T tokens, E experts, K choices; slot s = t K + j.
// Nothing here waits for the host: counts stay on the device.
#include "floats.h"
#include "index_check.h"

namespace trefoil::cuda {

namespace {

constexpr int kWarps = 8;  // to a block: each takes a token, or a chunk of slots

// Grows with the logit; NaN lowest. Ties are broken by index: every expert has its place.
__device__ __forceinline__ uint32_t rank_key(float logit) {
  if (!(logit == logit)) return 0;
  const uint32_t bits = __float_as_uint(logit + 0.0f);  // -0 and +0 tie
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The best expert after (key, index) in descending order of key, ascending of index. -1: none left.
__device__ __forceinline__ int next_expert(const float* row, int experts, uint32_t after_key, int after_index, bool first, uint32_t& key) {
  uint32_t best = 0;
  int at = -1;
  for (int e = lane_index(); e < experts; e += 32) {
    const uint32_t candidate = rank_key(row[e]);
    const bool left = first || candidate < after_key || (candidate == after_key && e > after_index);
    if (left && (at < 0 || candidate > best)) {
      best = candidate;
      at = e;
    }
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const uint32_t other = __shfl_xor_sync(kFullWarp, best, offset);
    const int other_at = __shfl_xor_sync(kFullWarp, at, offset);
    if (other_at >= 0 && (at < 0 || other > best || (other == best && other_at < at))) {
      best = other;
      at = other_at;
    }
  }
  key = best;
  return at;
}

__global__ void __launch_bounds__(kWarps * 32) moe_gate_kernel(const float* logits, int tokens, int experts, int kept, bool over_all,
                                                               float* weights, int32_t* indices, float* probabilities) {
  const int token = static_cast<int>(blockIdx.x) * kWarps + warp_index();
  if (token >= tokens) return;
  const float* row = logits + static_cast<int64_t>(token) * experts;
  float greatest = -INFINITY, total = 0;
  for (int e = lane_index(); e < experts; e += 32) greatest = fmaxf(greatest, row[e]);
  greatest = warp_max(greatest);
  if (over_all || probabilities) {
    for (int e = lane_index(); e < experts; e += 32) total += expf(row[e] - greatest);
    total = warp_sum(total);
  }
  if (probabilities)
    for (int e = lane_index(); e < experts; e += 32) probabilities[static_cast<int64_t>(token) * experts + e] = expf(row[e] - greatest) / total;
  if (!weights && !indices) return;
  // The kept logits fall, so their softmax is shifted by the first.
  float kept_total = 0;
  uint32_t key = 0;
  int expert = -1;
  for (int j = 0; j < kept; ++j) {
    expert = next_expert(row, experts, key, expert, j == 0, key);
    const float term = expf(row[expert] - greatest);
    kept_total += term;
    if (lane_index() != 0) continue;
    if (indices) indices[static_cast<int64_t>(token) * kept + j] = expert;
    if (weights) weights[static_cast<int64_t>(token) * kept + j] = over_all ? term / total : term;
  }
  if (!weights || over_all) return;
  __syncwarp();
  for (int j = lane_index(); j < kept; j += 32) weights[static_cast<int64_t>(token) * kept + j] /= kept_total;
}

void moe_gate(const Context& context, const TrefoilLaunch& launch_) {
  const TrefoilView &logits = launch_.inputs[0], &weights = launch_.outputs[0], &indices = launch_.outputs[1];
  const int64_t tokens = logits.shape[0], experts = logits.shape[1];
  const TrefoilView& shaped = weights.data ? weights : indices;  // K comes from whichever of the two is read
  const int64_t kept = shaped.data ? shaped.shape[1] : 0;
  if (kept > experts)
    fail(TREFOIL_INVALID_ARGUMENT, "moe_gate: cannot keep %lld of %lld experts", static_cast<long long>(kept), static_cast<long long>(experts));
  if (tokens == 0 || experts == 0) return;
  launch(context, {static_cast<unsigned>(ceil_divide(tokens, kWarps)), kWarps * 32}, moe_gate_kernel, data<const float>(logits),
         static_cast<int>(tokens), static_cast<int>(experts), static_cast<int>(kept), launch_.attributes[0] == 1, data<float>(weights),
         data<int32_t>(indices), optional_output<float>(launch_, 2));
}

// mode 0: dl[I_j] = w_j (dw_j - sum_i w_i dw_i), 0 elsewhere; mode 1: the softmax Jacobian over all experts with dp = dw on the kept.
__global__ void __launch_bounds__(kWarps * 32) moe_gate_grad_kernel(ErrorRecord* errors, Checked what, const float* dweights, const float* weights,
                                                                    const int32_t* indices, const float* probabilities, int tokens, int experts,
                                                                    int kept, bool over_all, float* dlogits) {
  const int token = static_cast<int>(blockIdx.x) * kWarps + warp_index();
  if (token >= tokens) return;
  const int64_t first = static_cast<int64_t>(token) * kept;
  float mean = 0;  // in order of j, the same in every lane
  for (int j = 0; j < kept; ++j) mean += weights[first + j] * dweights[first + j];
  float* to = dlogits + static_cast<int64_t>(token) * experts;
  const float* p = probabilities + static_cast<int64_t>(token) * experts;
  for (int e = lane_index(); e < experts; e += 32) to[e] = over_all ? p[e] * -mean : 0.0f;
  __syncwarp();
  for (int j = lane_index(); j < kept; j += 32) {
    const int32_t e = indices[first + j];
    if (!index_in_range(errors, what, e, first + j, 0, experts)) continue;
    to[e] = (over_all ? p[e] : weights[first + j]) * (dweights[first + j] - mean);
  }
}

void moe_gate_grad(const Context& context, const TrefoilLaunch& launch_) {
  const TrefoilView& y = launch_.outputs[0];
  const int64_t tokens = y.shape[0], experts = y.shape[1], kept = last_dimension(launch_.inputs[1]);
  if (!y.data || elements(y) == 0) return;
  launch(context, {static_cast<unsigned>(ceil_divide(tokens, kWarps)), kWarps * 32}, moe_gate_grad_kernel, context.errors, Checked::moe_gate_grad_expert,
         data<const float>(launch_.inputs[0]), data<const float>(launch_.inputs[1]), data<const int32_t>(launch_.inputs[2]),
         data<const float>(launch_.inputs[3]), static_cast<int>(tokens), static_cast<int>(experts), static_cast<int>(kept),
         launch_.attributes[0] == 1, data<float>(y));
}

// Stable counting sort. A warp takes a chunk of slots and counts its experts; one block turns the counts [E, chunks] into starts;
// the warps walk their chunks again in order.

struct Chunks {
  int64_t size, count;
  explicit Chunks(int64_t slots) {
    size = ceil_divide(ceil_divide(slots, 1024), 32) * 32;
    if (size < 256) size = 256;
    count = ceil_divide(slots, size);
  }
};

__global__ void __launch_bounds__(32) count_experts(ErrorRecord* errors, Checked what, const int32_t* expert, int64_t slots, int64_t chunk,
                                                    int experts, int32_t* counts) {
  int32_t* count = dynamic_shared<int32_t>();
  for (int e = lane_index(); e < experts; e += 32) count[e] = 0;
  __syncwarp();
  const int64_t first = blockIdx.x * chunk, last = first + chunk < slots ? first + chunk : slots;
  for (int64_t s = first + lane_index(); s < last; s += 32)
    if (index_in_range(errors, what, expert[s], s, 0, experts)) atomicAdd(count + expert[s], 1);  // integers: any order
  __syncwarp();
  for (int e = lane_index(); e < experts; e += 32) counts[static_cast<int64_t>(e) * gridDim.x + blockIdx.x] = count[e];
}

// Exclusive prefix sums of counts [experts * chunks] in place; offsets[e] is the start of expert e.
__global__ void __launch_bounds__(1024) scan_counts(int32_t* counts, int64_t total, int64_t chunks, int experts, int32_t* offsets) {
  TREFOIL_SHARED(sums, int32_t[32]);
  const int lane = lane_index(), warp = warp_index();
  int32_t before = 0;
  for (int64_t first = 0; first < total; first += 1024) {
    const int64_t i = first + threadIdx.x;
    const int32_t own = i < total ? counts[i] : 0;
    int32_t through = own;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int32_t below = __shfl_up_sync(kFullWarp, through, offset);
      if (lane >= offset) through += below;
    }
    __syncthreads();
    if (lane == 31) sums[warp] = through;
    __syncthreads();
    int32_t warps_before = 0, all = 0;
    for (int w = 0; w < 32; ++w) {
      if (w < warp) warps_before += sums[w];
      all += sums[w];
    }
    const int32_t start = before + warps_before + through - own;
    if (i < total) {
      counts[i] = start;
      if (offsets && i % chunks == 0) offsets[i / chunks] = start;
    }
    before += all;
  }
  if (offsets && threadIdx.x == 0) offsets[experts] = before;
}

__global__ void __launch_bounds__(32) place_slots(const int32_t* expert, int64_t slots, int64_t chunk, int kept, int experts, const int32_t* starts,
                                                  int32_t* permutation, int32_t* token, int32_t* inverse) {
  int32_t* next = dynamic_shared<int32_t>();
  for (int e = lane_index(); e < experts; e += 32) next[e] = starts[static_cast<int64_t>(e) * gridDim.x + blockIdx.x];
  __syncwarp();
  const int64_t first = blockIdx.x * chunk, last = first + chunk < slots ? first + chunk : slots;
  for (int64_t group = first; group < last; group += 32) {
    const int64_t s = group + lane_index();
    const int32_t e = s < last ? expert[s] : -1;
    const bool valid = e >= 0 && e < experts;
    // Lanes with the same expert: one round per expert that occurs among them.
    uint32_t same = 0, left = __ballot_sync(kFullWarp, valid);
    while (left) {
      const int32_t leader = __shfl_sync(kFullWarp, e, __ffs(static_cast<int>(left)) - 1);
      const uint32_t alike = __ballot_sync(kFullWarp, valid && e == leader);
      if (valid && e == leader) same = alike;
      left &= ~alike;
    }
    int32_t r = 0;
    if (valid) r = next[e] + __popc(same & ((1u << lane_index()) - 1u));
    __syncwarp();
    if (valid && (same >> lane_index()) == 1u) next[e] = r + 1;  // the last of them
    __syncwarp();
    if (!valid) continue;
    if (permutation) permutation[r] = static_cast<int32_t>(s);
    if (token) token[r] = static_cast<int32_t>(s / kept);
    if (inverse) inverse[s] = r;
  }
}

constexpr int kMostExperts = 8192;  // counters of a chunk fit in the shared memory that needs no asking for

// Where offsets go unread their shape is not known: indices that occur are then below kMostExperts or an error.
int sorted_experts(const TrefoilLaunch& launch_) {
  const TrefoilView& offsets = launch_.outputs[2];
  if (offsets.rank == 0) return kMostExperts;
  const int64_t experts = elements(offsets) - 1;
  if (experts < 0 || experts > kMostExperts)
    fail(TREFOIL_INVALID_ARGUMENT, "moe_sort: %lld experts; from 0 to %d are supported, and offsets must hold one number more", static_cast<long long>(experts), kMostExperts);
  return static_cast<int>(experts);
}

size_t moe_sort_workspace(const Context&, const TrefoilLaunch& launch_) {
  return static_cast<size_t>(Chunks(elements(launch_.inputs[0])).count * sorted_experts(launch_)) * sizeof(int32_t);
}

void moe_sort(const Context& context, const TrefoilLaunch& launch_) {
  const int64_t slots = elements(launch_.inputs[0]);
  const int experts = sorted_experts(launch_), kept = static_cast<int>(last_dimension(launch_.inputs[0]));
  int32_t* offsets = optional_output<int32_t>(launch_, 2);
  if (slots == 0) {
    if (offsets) platform::fill_zero(context.stream, offsets, static_cast<size_t>(experts + 1) * sizeof(int32_t));
    return;
  }
  const Chunks chunks(slots);
  const unsigned blocks = static_cast<unsigned>(chunks.count);
  const size_t shared = static_cast<size_t>(experts ? experts : 1) * sizeof(int32_t);
  int32_t* counts = static_cast<int32_t*>(launch_.workspace);
  const int32_t* expert = data<const int32_t>(launch_.inputs[0]);
  launch(context, {blocks, 32, shared}, count_experts, context.errors, Checked::moe_sort_expert, expert, slots, chunks.size, experts, counts);
  launch(context, {1, 1024}, scan_counts, counts, chunks.count * experts, chunks.count, experts, offsets);
  launch(context, {blocks, 32, shared}, place_slots, expert, slots, chunks.size, kept, experts, counts, optional_output<int32_t>(launch_, 0),
         optional_output<int32_t>(launch_, 1), optional_output<int32_t>(launch_, 3));
}

// out[t] = sum_j w[t, j] y[inverse[t K + j]] in order of j; weights null: all 1. A block takes a token.
template <int width>
__global__ void __launch_bounds__(128) moe_combine_kernel(ErrorRecord* errors, Checked what, Floats y, const int32_t* inverse,
                                                          const float* weights, int rows, int columns, int kept, Floats out) {
  const int64_t token = blockIdx.x;
  for (int d = static_cast<int>(threadIdx.x) * width; d < columns; d += 128 * width) {
    float total[width] = {};
    for (int j = 0; j < kept; ++j) {
      const int32_t row = inverse[token * kept + j];
      if (row < 0 || row >= rows) {
        if (d == 0) report_index(errors, what, row, token * kept + j, 0, rows);
        continue;
      }
      const float weight = weights ? weights[token * kept + j] : 1.0f;
      const int64_t from = static_cast<int64_t>(row) * columns + d;
      float values[width];
      if constexpr (width == 4) *reinterpret_cast<float4*>(values) = y.load4(from);
      else values[0] = y.load(from);
#pragma unroll
      for (int i = 0; i < width; ++i) total[i] = fmaf(weight, values[i], total[i]);
    }
    if constexpr (width == 4) out.store4(token * columns + d, make_float4(total[0], total[1], total[2], total[3]));
    else out.store(token * columns + d, total[0]);
  }
}

void moe_combine(const Context& context, const TrefoilLaunch& launch_) {
  const TrefoilView &y = launch_.inputs[0], &out = launch_.outputs[0];
  if (!out.data || elements(out) == 0) return;
  const int64_t tokens = out.shape[0], width = out.shape[1], slots = elements(launch_.inputs[1]), kept = slots / tokens;
  const float* weights = optional_input<const float>(launch_, 2);
  if (kept * tokens != slots || last_dimension(y) != width || (weights && elements(launch_.inputs[2]) != slots))
    fail(TREFOIL_INVALID_ARGUMENT, "moe_combine: y, inverse, weights and output do not fit each other");
  auto run = [&](auto kernel) {
    launch(context, {static_cast<unsigned>(tokens), 128}, kernel, context.errors, Checked::moe_combine_row, Floats(y),
           data<const int32_t>(launch_.inputs[1]), weights, static_cast<int>(y.shape[0]), static_cast<int>(width), static_cast<int>(kept), Floats(out));
  };
  if (width % 4 == 0) run(moe_combine_kernel<4>);
  else run(moe_combine_kernel<1>);
}

// dy[r] = w dout (where dy is wanted), dweights[s] = <y[r], dout>. A block takes a row.
template <int width>
__global__ void __launch_bounds__(128) moe_combine_grad_kernel(ErrorRecord* errors, Checked what, Floats dout, Floats y,
                                                               const int32_t* permutation, const float* weights, int rows, int columns, int kept,
                                                               Floats dy, float* dweights) {
  const int64_t r = blockIdx.x;
  const int32_t s = permutation[r];
  if (s < 0 || s >= rows) {
    if (threadIdx.x == 0) report_index(errors, what, s, r, 0, rows);
    return;
  }
  const float weight = weights[s];
  const Floats upstream = dout.from(static_cast<int64_t>(s / kept) * columns), from = y.from(r * columns);
  float total = 0;
  for (int d = static_cast<int>(threadIdx.x) * width; d < columns; d += 128 * width) {
    float up[width], values[width] = {};
    if constexpr (width == 4) *reinterpret_cast<float4*>(up) = upstream.load4(d);
    else up[0] = upstream.load(d);
    if (dweights) {
      if constexpr (width == 4) *reinterpret_cast<float4*>(values) = from.load4(d);
      else values[0] = from.load(d);
#pragma unroll
      for (int i = 0; i < width; ++i) total = fmaf(up[i], values[i], total);
    }
    if (!dy) continue;
    if constexpr (width == 4) dy.store4(r * columns + d, make_float4(up[0] * weight, up[1] * weight, up[2] * weight, up[3] * weight));
    else dy.store(r * columns + d, up[0] * weight);
  }
  if (!dweights) return;
  total = block_sum(total);
  if (threadIdx.x == 0) dweights[s] = total;
}

void moe_combine_grad(const Context& context, const TrefoilLaunch& launch_) {
  const TrefoilView &dout = launch_.inputs[0], &y = launch_.inputs[1], &weights = launch_.inputs[3];
  const Floats dy = optional_floats(launch_.outputs, launch_.output_count, 0);
  float* dweights = optional_output<float>(launch_, 1);
  const int64_t rows = y.shape[0], width = y.shape[1], slots = elements(weights), kept = last_dimension(weights);
  if (rows == 0 || width == 0) {
    if (dweights && slots > 0) platform::fill_zero(context.stream, dweights, static_cast<size_t>(slots) * sizeof(float));
    return;
  }
  if (rows != slots || elements(launch_.inputs[2]) != rows || elements(dout) * kept != rows * width)
    fail(TREFOIL_INVALID_ARGUMENT, "moe_combine_grad: dout, y, permutation and weights do not fit each other");
  auto run = [&](auto kernel) {
    launch(context, {static_cast<unsigned>(rows), 128}, kernel, context.errors, Checked::moe_combine_grad_slot, Floats(dout), Floats(y),
           data<const int32_t>(launch_.inputs[2]), data<const float>(weights), static_cast<int>(rows), static_cast<int>(width), static_cast<int>(kept), dy, dweights);
  };
  if (width % 4 == 0) run(moe_combine_grad_kernel<4>);
  else run(moe_combine_grad_kernel<1>);
}

}  // namespace

extern const KernelEntry moe_kernels[];
const KernelEntry moe_kernels[] = {{"moe_gate", moe_gate, nullptr},       {"moe_gate_grad", moe_gate_grad, nullptr},
                                   {"moe_sort", moe_sort, moe_sort_workspace}, {"moe_combine", moe_combine, nullptr},
                                   {"moe_combine_grad", moe_combine_grad, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
