// Mixture-of-experts routing: gate, sort by expert, combine, and their gradients. T tokens, E experts, K choices; slot s = t K + j.
#include "indices.h"
#include "partial.h"
#include "vector_math.h"
#include "work_split.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

// probability[e] = softmax of logits[0, experts).
void softmax(const float* logits, int64_t experts, float greatest, float* probability) {
  float total = 0.0f;
  for (int64_t e = 0; e < experts; e += Vec::width) {
    int lanes = lanes_left(experts, e);
    store_part(probability + e, exp(load_part(logits + e, lanes) - splat(greatest)), lanes);
  }
  for (int64_t e = 0; e < experts; ++e) total += probability[e];
  for (int64_t e = 0; e < experts; ++e) probability[e] /= total;
}

// NaN is less than any number.
bool larger(float a, float b) { return a > b || (b != b && a == a); }

// The largest `kept` logits, descending; equal ones keep the lower index first.
void select_largest(const float* logits, int64_t experts, int64_t kept, float* value, int32_t* index) {
  int64_t filled = 0;
  for (int64_t e = 0; kept > 0 && e < experts; ++e) {
    if (filled == kept && !larger(logits[e], value[kept - 1])) continue;
    int64_t at = filled < kept ? filled++ : kept - 1;
    for (; at > 0 && larger(logits[e], value[at - 1]); --at) {
      value[at] = value[at - 1];
      index[at] = index[at - 1];
    }
    value[at] = logits[e];
    index[at] = static_cast<int32_t>(e);
  }
}

void moe_gate(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &logits = launch.inputs[0], &weights = launch.outputs[0], &indices = launch.outputs[1], &probabilities = launch.outputs[2];
  int64_t tokens = logits.shape[0], experts = logits.shape[1];
  // K comes from whichever of the two is read.
  const TrefoilView& shaped = weights.data ? weights : indices;
  int64_t kept = shaped.data ? shaped.shape[1] : 0;
  if (kept > experts) fail(TREFOIL_INVALID_ARGUMENT, "moe_gate: cannot keep %lld of %lld experts", static_cast<long long>(kept), static_cast<long long>(experts));
  if (tokens == 0 || experts == 0) return;
  bool over_all = launch.attributes[0] == 1;
  parallel_ranges(context, tokens, rows_per_task(experts * 8), [&](int64_t begin, int64_t end) {
    float* value = static_cast<float*>(context.scratch(1, static_cast<size_t>(2 * kept + experts) * sizeof(float) + static_cast<size_t>(kept) * sizeof(int32_t)));
    float *weight = value + kept, *probability = weight + kept;
    int32_t* index = reinterpret_cast<int32_t*>(probability + experts);
    for (int64_t t = begin; t < end; ++t) {
      const float* row = data<float>(logits) + t * experts;
      select_largest(row, experts, kept, value, index);
      float greatest = kept ? value[0] : row[0];
      if (!kept)
        for (int64_t e = 1; e < experts; ++e) greatest = row[e] > greatest ? row[e] : greatest;
      if (over_all || probabilities.data) {
        float* to = probabilities.data ? data<float>(probabilities) + t * experts : probability;
        softmax(row, experts, greatest, to);
        if (over_all)
          for (int64_t j = 0; j < kept; ++j) weight[j] = to[index[j]];
      }
      if (!over_all) softmax(value, kept, greatest, weight);
      if (weights.data) memcpy(data<float>(weights) + t * kept, weight, static_cast<size_t>(kept) * 4);
      if (indices.data) memcpy(data<int32_t>(indices) + t * kept, index, static_cast<size_t>(kept) * 4);
    }
  });
}

