// sample_tokens against a full sort in double precision with the same random numbers, and against the distribution it promises.
#include <numeric>

#include "harness.h"
#include "random_reference.h"

using namespace trefoil::test;

namespace {

struct Options {
  double temperature, top_k, top_p;
};

struct Reference {
  std::vector<int32_t> order;       // kept candidates, descending
  std::vector<double> probability;  // renormalised
};

Reference reference(const float* logits, size_t n, const Options& options) {
  Reference result;
  result.order.resize(n);
  std::iota(result.order.begin(), result.order.end(), 0);
  std::stable_sort(result.order.begin(), result.order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (options.top_k > 0 && options.top_k < double(n)) result.order.resize(static_cast<size_t>(options.top_k));
  double total = 0, kept = 0;
  for (int32_t i : result.order) total += result.probability.emplace_back(std::exp((double(logits[i]) - logits[result.order[0]]) / options.temperature));
  size_t count = 0;
  while (count < result.order.size()) {
    kept += result.probability[count++];
    if (options.top_p < 1 && kept >= options.top_p * total) break;
  }
  result.order.resize(count);
  result.probability.resize(count);
  for (double& p : result.probability) p /= kept;
  return result;
}

I32 sample(Device& device, F32& logits, const Options& options, F32* log_probability = nullptr, int32_t step = 0) {
  I32 state({4}, {11, 22, step, 0}), tokens({logits.shape[0]});
  launch(device, "sample_tokens", {view(logits), view(state)}, {view(tokens), log_probability ? view(*log_probability) : absent()},
         {options.temperature, options.top_k, options.top_p, 3});
  return tokens;
}

}  // namespace

TEST(sampling_matches_a_full_sort) {
  std::mt19937 generator(1);
  const Options cases[] = {{1, 0, 1},  {0.7, 0, 1}, {1.5, 5, 1},  {1, 200, 1},   {1, 600, 1},     {1, 0, 0.9},
                           {2, 50, 0.8}, {0.5, 300, 0.95}, {1, 1, 1}, {1, 0, 1e-9}, {1, 5000, 0.999}, {1e-3, 0, 1}};
  const uint32_t rows = emulated(device) ? 6 : 40;
  for (int64_t n : {1, 2, 31, 1000, 5000})
    for (const Options& options : cases) {
      F32 logits = normal(generator, {rows, n}, 3.0f);
      if (n == 1000)
        for (float& value : logits.values) value = std::floor(value);  // many ties
      I32 tokens = sample(device, logits, options);
      for (uint32_t b = 0; b < rows; ++b) {
        Reference kept = reference(logits.values.data() + b * static_cast<size_t>(n), static_cast<size_t>(n), options);
        double u = unit_reference(philox_reference({b, 3, 0, 0}, {11, 22})[0]), cumulative = 0;
        size_t place = static_cast<size_t>(std::find(kept.order.begin(), kept.order.end(), tokens[b]) - kept.order.begin());
        CHECK(place < kept.order.size());
        for (size_t i = 0; i < kept.order.size(); ++i)
          if (kept.order[i] < tokens[b]) cumulative += kept.probability[i];
        // The drawn token's interval holds u, up to the rounding of the f32 weights.
        CHECK(u > cumulative - 1e-5 && u < cumulative + kept.probability[place] + 1e-5);
      }
    }
}

// Chi-square of 60,000 draws (many rows with the same logits) against the filtered distribution.
TEST(sampling_distribution) {
  const size_t n = 40, draws = emulated(device) ? 1000 : 60000;
  std::mt19937 generator(2);
  F32 row = normal(generator, {static_cast<int64_t>(n)}, 1.5f), logits({static_cast<int64_t>(draws), static_cast<int64_t>(n)});
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = row[i % n];
  for (const Options& options : {Options{1, 0, 1}, Options{0.8, 0, 0.9}, Options{1.3, 10, 1}, Options{1, 20, 0.7}}) {
    I32 tokens = sample(device, logits, options, nullptr, static_cast<int32_t>(options.top_k));
    Reference kept = reference(row.values.data(), n, options);
    std::vector<double> count(n);
    for (int32_t token : tokens.values) ++count[static_cast<size_t>(token)];
    double chi = 0, drawn = 0, freedom = static_cast<double>(kept.order.size()) - 1;
    for (size_t i = 0; i < kept.order.size(); ++i) {
      double expected = kept.probability[i] * double(draws);
      double seen = count[static_cast<size_t>(kept.order[i])];
      chi += (seen - expected) * (seen - expected) / expected;
      drawn += seen;
    }
    CHECK(drawn == double(draws));                             // nothing outside the kept set
    CHECK(chi < freedom + 5 * std::sqrt(2 * freedom) + 5);     // 5 sigma; the seed is fixed
  }
}

// A row with a state of its own draws what it draws alone, wherever it stands.
TEST(sampling_state_to_a_row) {
  std::mt19937 generator(5);
  F32 logits = normal(generator, {20, 50}, 2.0f);
  I32 states({20, 4}), together({20});
  for (int32_t b = 0; b < 20; ++b)
    for (int32_t word = 0; word < 4; ++word) states[static_cast<size_t>(4 * b + word)] = 1000 * b + word;
  launch(device, "sample_tokens", {view(logits), view(states)}, {view(together), absent()}, {1, 0, 0.9, 3});
  int different = 0;
  for (size_t b = 0; b < 20; ++b) {
    F32 row({1, 50});
    std::copy_n(logits.values.begin() + static_cast<int64_t>(50 * b), 50, row.values.begin());
    I32 own({4}), alone({1});
    std::copy_n(states.values.begin() + static_cast<int64_t>(4 * b), 4, own.values.begin());
    launch(device, "sample_tokens", {view(row), view(own)}, {view(alone), absent()}, {1, 0, 0.9, 3});
    CHECK(alone[0] == together[b]);
    Reference kept = reference(row.values.data(), 50, {1, 0, 0.9});
    double u = unit_reference(philox_reference({0, 3, uint32_t(own[2]), uint32_t(own[3])}, {uint32_t(own[0]), uint32_t(own[1])})[0]);
    size_t place = static_cast<size_t>(std::find(kept.order.begin(), kept.order.end(), alone[0]) - kept.order.begin());
    double before = 0;
    for (size_t i = 0; i < kept.order.size(); ++i)
      if (kept.order[i] < alone[0]) before += kept.probability[i];
    CHECK(u > before - 1e-5 && u < before + kept.probability[place] + 1e-5);
    different += alone[0] != together[0];
  }
  CHECK(different > 5);
}

// Two tokens that are nearly as likely: an error of rounding in their logits does not change what is drawn.
TEST(sampling_does_not_follow_rounding) {
  const int64_t draws = 500;
  F32 logits({draws, 2}), nudged({draws, 2});
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = 1;
    nudged[i] = i % 2 ? std::nextafter(1.0f, 2.0f) : 1;
  }
  I32 tokens = sample(device, logits, {1, 0, 1}), same = sample(device, nudged, {1, 0, 1});
  int32_t ones = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    CHECK(tokens[i] == same[i]);
    ones += tokens[i];
  }
  CHECK(ones > 180 && ones < 320);
}

