// Counter-based random numbers: element i depends on state, stream and i alone, so any split into tasks gives the same values.
#include "philox.h"
#include "vector_math.h"
#include "work_split.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

constexpr int64_t kBatchElements = 4 * kPhiloxBatch;

// Calls make(words, values) for every batch of blocks, values[0, kBatchElements) in element order, and copies what fits.
template <class Make>
void generate(Context& context, const TrefoilLaunch& launch, const Make& make) {
  const TrefoilView& y = launch.outputs[0];
  if (!y.data) return;
  int64_t count = elements(y);
  PhiloxStream stream = philox_stream(launch.inputs[0], launch.attributes[0]);
  parallel_ranges(context, count, 32 * kBatchElements, [&](int64_t begin, int64_t end) {
    uint32_t words[4][kPhiloxBatch];
    float values[kBatchElements];
    for (int64_t i = begin; i < end; i += kBatchElements) {
      philox(stream, static_cast<uint32_t>(i / 4), words);
      make(words, values);
      int64_t n = end - i < kBatchElements ? end - i : kBatchElements;
      memcpy(data<float>(y) + i, values, static_cast<size_t>(n) * 4);
    }
  });
}

void random_uniform(Context& context, const TrefoilLaunch& launch) {
  generate(context, launch, [](const uint32_t words[4][kPhiloxBatch], float* values) {
    for (int i = 0; i < kPhiloxBatch; ++i)
      for (int w = 0; w < 4; ++w) values[4 * i + w] = unit_interval(words[w][i]);
  });
}

// Box–Muller on words (0, 1) and (2, 3); u1 is in (0, 1], so that its logarithm is finite.
void random_normal(Context& context, const TrefoilLaunch& launch) {
  generate(context, launch, [](const uint32_t words[4][kPhiloxBatch], float* values) {
    for (int pair = 0; pair < 2; ++pair) {
      float radius[kPhiloxBatch], angle[kPhiloxBatch], sine[kPhiloxBatch];
      for (int i = 0; i < kPhiloxBatch; ++i) {
        radius[i] = unit_interval(words[2 * pair][i]) + 0x1p-24f;
        angle[i] = unit_interval(words[2 * pair + 1][i]) * 6.283185307f;
      }
      for (int i = 0; i < kPhiloxBatch; i += Vec::width) {
        Vec r = sqrt(splat(-2.0f) * log(load(radius + i))), turn = load(angle + i);
        store(sine + i, r * sin(turn));
        store(angle + i, r * cos(turn));
      }
      for (int i = 0; i < kPhiloxBatch; ++i) {
        values[4 * i + 2 * pair] = angle[i];
        values[4 * i + 2 * pair + 1] = sine[i];
      }
    }
  });
}

void random_advance(Context&, const TrefoilLaunch& launch) {
  const int64_t states = elements(launch.inputs[0]) / 4;
  for (int32_t *state = data<int32_t>(launch.inputs[0]), *end = state + 4 * states; state < end; state += 4) {
    uint32_t low = static_cast<uint32_t>(state[2]) + 1;
    state[2] = static_cast<int32_t>(low);
    if (low == 0) state[3] = static_cast<int32_t>(static_cast<uint32_t>(state[3]) + 1);
  }
}

}  // namespace

extern const KernelEntry random_kernels[];
const KernelEntry random_kernels[] = {{"random_uniform", random_uniform, nullptr},
                                      {"random_normal", random_normal, nullptr},
                                      {"random_advance_", random_advance, nullptr},
                                      {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
