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
         side("moe_gate", tokens), side("moe_gate", experts), static_cast<int>(kept), launch_.attributes[0] == 1, data<float>(weights),
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
         data<const float>(launch_.inputs[3]), side("moe_gate_grad", tokens), side("moe_gate_grad", experts), side("moe_gate_grad", kept),
         launch_.attributes[0] == 1, data<float>(y));
}

// Stable counting sort. A warp takes a chunk of slots and counts its experts; one block turns the counts [E, chunks] into starts;
// the warps walk their chunks again in order.

struct Chunks {
  int64_t size, count;
  explicit Chunks(int64_t slots) {
    size = ceil_divide(ceil_divide(slots, 1024), 32) * 32;
    if (size < 256) size = 256;
    count = ceil_divide(ceil_divide(slots, size), 4) * 4;  // the last ones may be empty: counts are read in fours
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

// Exclusive prefix sums of counts [experts * chunks] in place, four to a thread at a time; offsets[e] is the start of expert e.
__global__ void __launch_bounds__(1024) scan_counts(int4* counts, int64_t total, int64_t chunks, int experts, int32_t* offsets) {
  TREFOIL_SHARED(sums, int32_t[2][32]);  // of one round while the last one's are read
  const int lane = lane_index(), warp = warp_index();
  const int64_t fours = total / 4;
  int32_t before = 0;
  int4 next = threadIdx.x < fours ? counts[threadIdx.x] : int4{};
  for (int64_t first = 0, round = 0; first < fours; first += 1024, round ^= 1) {
    const int64_t i = first + threadIdx.x;
    const int4 own = next;
    if (i + 1024 < fours) next = counts[i + 1024];
    else next = int4{};
    const int32_t through = warp_through(own.x + own.y + own.z + own.w);
    if (lane == 31) sums[round][warp] = through;
    __syncthreads();
    const int32_t warps_through = warp_through(sums[round][lane]);
    int4 start;
    start.x = before + __shfl_sync(kFullWarp, warps_through - sums[round][lane], warp) + through - (own.x + own.y + own.z + own.w);
    start.y = start.x + own.x, start.z = start.y + own.y, start.w = start.z + own.z;
    if (i < fours) counts[i] = start;
    before += __shfl_sync(kFullWarp, warps_through, 31);
  }
  if (!offsets) return;
  __syncthreads();
  const auto* starts = reinterpret_cast<const int32_t*>(counts);
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += 1024) offsets[e] = starts[e * chunks];
  if (threadIdx.x == 0) offsets[experts] = before;
}

__global__ void __launch_bounds__(32) place_slots(const int32_t* expert, int64_t slots, int64_t chunk, int kept, int experts, const int32_t* starts,
                                                  int32_t* permutation, int32_t* token, int32_t* inverse) {
  int32_t* next = dynamic_shared<int32_t>();
  for (int e = lane_index(); e < experts; e += 32) next[e] = starts[static_cast<int64_t>(e) * gridDim.x + blockIdx.x];
  __syncwarp();
  const int64_t first = blockIdx.x * chunk, last = first + chunk < slots ? first + chunk : slots;
  constexpr int kGroups = 4;  // of 32 slots, asked for together
  for (int64_t groups = first; groups < last; groups += kGroups * 32) {
    int32_t chosen[kGroups];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) chosen[g] = groups + g * 32 + lane_index() < last ? expert[groups + g * 32 + lane_index()] : -1;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int64_t s = groups + g * 32 + lane_index();
      const int32_t e = chosen[g];
      const bool valid = e >= 0 && e < experts;
      const uint32_t same = __match_any_sync(kFullWarp, e);  // lanes with the same expert
      int32_t r = 0;
      if (valid) r = next[e] + __popc(same & ((1u << lane_index()) - 1u));
      __syncwarp();
      if (valid && (same >> lane_index()) == 1u) next[e] = r + 1;  // the last of them
      __syncwarp();
      if (!valid) continue;
      if (permutation) permutation[r] = static_cast<int32_t>(s);
      if (token) token[r] = static_cast<int32_t>(s) / kept;
      if (inverse) inverse[s] = r;
    }
  }
}

constexpr int kMostExperts = 8192;  // counters of a chunk fit in the shared memory that needs no asking for

