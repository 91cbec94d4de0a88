// masked_diffusion_step against the definition in double precision with the same random numbers.
#include <numeric>

#include "numeric.h"
#include "random_reference.h"

using namespace trefoil::test;

namespace {

constexpr int32_t kMask = -1;

struct Options {
  float guidance = 0, temperature = 1, noise = 0;
  double top_k = 0, top_p = 1, order = 0;
};

struct Result {
  I32 next, sampled;
  F32 confidence;
};

struct Problem {
  F32 conditional, unconditional;
  I32 tokens, remaining;
  bool guided = true;
};

Problem make_problem(uint32_t seed, int64_t batch, int64_t positions, int64_t codes) {
  std::mt19937 generator(seed);
  Problem problem{normal(generator, {batch, positions, codes}, 2.0f), normal(generator, {batch, positions, codes}, 2.0f), I32({batch, positions}), I32({batch})};
  for (int64_t i = 0; i < batch * positions; ++i) problem.tokens[static_cast<size_t>(i)] = i % 3 == 0 ? static_cast<int32_t>(i * 7 % codes) : kMask;
  for (int64_t b = 0; b < batch; ++b) problem.remaining[static_cast<size_t>(b)] = static_cast<int32_t>(positions / 2 - b);
  return problem;
}

I32 shared_state() { return I32({4}, {11, 22, 5, 0}); }

Result step(Device& device, Problem& problem, const Options& options, I32 state = shared_state(), F32* priority = nullptr) {
  Result result{I32(problem.tokens.shape), I32(problem.tokens.shape), F32(problem.tokens.shape)};
  F32 controls({3}, {options.guidance, options.temperature, options.noise});
  launch(device, "masked_diffusion_step",
         {view(problem.conditional), problem.guided ? view(problem.unconditional) : absent(), view(problem.tokens), view(problem.remaining), view(controls),
          view(state), priority ? view(*priority) : absent()},
         {view(result.next), view(result.sampled), view(result.confidence)}, {kMask, options.top_k, options.top_p, options.order, 3});
  return result;
}

// Which tokens may be drawn, in f64 weights: 0 for the others.
Doubles kept_weights(const Doubles& logits, const Options& options) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (options.top_k > 0 && options.top_k < double(order.size())) order.resize(static_cast<size_t>(options.top_k));
  Doubles weights(logits.size());
  double total = 0, before = 0;
  for (size_t i : order) total += weights[i] = std::exp((logits[i] - logits[order[0]]) / options.temperature);
  for (size_t i : order) {
    if (options.top_p < 1 && before >= options.top_p * total) weights[i] = 0;
    before += weights[i];
  }
  return weights;
}