TEST(sampling_greedy_and_log_probability) {
  std::mt19937 generator(3);
  F32 logits = normal(generator, {6, 3001}, 4.0f), log_probability({6});
  logits[1 * 3001 + 5] = logits[1 * 3001 + 2000] = 99;  // a tie: the first
  for (const Options& options : {Options{0, 0, 1}, Options{1, 40, 0.9}, Options{0.5, 0, 1}}) {
    I32 tokens = sample(device, logits, options, &log_probability);
    for (size_t b = 0; b < 6; ++b) {
      const float* row = logits.values.data() + b * 3001;
      if (options.temperature == 0) CHECK(tokens[b] == std::max_element(row, row + 3001) - row);
      double total = 0;
      for (size_t i = 0; i < 3001; ++i) total += std::exp(double(row[i]) - row[tokens[b]]);
      CHECK(std::fabs(log_probability[b] + std::log(total)) < 1e-6 * std::max(1.0, std::log(total)));
    }
  }
}

TEST(sampling_extreme_logits) {
  const float least = -INFINITY;
  F32 masked({2, 40});
  masked.values.assign(80, least);
  masked[17] = 3;
  masked[40 + 20] = masked[40 + 21] = 3;
  F32 log_probability({2});
  for (const Options& options : {Options{0, 0, 1}, Options{1, 0, 1}, Options{1, 3, 0.5}, Options{1e-30, 0, 0.9}, Options{1e-300, 0, 1}}) {
    I32 tokens = sample(device, masked, options, &log_probability);
    CHECK(tokens[0] == 17 && (tokens[1] == 20 || tokens[1] == 21));
    CHECK(log_probability[0] == 0 && std::fabs(log_probability[1] + std::log(2.0)) < 1e-6);
  }
  // Rows without a largest logit still give a token of the vocabulary.
  F32 bad({3, 100});
  for (size_t i = 0; i < 100; ++i) bad[i] = NAN, bad[100 + i] = least, bad[200 + i] = i % 3 ? NAN : 1.0f;
  for (const Options& options : {Options{0, 0, 1}, Options{1, 0, 1}, Options{1, 5, 0.5}, Options{1, 0, 0.9}})
    for (int32_t token : sample(device, bad, options).values) CHECK(token >= 0 && token < 100);
  F32 none({0, 100}), no_vocabulary({1, 0});
  sample(device, none, {1, 0, 1});
  I32 state({4}), token({1});
  CHECK(launch_error(device, "sample_tokens", {view(no_vocabulary), view(state)}, {view(token), absent()}, {1, 0, 1, 0}).code == TREFOIL_INVALID_ARGUMENT);
}