// Where offsets go unread their shape is not known: indices that occur are then below kMostExperts or an error.
int sorted_experts(const TrefoilLaunch& launch_) {
  const TrefoilView& offsets = launch_.outputs[2];
  if (!offsets.data) return kMostExperts;
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
    if (offsets) zero_memory(context, offsets, static_cast<size_t>(experts + 1) * sizeof(int32_t));
    return;
  }
  if (slots > INT32_MAX) fail(TREFOIL_INVALID_ARGUMENT, "moe_sort: 2^31 choices or more");
  const Chunks chunks(slots);
  const unsigned blocks = static_cast<unsigned>(chunks.count);
  const size_t shared = static_cast<size_t>(experts ? experts : 1) * sizeof(int32_t);
  int32_t* counts = static_cast<int32_t*>(launch_.workspace);
  const int32_t* expert = data<const int32_t>(launch_.inputs[0]);
  launch(context, {blocks, 32, shared}, count_experts, context.errors, Checked::moe_sort_expert, expert, slots, chunks.size, experts, counts);
  launch(context, {1, 1024}, scan_counts, reinterpret_cast<int4*>(counts), chunks.count * experts, chunks.count, experts, offsets);
  launch(context, {blocks, 32, shared}, place_slots, expert, slots, chunks.size, kept, experts, counts, optional_output<int32_t>(launch_, 0),
         optional_output<int32_t>(launch_, 1), optional_output<int32_t>(launch_, 3));
}

constexpr int kTogether = 4;  // rows that a thread asks for before it adds the first

// out[t] = sum_j w[t, j] y[inverse[t K + j]] in order of j; weights null: all 1. A block takes a token. Where an index is missing or wrong, row 0
// is read and not added, so that nothing is decided between the loads.
template <int width, class Y>
__global__ void __launch_bounds__(256, 4) moe_combine_kernel(ErrorRecord* errors, Checked what, const Y* y, const int32_t* inverse,
                                                             const float* weights, int rows, int columns, int kept, Floats out) {
  const int64_t token = blockIdx.x, slots = token * kept;
  for (int j = static_cast<int>(threadIdx.x); j < kept; j += static_cast<int>(blockDim.x)) index_in_range(errors, what, inverse[slots + j], slots + j, 0, rows);
  if (rows == 0) kept = 0;
  for (int d = static_cast<int>(threadIdx.x) * width; d < columns; d += static_cast<int>(blockDim.x) * width) {
    Vector<width> total = {};
    for (int first = 0; first < kept; first += kTogether) {
      int32_t row[kTogether];
      float weight[kTogether];
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const int64_t slot = slots + (first + j < kept ? first + j : first);
        row[j] = inverse[slot];
        if (first + j >= kept) row[j] = -1;
        weight[j] = weights ? weights[slot] : 1.0f;
      }
      Vector<width> values[kTogether];
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        if (row[j] < 0 || row[j] >= rows) row[j] = -1;
        values[j] = load_vector<width>(y + static_cast<int64_t>(row[j] < 0 ? 0 : row[j]) * columns + d);
      }
#pragma unroll
      for (int j = 0; j < kTogether; ++j)
#pragma unroll
        for (int i = 0; i < width; ++i) total[i] = row[j] < 0 ? total[i] : fmaf(weight[j], values[j][i], total[i]);
    }
    out.store_vector(token * columns + d, total);
  }
}

// Threads to a row of so many columns, `width` at a time.
unsigned row_threads(int64_t columns, int width) { return columns > 128 * width ? 256 : 128; }

void moe_combine(const Context& context, const TrefoilLaunch& launch_) {
  const TrefoilView &y = launch_.inputs[0], &out = launch_.outputs[0];
  if (!out.data || elements(out) == 0) return;
  const int64_t tokens = out.shape[0], columns = out.shape[1], slots = elements(launch_.inputs[1]), kept = slots / tokens;
  const float* weights = optional_input<const float>(launch_, 2);
  if (kept * tokens != slots || last_dimension(y) != columns || (weights && elements(launch_.inputs[2]) != slots))
    fail(TREFOIL_INVALID_ARGUMENT, "moe_combine: y, inverse, weights and output do not fit each other");
  with_floats(y, [&]<class Y>(Y* from) {
    const auto run = [&](auto kernel, int width) {
      launch(context, {static_cast<unsigned>(side("moe_combine", tokens)), row_threads(columns, width)}, kernel, context.errors, Checked::moe_combine_row, from,
             data<const int32_t>(launch_.inputs[1]), weights, side("moe_combine", y.shape[0]), side("moe_combine", columns), side("moe_combine", kept), Floats(out));
    };
    if (columns % 8 == 0) run(moe_combine_kernel<8, Y>, 8);
    else run(moe_combine_kernel<1, Y>, 1);
  });
}