void check_definition(Device& device, int64_t sequences, int64_t positions, int64_t codes, const std::vector<Options>& cases) {
  for (const Options& options : cases) {
    Problem problem = make_problem(1, sequences, positions, codes);
    problem.guided = options.guidance != 0;
    const Result result = step(device, problem, options);
    for (size_t b = 0; b < static_cast<size_t>(sequences); ++b) {
      std::vector<std::pair<double, size_t>> masked;
      for (size_t i = 0; i < static_cast<size_t>(positions); ++i) {
        const size_t at = b * static_cast<size_t>(positions) + i;
        if (problem.tokens[at] != kMask) {
          CHECK(result.next[at] == problem.tokens[at] && result.sampled[at] == problem.tokens[at] && result.confidence[at] == kInfinity);
          continue;
        }
        Doubles logits(static_cast<size_t>(codes));
        for (size_t v = 0; v < logits.size(); ++v) {
          const double c = problem.conditional[at * logits.size() + v], u = problem.unconditional[at * logits.size() + v];
          logits[v] = (1.0 + double(options.guidance)) * c - double(options.guidance) * u;
        }
        const size_t token = static_cast<size_t>(result.sampled[at]);
        CHECK(token < logits.size());
        const auto words = philox_reference({static_cast<uint32_t>(at), 3, 5, 0}, {11, 22});
        const double largest = *std::max_element(logits.begin(), logits.end());
        if (options.temperature == 0) {
          CHECK(logits[token] > largest - 1e-5);
        } else {
          const Doubles weights = kept_weights(logits, options);
          const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
          const double before = std::accumulate(weights.begin(), weights.begin() + static_cast<long>(token), 0.0);
          const double u = unit_reference(words[0]);
          // The drawn token's interval holds u, up to the rounding of f32 logits and weights.
          CHECK(u > before / total - 1e-5 && u < (before + weights[token]) / total + 1e-5);
        }
        double sum = 0;
        for (double logit : logits) sum += std::exp(logit - largest);
        double confidence = logits[token] - largest - std::log(sum);
        if (options.order == 1) confidence = unit_reference(words[1]);
        else confidence += double(options.noise) * -std::log(-std::log((double(words[1] >> 8) + 0.5) / 16777216.0));
        CHECK(std::fabs(result.confidence[at] - confidence) < 1e-5 * std::max(1.0, std::fabs(confidence)));
        masked.push_back({result.confidence[at], i});
      }
      // The `remaining` least confident are masked again, never all.
      std::stable_sort(masked.begin(), masked.end(), [](auto& x, auto& y) { return x.first > y.first; });
      const size_t again = std::min<size_t>(static_cast<size_t>(problem.remaining[b]), masked.size() - 1);
      for (size_t k = 0; k < masked.size(); ++k) {
        const size_t at = b * static_cast<size_t>(positions) + masked[k].second;
        CHECK(result.next[at] == (k < masked.size() - again ? result.sampled[at] : kMask));
      }
    }
  }
}

}  // namespace

TEST(masked_diffusion_matches_definition) {
  for (int64_t codes : {1, 3, 50, 1000})
    check_definition(device, 2, 12, codes, {{}, {3, 1, 0}, {1.5f, 0.7f, 4.5f}, {0, 1.3f, 2, 5}, {2, 1, 1, 0, 0.8}, {0, 0.9f, 0, 40, 0.9}, {1, 0, 1}, {2, 1, 0, 0, 1, 1}});
}

// Rows that warps share again and again until one of them holds what is left.
TEST(masked_diffusion_many_codes) { check_definition(device, 1, 6, 8190, {{}, {3, 1, 0}, {1.5f, 0.7f, 4.5f}, {0, 0.9f, 0, 40, 0.9}, {2, 1, 0, 0, 1, 1}}); }

// The longest row that an H200's shared memory holds, and longer ones, which are worked out again at every use.
TEST(masked_diffusion_long_rows) {
  check_definition(device, 1, 3, 56064, {{1.5f, 0.7f, 4.5f}});
  check_definition(device, 1, 3, 56065, {{1.5f, 0.7f, 4.5f}, {0, 0.9f, 0, 40, 0.9}});
  check_definition(device, 1, 3, 60004, {{2, 1, 1, 0, 0.8}, {1, 0, 1}});
}

TEST(masked_diffusion_distribution) {
  const size_t codes = 20, draws = emulated(device) ? 1000 : 40000;
  Problem problem = make_problem(2, 1, draws, codes);
  problem.tokens.values.assign(draws, kMask);
  problem.remaining[0] = 0;
  for (size_t i = codes; i < draws * codes; ++i) problem.conditional[i] = problem.conditional[i % codes], problem.unconditional[i] = problem.unconditional[i % codes];
  for (const Options& options : {Options{0.5f, 1, 3}, Options{0.5f, 0.8f, 0, 8}, Options{0.5f, 1.2f, 0, 0, 0.7}}) {
    const Result result = step(device, problem, options);
    Doubles logits(codes), seen(codes);
    for (size_t v = 0; v < codes; ++v) logits[v] = 1.5 * double(problem.conditional[v]) - 0.5 * double(problem.unconditional[v]);
    const Doubles weights = kept_weights(logits, options);
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (int32_t token : result.next.values) ++seen[static_cast<size_t>(token)];
    double chi = 0, freedom = -1;
    for (size_t v = 0; v < codes; ++v) {
      if (weights[v] == 0) {
        CHECK(seen[v] == 0);
        continue;
      }
      const double expected = weights[v] / total * double(draws);
      chi += (seen[v] - expected) * (seen[v] - expected) / expected;
      ++freedom;
    }
    CHECK(chi < freedom + 5 * std::sqrt(2 * freedom) + 5);  // 5 sigma; the seed is fixed
  }
}

