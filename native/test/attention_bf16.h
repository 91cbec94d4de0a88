// For tests of attention whose operands are rounded to bf16, on any device.
#pragma once
#include "cuda_bf16.h"

namespace trefoil::test {

inline Doubles all_rounded(const F32& array) {
  Doubles result;
  for (float x : array.values) result.push_back(rounded(x));
  return result;
}

// Every term may be off by 2^-8, half a unit of bf16's 8 significant bits, and in gradients by as much again for delta, which is made of unrounded
// dout and of out. 1e-5 is for f32: scores, exponentials, sums.
inline void check_terms(const F32& actual, const Doubles& expected, const Doubles& most, double units, const char* what) {
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = std::fabs(actual[i] - expected[i]), bound = (units * 0x1p-8 + 1e-5) * most[i] + 1e-12;
    if (error <= bound) continue;
    char text[200];
    std::snprintf(text, sizeof text, "%s[%zu] is %.9g, expected %.9g (error %.3g, bound %.3g)", what, i, actual[i], expected[i], error, bound);
    return wrong_result(text);
  }
}

// `rounds`: whether the kernels for this case round what they multiply.
inline void check_rounded(Device& device, const Case& c, int seed, bool rounds = true) {
  Problem p(c, seed);
  const Results actual = run(device, p);
  const Reference expected = rounds ? reference(p, all_rounded(p.q), all_rounded(p.k), all_rounded(p.v), all_rounded(p.dout)) : reference(p);
  try {
    check_terms(actual.out, expected.out, expected.most_out, 1, "out");
    for (size_t i = 0; i < expected.lse.size(); ++i) {
      const bool none = expected.lse[i] == -INFINITY;
      CHECK(none ? actual.lse[i] == -kInfinity : std::fabs(actual.lse[i] - expected.lse[i]) <= 2e-6 * c.magnitude * (1 + std::fabs(expected.lse[i])));
    }
    check_terms(actual.dv, expected.dv, expected.most_dv, 1, "dv");
    check_terms(actual.dq, expected.dq, expected.most_dq, 2, "dq");
    check_terms(actual.dk, expected.dk, expected.most_dk, 2, "dk");
  } catch (const Failure& failure) {
    throw Failure{failure.message + " for " + std::to_string(c.queries) + " queries, " + std::to_string(c.keys) + " keys, " + std::to_string(c.heads) + "/" +
                  std::to_string(c.groups) + " heads of " + std::to_string(c.size) + (c.causal ? ", causal" : "")};
  }
}

}  // namespace trefoil::test