// dy[r] = w dout (where dy is wanted), dweights[s] = <y[r], dout>. A warp takes a row, and asks for the next one's slot while it works.
template <int width, class Dout, class Y>
__global__ void __launch_bounds__(kWarps * 32) moe_combine_grad_kernel(ErrorRecord* errors, Checked what, const Dout* dout, const Y* y,
                                                                       const int32_t* permutation, const float* weights, int rows, int columns, int kept,
                                                                       Floats dy, float* dweights) {
  const int warps = static_cast<int>(gridDim.x) * kWarps;
  int r = static_cast<int>(blockIdx.x) * kWarps + warp_index();
  int32_t next = r < rows ? permutation[r] : 0;
  for (; r < rows; r += warps) {
    const int32_t s = next;
    if (r + warps < rows) next = permutation[r + warps];
    if (s < 0 || s >= rows) {
      if (lane_index() == 0) report_index(errors, what, s, r, 0, rows);
      continue;
    }
    const float weight = weights[s];
    const Dout* upstream = dout + static_cast<int64_t>(s / kept) * columns;
    const Y* from = y + static_cast<int64_t>(r) * columns;
    float total = 0;
    constexpr int kSteps = 2;  // a thread's loads before the first product
    for (int first = lane_index() * width; first < columns; first += kSteps * 32 * width) {
      Vector<width> up[kSteps] = {}, values[kSteps] = {};
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        const int d = first + k * 32 * width;
        if (d >= columns) continue;
        if (dweights) values[k] = load_vector<width>(from + d);
        up[k] = load_vector<width>(upstream + d);
      }
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        const int d = first + k * 32 * width;
#pragma unroll
        for (int i = 0; i < width; ++i) {
          total = fmaf(up[k][i], values[k][i], total);
          up[k][i] *= weight;
        }
        if (dy && d < columns) dy.store_vector(static_cast<int64_t>(r) * columns + d, up[k]);
      }
    }
    if (!dweights) continue;
    total = warp_sum(total);
    if (lane_index() == 0) dweights[s] = total;
  }
}

void moe_combine_grad(const Context& context, const TrefoilLaunch& launch_) {
  const TrefoilView &dout = launch_.inputs[0], &y = launch_.inputs[1], &weights = launch_.inputs[3];
  const Floats dy = optional_floats(launch_.outputs, launch_.output_count, 0);
  float* dweights = optional_output<float>(launch_, 1);
  const int64_t rows = y.shape[0], columns = y.shape[1], slots = elements(weights), kept = last_dimension(weights);
  if (rows == 0 || columns == 0) {
    if (dweights && slots > 0) zero_memory(context, dweights, static_cast<size_t>(slots) * sizeof(float));
    return;
  }
  if (rows != slots || elements(launch_.inputs[2]) != rows || elements(dout) * kept != rows * columns)
    fail(TREFOIL_INVALID_ARGUMENT, "moe_combine_grad: dout, y, permutation and weights do not fit each other");
  with_floats(dout, y, [&]<class Dout, class Y>(Dout* upstream, Y* from) {
    launch(context, {context.grid(rows, kWarps), kWarps * 32}, columns % 8 == 0 ? moe_combine_grad_kernel<8, Dout, Y> : moe_combine_grad_kernel<1, Dout, Y>,
           context.errors, Checked::moe_combine_grad_slot, upstream, from, data<const int32_t>(launch_.inputs[2]), data<const float>(weights),
           side("moe_combine_grad", rows), side("moe_combine_grad", columns), side("moe_combine_grad", kept), dy, dweights);
  });
}

}  // namespace

extern const KernelEntry moe_kernels[];
const KernelEntry moe_kernels[] = {{"moe_gate", moe_gate, nullptr},       {"moe_gate_grad", moe_gate_grad, nullptr},
                                   {"moe_sort", moe_sort, moe_sort_workspace}, {"moe_combine", moe_combine, nullptr},
                                   {"moe_combine_grad", moe_combine_grad, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