TEST(masked_diffusion_priority_and_counts) {
  Problem problem = make_problem(3, 2, 9, 30);
  problem.tokens.values.assign(18, kMask);
  F32 priority({9}, {5, 1, 9, 3, 7, 2, 8, 4, 6});
  problem.remaining = I32({2}, {4, 9});
  const Result result = step(device, problem, {0, 1, 0}, shared_state(), &priority);
  for (size_t i = 0; i < 9; ++i) {
    CHECK((result.next[i] == kMask) == (priority[i] <= 4));
    CHECK((result.next[9 + i] == kMask) == (priority[i] < 9));  // a step reveals one at least
  }
  problem.remaining = I32({2}, {0, 10});
  F32 controls({3}, {0, 1, 0});
  I32 state = shared_state();
  TrefoilStatus status = launch_error(device, "masked_diffusion_step",
                                      {view(problem.conditional), absent(), view(problem.tokens), view(problem.remaining), view(controls), view(state), absent()},
                                      {absent(), absent(), absent()}, {kMask, 0, 1, 0, 0});
  CHECK(status.code == TREFOIL_INDEX_OUT_OF_RANGE);
}

// With a state to each sequence, a sequence comes out the same wherever in the batch it stands.
TEST(masked_diffusion_independent_of_batch_order) {
  Problem one = make_problem(4, 3, 16, 40), other = one;
  I32 states({3, 4}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}), moved = states;
  auto rotate = [](auto& values) { std::rotate(values.begin(), values.begin() + static_cast<long>(values.size() / 3), values.end()); };
  rotate(other.conditional.values), rotate(other.unconditional.values), rotate(other.tokens.values), rotate(other.remaining.values), rotate(moved.values);
  Result first = step(device, one, {1, 1, 2}, states), second = step(device, other, {1, 1, 2}, moved);
  rotate(first.next.values), rotate(first.confidence.values);
  CHECK(first.next.values == second.next.values && first.confidence.values == second.confidence.values);
}

TEST(masked_diffusion_extreme_logits) {
  for (const Options& options : {Options{}, Options{0, 0, 0}, Options{0, 1, 1, 3, 0.5}, Options{0, 1e-38f, 0}}) {
    Problem problem = make_problem(5, 1, 4, 30);
    problem.tokens.values.assign(4, kMask);
    problem.remaining[0] = 2;
    problem.guided = false;
    for (size_t v = 0; v < 30; ++v) {
      problem.conditional[v] = kNaN;
      problem.conditional[30 + v] = -kInfinity;
      problem.conditional[60 + v] = v == 17 ? kInfinity : 0.0f;
      problem.conditional[90 + v] = v == 3 ? 1.0f : v % 2 ? kNaN : -kInfinity;
    }
    const Result result = step(device, problem, options);
    for (int32_t token : result.sampled.values) CHECK(token >= 0 && token < 30);
    CHECK(result.sampled[2] == 17 && result.sampled[3] == 3);
  }
}

TEST(masked_diffusion_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    Problem problem = make_problem(6, 5, 64, 700);
    Result result = step(other, problem, {2, 0.9f, 3, 100, 0.95});
    F32 next(result.next.shape);
    for (size_t i = 0; i < next.size(); ++i) next[i] = static_cast<float>(result.next[i]);
    return std::vector<F32>{next, result.confidence};
  });
}
