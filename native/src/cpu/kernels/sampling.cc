// sample_tokens: temperature, top-k and top-p are cuts of the candidates in descending order, found by selection, never by a full sort;
// what is left is drawn from in order of index.
#include "filtered_draw.h"
#include "philox.h"
#include "vector_math.h"
#include "work_split.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

constexpr int64_t kHeapLimit = 128;  // topK up to which one pass over the logits finds the candidates

float greatest(const float* x, int64_t n) {
  Vec best = splat(-HUGE_VALF);
  int64_t i = 0;
  for (; i + Vec::width <= n; i += Vec::width) best = max(load(x + i), best);
  float result = max_lane(best);
  for (; i < n; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

// weight[i] = e^((x[i] - top) * scale), where weight is given, 0 for a NaN; returns their sum.
double exponentials(const float* x, int64_t n, float top, float scale, float* weight) {
  constexpr int64_t block = 4096;  // f32 lanes sum short blocks, f64 sums the blocks
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += block) {
    int64_t end = begin + block < n ? begin + block : n;
    Vec lanes = splat(0.0f);
    float rest = 0.0f;
    for (int64_t i = begin; i < end; i += Vec::width) {
      int count = lanes_left(end, i);
      Vec value = exp((load_part(x + i, count) - splat(top)) * splat(scale));
      if (weight) store_part(weight + i, select(equal(value, value), value, splat(0.0f)), count);
      if (count == Vec::width) {
        lanes = lanes + value;
      } else {
        float tail[Vec::width];
        store(tail, value);
        for (int k = 0; k < count; ++k) rest += tail[k];
      }
    }
    total += static_cast<double>(sum(lanes) + rest);
  }
  return total;
}

// NaN is the last of candidates.
float number(float x) { return x == x ? x : -HUGE_VALF; }

// The `kept` first candidates, in order, by insertion into a short list; logits at or below its last entry are passed over a vector
// at a time.
void candidates_by_insertion(const float* x, int64_t n, int64_t kept, uint64_t* keys) {
  for (int64_t i = 0; i < kept; ++i) keys[i] = candidate_key(number(x[i]), i);
  insertion_sort(keys, kept);
  int64_t i = kept;
  auto consider = [&](int64_t at) {
    uint64_t key = candidate_key(number(x[at]), at);
    if (key >= keys[kept - 1]) return;
    int64_t to = kept - 1;
    for (; to > 0 && keys[to - 1] > key; --to) keys[to] = keys[to - 1];
    keys[to] = key;
  };
  for (; i + Vec::width <= n; i += Vec::width)
    if (any(less(splat(number(x[candidate_index(keys[kept - 1])])), load(x + i))))
      for (int64_t k = i; k < i + Vec::width; ++k) consider(k);
  for (; i < n; ++i) consider(i);
}

struct Cut {
  int64_t count;
  double top_p;
};

// Of the `count` likeliest alone, where they are few: weights of the rest are never computed.
int64_t sample_few(Context& context, const float* x, int64_t n, float top, float scale, Cut cut, float u) {
  uint64_t keys[kHeapLimit];
  float weight[kHeapLimit] = {}, logits[kHeapLimit];
  candidates_by_insertion(x, n, cut.count, keys);
  for (int64_t i = 0; i < cut.count; ++i) keys[i] = candidate_index(keys[i]);
  insertion_sort(keys, cut.count);
  for (int64_t i = 0; i < cut.count; ++i) logits[i] = x[keys[i]];
  exponentials(logits, cut.count, top, scale, weight);
  filter(context, logits, cut.count, 0, cut.top_p, weight);
  return static_cast<int64_t>(keys[draw(weight, cut.count, static_cast<double>(u) * total_of(weight, cut.count))]);
}

struct Options {
  double temperature, top_p;
  int64_t top_k;
};

// One row of n logits, u in [0, 1).
int64_t sample_row(Context& context, const float* x, int64_t n, float top, const Options& options, float u) {
  if (!(options.temperature > 0) || !(top < HUGE_VALF && top > -HUGE_VALF)) {
    for (int64_t i = 0; i < n; ++i)
      if (x[i] == top) return i;
    return 0;
  }
  const int64_t kept = options.top_k > 0 && options.top_k < n ? options.top_k : n;
  if (kept == 1) return sample_row(context, x, n, top, {0, 1, 0}, u);
  float* weight = static_cast<float*>(context.scratch(1, static_cast<size_t>(n) * sizeof(float)));
  const double inverse = 1 / options.temperature;
  const float scale = inverse < 1e38 ? static_cast<float>(inverse) : 1e38f;  // finite: 0 * scale is the top logit's exponent
  if (kept > kHeapLimit) {
    exponentials(x, n, top, scale, weight);
    filter(context, x, n, options.top_k, options.top_p, weight);
    return draw(weight, n, static_cast<double>(u) * total_of(weight, n));
  }
  return sample_few(context, x, n, top, scale, {kept, options.top_p}, u);
}

void sample_tokens(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &logits = launch.inputs[0], &tokens = launch.outputs[0], &log_probability = launch.outputs[1];
  int64_t rows = logits.shape[0], n = logits.shape[1];
  if (rows == 0) return;
  if (n == 0) fail(TREFOIL_INVALID_ARGUMENT, "sample_tokens: there are no logits to choose from");
  Options options{launch.attributes[0], launch.attributes[2], static_cast<int64_t>(launch.attributes[1])};
  const TrefoilView& state = launch.inputs[1];
  context.parallel(rows, [&](int64_t b) {
    const float* x = data<float>(logits) + b * n;
    // One state for all: blocks count through the batch. One state to a row: nothing depends on its neighbours.
    TrefoilView own = state;
    if (state.rank == 2) own.data = data<int32_t>(state) + 4 * b;
    uint32_t words[4][kPhiloxBatch];
    philox(philox_stream(own, launch.attributes[3]), static_cast<uint32_t>(state.rank == 2 ? 0 : b), words);
    float top = greatest(x, n);
    int64_t token = sample_row(context, x, n, top, options, unit_interval(words[0][0]));
    if (tokens.data) data<int32_t>(tokens)[b] = static_cast<int32_t>(token);
    if (log_probability.data)
      data<float>(log_probability)[b] = static_cast<float>(static_cast<double>(x[token] - top) - ::log(exponentials(x, n, top, 1.0f, nullptr)));
  });
}

}  // namespace

extern const KernelEntry sampling_kernels[];
const KernelEntry sampling_kernels[] = {{"sample_tokens", sample_tokens, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