TEST(sampling_of_strange_logits_and_temperatures) {
  std::mt19937 generator(5);
  F32 logits = normal(generator, {4, 300}, 3.0f), greedy = logits;
  for (size_t i = 0; i < 300; i += 2) logits[i] = NAN;           // half of them are no numbers
  logits[300 + 7] = logits[300 + 9] = INFINITY;                  // no largest that is finite
  for (size_t i = 0; i < 300; ++i) logits[600 + i] = -INFINITY;
  for (const Options& options : {Options{0, 0, 1}, Options{1, 0, 1}, Options{3, 200, 1}, Options{3, 20, 0.9}, Options{3, 0, 0.9}}) {
    const I32 tokens = sample(device, logits, options);
    CHECK(tokens[0] % 2 == 1 && tokens[1] == 7 && tokens[2] == 0);
  }
  // As 0: a weight that grows as the logit falls may be infinite, and then so is their sum.
  const I32 expected = sample(device, greedy, {0, 0, 1});
  for (double temperature : {-1e-3, -1.0, -1e300, double(NAN)}) CHECK(sample(device, greedy, {temperature, 0, 1}).values == expected.values);
}

// The fixed-point weights of more equal logits than that would add up to 0.
TEST(sampling_refuses_rows_that_overflow) {
  if (device.backend->flags & TREFOIL_BACKEND_HOST_MEMORY) return;
  F32 logits({1, (1 << 23) + 1}), controls({3}, {0, 1, 0});
  I32 state({4}), token({1}), remaining({1});
  CHECK(launch_error(device, "sample_tokens", {view(logits), view(state)}, {view(token), absent()}, {1, 0, 1, 0}).code == TREFOIL_INVALID_ARGUMENT);
  TrefoilView row = view(logits), cell = view(token);
  row.rank = 3, row.shape[2] = row.shape[1], row.shape[1] = 1;
  cell.rank = 2, cell.shape[1] = 1;
  CHECK(launch_error(device, "masked_diffusion_step", {row, absent(), cell, view(remaining), view(controls), view(state)}, {absent(), absent(), absent()}, {0, 0, 1, 0, 0}).code ==
        TREFOIL_INVALID_ARGUMENT);
}

TEST(sampling_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    std::mt19937 generator(4);
    F32 logits = normal(generator, {33, 4000}, 2.0f), log_probability({33});
    sample(other, logits, {1, 0, 0.95}, &log_probability);
    return std::vector<F32>{log_probability};
  });
}