// mode 0: dl[I_j] = w_j (dw_j - sum_i w_i dw_i), 0 elsewhere; mode 1: the softmax Jacobian over all experts with dp = dw on the kept.
void moe_gate_grad(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &dweights = launch.inputs[0], &weights = launch.inputs[1], &probabilities = launch.inputs[3], &y = launch.outputs[0];
  int64_t tokens = y.shape[0], experts = y.shape[1], kept = last_dimension(weights);
  if (!y.data || elements(y) == 0) return;
  const int32_t* index = data<int32_t>(launch.inputs[2]);
  check_indices("moe_gate_grad", "expert", index, tokens * kept, 0, experts);
  bool over_all = launch.attributes[0] == 1;
  parallel_ranges(context, tokens, rows_per_task(experts + 4 * kept), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float *dw = data<float>(dweights) + t * kept, *w = data<float>(weights) + t * kept;
      const int32_t* chosen = index + t * kept;
      float* to = data<float>(y) + t * experts;
      float mean = 0.0f;  // in mode 1 the kept weights are the probabilities themselves
      for (int64_t j = 0; j < kept; ++j) mean += w[j] * dw[j];
      if (over_all) {
        const float* p = data<float>(probabilities) + t * experts;
        for (int64_t e = 0; e < experts; ++e) to[e] = p[e] * -mean;
        for (int64_t j = 0; j < kept; ++j) to[chosen[j]] = p[chosen[j]] * (dw[j] - mean);
      } else {
        memset(to, 0, static_cast<size_t>(experts) * 4);
        for (int64_t j = 0; j < kept; ++j) to[chosen[j]] = w[j] * (dw[j] - mean);
      }
    }
  });
}

// Stable counting sort. Chunks of slots count their experts; prefix sums over (expert, chunk) tell each chunk where it writes.
void moe_sort(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &permutation = launch.outputs[0], &token = launch.outputs[1], &offsets = launch.outputs[2], &inverse = launch.outputs[3];
  // Where offsets go unread their shape is not known: as on CUDA, indices that occur are then below kMostUnreadExperts or an error.
  constexpr int64_t kMostUnreadExperts = 8192;
  int64_t slots = elements(launch.inputs[0]), kept = last_dimension(launch.inputs[0]), experts = offsets.data ? elements(offsets) - 1 : kMostUnreadExperts;
  const int32_t* expert = data<int32_t>(launch.inputs[0]);
  if (experts < 0) fail(TREFOIL_INVALID_ARGUMENT, "moe_sort: offsets must hold one number more than there are experts");
  if (slots > INT32_MAX) fail(TREFOIL_INVALID_ARGUMENT, "moe_sort: 2^31 choices or more");
  check_indices("moe_sort", "expert", expert, slots, 0, experts);
  constexpr int64_t chunk = 8192;
  int64_t chunks = ceil_divide(slots, chunk);
  int32_t* next = static_cast<int32_t*>(context.scratch(0, static_cast<size_t>(chunks * experts + 1) * sizeof(int32_t)));  // [chunks, E]
  parallel_ranges(context, slots, chunk, [&](int64_t begin, int64_t end) {
    int32_t* count = next + begin / chunk * experts;
    memset(count, 0, static_cast<size_t>(experts) * sizeof(int32_t));
    for (int64_t s = begin; s < end; ++s) ++count[expert[s]];
  });
  int32_t start = 0;
  for (int64_t e = 0; e < experts; ++e) {
    if (offsets.data) data<int32_t>(offsets)[e] = start;
    for (int64_t c = 0; c < chunks; ++c) {
      int32_t count = next[c * experts + e];
      next[c * experts + e] = start;
      start += count;
    }
  }
  if (offsets.data) data<int32_t>(offsets)[experts] = start;
  parallel_ranges(context, slots, chunk, [&](int64_t begin, int64_t end) {
    int32_t* position = next + begin / chunk * experts;
    for (int64_t s = begin; s < end; ++s) {
      int32_t r = position[expert[s]]++;
      if (permutation.data) data<int32_t>(permutation)[r] = static_cast<int32_t>(s);
      if (token.data) data<int32_t>(token)[r] = static_cast<int32_t>(s / kept);
      if (inverse.data) data<int32_t>(inverse)[s] = r;
    }
  });
}

