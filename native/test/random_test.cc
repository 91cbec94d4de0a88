// Known answers of the Random123 paper, the layout of counter and key, and the distributions.
#define TREFOIL_ISA known_answers
#include "../src/cpu/kernels/philox.h"

#include "harness.h"
#include "random_reference.h"

using namespace trefoil::test;

namespace {

I32 state(uint32_t seed_low, uint32_t seed_high, uint32_t step_low, uint32_t step_high) {
  return I32({4}, {static_cast<int32_t>(seed_low), static_cast<int32_t>(seed_high), static_cast<int32_t>(step_low), static_cast<int32_t>(step_high)});
}

}  // namespace

TEST(philox_known_answers) {
  struct Answer {
    std::array<uint32_t, 4> counter;
    std::array<uint32_t, 2> key;
    std::array<uint32_t, 4> words;
  };
  const Answer answers[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  using namespace trefoil::cpu::known_answers;
  for (const Answer& answer : answers) {
    CHECK(philox_reference(answer.counter, answer.key) == answer.words);
    uint32_t words[4][kPhiloxBatch];
    philox({answer.key[0], answer.key[1], answer.counter[1], answer.counter[2], answer.counter[3]}, answer.counter[0], words);
    for (size_t w = 0; w < 4; ++w) CHECK(words[w][0] == answer.words[w]);
  }
}

TEST(random_uniform_layout) {
  I32 at = state(0xa4093822, 0x299f31d0, 0x13198a2e, 0xffffffff);
  F32 y({3, 701});
  launch(device, "random_uniform", {view(at)}, {view(y)}, {17});
  for (uint32_t i = 0; i < y.size(); ++i) {
    auto words = philox_reference({i / 4, 17, 0x13198a2e, 0xffffffff}, {0xa4093822, 0x299f31d0});
    CHECK(y[i] == unit_reference(words[i % 4]));
  }
  // The first elements do not depend on how many there are; another stream or step is another sequence.
  F32 prefix({5}), other({5}), none({0});
  launch(device, "random_uniform", {view(at)}, {view(prefix)}, {17});
  for (size_t i = 0; i < 5; ++i) CHECK(prefix[i] == y[i]);
  launch(device, "random_uniform", {view(at)}, {view(other)}, {18});
  CHECK(other.values != prefix.values);
  launch(device, "random_uniform", {view(at)}, {view(none)}, {17});
}

TEST(random_normal_is_box_muller) {
  I32 at = state(1, 2, 3, 0);
  F32 y({1003});
  launch(device, "random_normal", {view(at)}, {view(y)}, {5});
  std::vector<double> expected;
  for (uint32_t i = 0; i < y.size(); ++i) {
    auto words = philox_reference({i / 4, 5, 3, 0}, {1, 2});
    size_t pair = i % 4 / 2 * 2;
    double radius = std::sqrt(-2 * std::log(unit_reference(words[pair]) + 0x1p-24)), angle = 2 * M_PI * unit_reference(words[pair + 1]);
    expected.push_back(radius * (i % 2 ? std::sin(angle) : std::cos(angle)));
  }
  check_close(y, expected, 5e-7, 0, "normal");
}

TEST(random_advance_carries) {
  I32 at = state(7, 8, 0xfffffffe, 9);
  launch(device, "random_advance_", {view(at)}, {view(at)});
  CHECK(at[2] == -1 && at[3] == 9);
  launch(device, "random_advance_", {view(at)}, {absent()});
  CHECK(at[0] == 7 && at[1] == 8 && at[2] == 0 && at[3] == 10);
  I32 rows({2, 4}, {-2000000001, 5, -1, 1, 6, 7, 2, 3});  // words that f32 does not hold
  launch(device, "random_advance_", {view(rows)}, {view(rows)});
  CHECK(rows.values == std::vector<int32_t>({-2000000001, 5, 0, 2, 6, 7, 3, 3}));
}

// A fixed seed: these bounds were met once and stay met; 5 sigma, so that a broken generator and nothing else fails.
TEST(random_uniformity) {
  const size_t n = 1 << 20, bins = 256;
  I32 at = state(42, 0, 0, 0);
  F32 y({static_cast<int64_t>(n)});
  launch(device, "random_uniform", {view(at)}, {view(y)}, {0});
  std::vector<double> count(bins), pairs(bins);
  for (size_t i = 0; i < n; ++i) {
    CHECK(y[i] >= 0 && y[i] < 1);
    ++count[static_cast<size_t>(y[i] * bins)];
    if (i % 2) ++pairs[static_cast<size_t>(y[i - 1] * 16) * 16 + static_cast<size_t>(y[i] * 16)];
  }
  double chi = 0, chi_pairs = 0;
  for (size_t b = 0; b < bins; ++b) {
    chi += std::pow(count[b] - double(n) / bins, 2) / (double(n) / bins);
    chi_pairs += std::pow(pairs[b] - double(n) / 2 / bins, 2) / (double(n) / 2 / bins);
  }
  // Chi-square with 255 degrees of freedom: mean 255, standard deviation 22.6.
  CHECK(std::fabs(chi - 255) < 5 * 22.6 && std::fabs(chi_pairs - 255) < 5 * 22.6);
}

TEST(random_normality) {
  const size_t n = 1 << 20;
  I32 at = state(42, 0, 1, 0);
  F32 y({static_cast<int64_t>(n)});
  launch(device, "random_normal", {view(at)}, {view(y)}, {0});
  double moments[4] = {}, products = 0;
  for (size_t i = 0; i < n; ++i) {
    for (int k = 0; k < 4; ++k) moments[k] += std::pow(double(y[i]), k + 1) / double(n);
    if (i % 2) products += double(y[i]) * y[i - 1] * 2 / double(n);
  }
  double root = std::sqrt(double(n));
  // Standard errors of the sample moments of N(0, 1): 1, sqrt 2, sqrt 15, sqrt 96, over sqrt n.
  CHECK(std::fabs(moments[0]) < 5 / root && std::fabs(moments[1] - 1) < 5 * 1.415 / root);
  CHECK(std::fabs(moments[2]) < 5 * 3.873 / root && std::fabs(moments[3] - 3) < 5 * 9.798 / root);
  CHECK(std::fabs(products) < 5 * 1.415 / root);
  // Kolmogorov–Smirnov: P(sqrt(n) D > 2.5) is 7e-6.
  std::sort(y.values.begin(), y.values.end());
  double distance = 0;
  for (size_t i = 0; i < n; ++i) {
    double cumulative = 0.5 * std::erfc(-y[i] / std::sqrt(2.0));
    distance = std::max({distance, cumulative - double(i) / double(n), double(i + 1) / double(n) - cumulative});
  }
  CHECK(distance * root < 2.5);
}

TEST(random_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    I32 at = state(1, 2, 3, 4);
    F32 uniform({50001}), normals({50001});
    launch(other, "random_uniform", {view(at)}, {view(uniform)}, {1});
    launch(other, "random_normal", {view(at)}, {view(normals)}, {2});
    return std::vector<F32>{uniform, normals};
  });
}