// out[t] = sum_j w[t, j] y[inverse[t K + j]] in order of j; weight == nullptr: all 1.
void combine_rows(const float* y, int64_t width, const int32_t* row, const float* weight, int64_t kept, float* out) {
  for (int64_t d = 0; d < width; d += Vec::width) {
    int lanes = lanes_left(width, d);
    Vec total = splat(0.0f);
    for (int64_t j = 0; j < kept; ++j) total = fma(splat(weight ? weight[j] : 1.0f), load_part(y + row[j] * width + d, lanes), total);
    store_part(out + d, total, lanes);
  }
}

void moe_combine(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &y = launch.inputs[0], &weights = launch.inputs[2], &out = launch.outputs[0];
  if (!out.data || elements(out) == 0) return;
  int64_t tokens = out.shape[0], width = out.shape[1], slots = elements(launch.inputs[1]), kept = slots / tokens;
  if (kept * tokens != slots || last_dimension(y) != width || (weights.data && elements(weights) != slots))
    fail(TREFOIL_INVALID_ARGUMENT, "moe_combine: y, inverse, weights and output do not fit each other");
  const int32_t* inverse = data<int32_t>(launch.inputs[1]);
  check_indices("moe_combine", "row", inverse, slots, 0, y.shape[0]);
  parallel_ranges(context, tokens, rows_per_task(width * (kept + 1)), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      combine_rows(data<float>(y), width, inverse + t * kept, weights.data ? data<float>(weights) + t * kept : nullptr, kept,
                   data<float>(out) + t * width);
  });
}

// dy[r] = w dout (where dy is wanted); returns <y[r], dout>.
float combine_row_grad(const float* dout, const float* y, float weight, float* dy, int64_t width) {
  Vec total = splat(0.0f);
  for (int64_t d = 0; d < width; d += Vec::width) {
    int lanes = lanes_left(width, d);
    Vec upstream = load_part(dout + d, lanes);
    total = fma(upstream, load_part(y + d, lanes), total);
    if (dy) store_part(dy + d, upstream * splat(weight), lanes);
  }
  return sum(total);
}

void moe_combine_grad(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &dout = launch.inputs[0], &y = launch.inputs[1], &weights = launch.inputs[3], &dy = launch.outputs[0], &dweights = launch.outputs[1];
  int64_t rows = y.shape[0], width = y.shape[1], slots = elements(weights), kept = last_dimension(weights);
  if (rows == 0 || width == 0) {
    if (dweights.data) memset(dweights.data, 0, static_cast<size_t>(slots) * 4);
    return;
  }
  if (rows != slots || elements(launch.inputs[2]) != rows || elements(dout) * kept != rows * width)
    fail(TREFOIL_INVALID_ARGUMENT, "moe_combine_grad: dout, y, permutation and weights do not fit each other");
  const int32_t* permutation = data<int32_t>(launch.inputs[2]);
  check_indices("moe_combine_grad", "slot", permutation, rows, 0, slots);
  parallel_ranges(context, rows, rows_per_task(3 * width), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t s = permutation[r];
      float product = combine_row_grad(data<float>(dout) + s / kept * width, data<float>(y) + r * width, data<float>(weights)[s],
                                       dy.data ? data<float>(dy) + r * width : nullptr, width);
      if (dweights.data) data<float>(dweights)[s] = product;
    }
  });
}

}  // namespace

extern const KernelEntry moe_kernels[];
const KernelEntry moe_kernels[] = {{"moe_gate", moe_gate, nullptr},       {"moe_gate_grad", moe_gate_grad, nullptr},
                                   {"moe_sort", moe_sort, nullptr},       {"moe_combine", moe_combine, nullptr},
                                   {"moe_combine_grad", moe_combine_grad, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
