// attention and attention_grad against a dense reference in double precision.
#include "attention_reference.h"

using namespace trefoil::test;

namespace {

void check_case(Device& device, const Case& c) {
  Problem p(c);
  Results actual = run(device, p);
  Reference expected = reference(p);
  // Scores grow with the magnitude of q, and a score's rounding is a relative error of the probability. The absolute part
  // is for slope - delta, which cancels to nothing where one key takes all the probability.
  double tolerance = 2e-6 * c.magnitude, absolute = 3e-6 * c.magnitude;
  check_close(actual.out, expected.out, tolerance, 1e-7, "out");
  for (size_t i = 0; i < expected.lse.size(); ++i) {
    bool empty = expected.lse[i] == -INFINITY;
    CHECK(empty ? actual.lse[i] == -kInfinity : std::fabs(actual.lse[i] - expected.lse[i]) <= 1e-6 * (1 + std::fabs(expected.lse[i])));
  }
  check_close(actual.dq, expected.dq, tolerance, absolute, "dq");
  check_close(actual.dk, expected.dk, tolerance, absolute, "dk");
  check_close(actual.dv, expected.dv, tolerance, absolute, "dv");
}

}  // namespace

TEST(attention_reference_gradients_match_differences) {
  if (device.isa != "scalar") return;  // the reference alone: once is enough
  Problem p(Case{.batch = 1, .queries = 3, .keys = 4, .heads = 4, .groups = 2, .size = 3, .causal = true});
  Reference exact = reference(p);
  Doubles q = doubles(p.q), k = doubles(p.k), v = doubles(p.v), dout = doubles(p.dout);
  auto compare = [](const Doubles& a, const Doubles& b) {
    for (size_t i = 0; i < a.size(); ++i) CHECK(std::fabs(a[i] - b[i]) < 1e-8);
  };
  compare(exact.dq, numeric_gradient([&](const Doubles& at) { return reference(p, at, k, v, dout).out; }, q, p.dout));
  compare(exact.dk, numeric_gradient([&](const Doubles& at) { return reference(p, q, at, v, dout).out; }, k, p.dout));
  compare(exact.dv, numeric_gradient([&](const Doubles& at) { return reference(p, q, k, at, dout).out; }, v, p.dout));
}

TEST(attention_matches_double) {
  for (bool causal : {false, true})
    for (int64_t size : {4, 17, 32, 64, 80, 128})
      for (int64_t length : {1, 7, 33, 65, 130})
        check_case(device, {.batch = 2, .queries = length, .keys = length, .heads = 2, .groups = 2, .size = size, .causal = causal});
}

TEST(attention_shares_key_heads) {
  for (bool causal : {false, true})
    for (int64_t groups : {1, 2, 4})
      for (int64_t length : {5, 70})
        check_case(device, {.batch = 2, .queries = length, .keys = length, .heads = 4, .groups = groups, .size = 24, .causal = causal});
}

TEST(attention_of_other_key_counts) {
  for (bool causal : {false, true})
    for (auto [queries, keys] : {std::pair<int64_t, int64_t>{6, 90}, {40, 100}, {100, 40}, {1, 3}, {8, 0}})
      check_case(device, {.batch = 2, .queries = queries, .keys = keys, .heads = 4, .groups = 2, .size = 16, .causal = causal});
}

TEST(attention_with_key_lengths) {
  for (bool causal : {false, true})
    for (int64_t queries : {2, 50})
      check_case(device, {.batch = 4, .queries = queries, .keys = 80, .heads = 2, .groups = 1, .size = 32, .causal = causal,
                          .key_lengths = {0, 1, 67, 80}});
}

TEST(attention_within_segments) {
  // Names that agree in one half of their bits must still be told apart.
  std::vector<int32_t> names = {0, -1, 65536, 65537, INT32_MIN, 7};
  for (bool causal : {false, true})
    for (int64_t run : {1, 20, 64, 100})
      check_case(device, {.batch = 2, .queries = 150, .keys = 150, .heads = 2, .groups = 1, .size = 16, .causal = causal,
                          .segments = runs_of_segments(2, 150, names, run)});
  check_case(device, {.batch = 2, .queries = 3, .keys = 3, .heads = 2, .groups = 2, .size = 16, .causal = true,
                      .segments = {5, 5, 6, 1, 2, 1}});
  check_case(device, {.batch = 2, .queries = 70, .keys = 70, .heads = 2, .groups = 2, .size = 16, .causal = true,
                      .key_lengths = {70, 41}, .segments = runs_of_segments(2, 70, {3, 4}, 35)});
}

TEST(attention_over_bf16_keys) {
  for (int64_t queries : {1, 40})
    for (int64_t size : {32, 36})
      check_case(device, {.batch = 2, .queries = queries, .keys = 70, .heads = 4, .groups = 2, .size = size, .causal = true, .bf16 = true});
}

TEST(attention_of_large_scores) {
  for (int64_t queries : {1, 60})
    check_case(device, {.batch = 1, .queries = queries, .keys = 100, .heads = 2, .groups = 2, .size = 64, .magnitude = 200.0f});
}

TEST(attention_decodes_against_a_cache) {
  for (int64_t queries : {1, 2, 4})
    for (int64_t groups : {1, 4})
      for (int64_t size : {20, 64, 128})
        for (bool bf16 : {false, true})
          check_case(device, {.batch = 2, .queries = queries, .keys = 700, .heads = 4, .groups = groups, .size = size, .causal = true,
                              .key_lengths = {699, 130}, .bf16 = bf16});
}

TEST(attention_splits_keys_of_few_heads) {
  for (bool causal : {false, true})
    check_case(device, {.batch = 1, .queries = 1100, .keys = 1100, .heads = 2, .groups = 1, .size = 8, .causal = causal});
}

TEST(attention_of_no_sequences) {
  check_case(device, {.batch = 0, .queries = 3, .keys = 300, .heads = 2, .groups = 1, .size = 16});
  check_case(device, {.batch = 0, .queries = 3, .keys = 300, .heads = 2, .groups = 1, .size = 16, .causal = true});
}

TEST(attention_of_no_heads_or_queries) {
  for (int64_t queries : {0, 1, 40})
    for (int64_t heads : {0, 2}) {
      if (queries > 0 && heads > 0) continue;
      Problem p({.batch = 2, .queries = queries, .keys = 40, .heads = heads, .groups = 1, .size = 16, .causal = true});
      F32 out(p.q.shape), lse({2, heads, queries}), dq(p.q.shape), dk(p.k.shape), dv(p.k.shape);
      launch(device, "attention", {view(p.q), view(p.k), view(p.v), absent(), absent()}, {view(out), view(lse)}, p.attributes());
      for (F32* array : {&dk, &dv}) std::fill(array->values.begin(), array->values.end(), NAN);
      launch(device, "attention_grad", {view(out), view(p.q), view(p.k), view(p.v), view(out), view(lse), absent(), absent()}, {view(dq), view(dk), view(dv)}, p.attributes());
      for (F32* array : {&dk, &dv})
        for (float value : array->values) CHECK(value == 0);
    }
}

TEST(attention_propagates_nan) {
  for (int64_t queries : {1, 20}) {
    Problem p({.batch = 1, .queries = queries, .keys = 40, .heads = 1, .groups = 1, .size = 16});
    p.k[5 * 16 + 3] = kNaN;
    Results r = run(device, p);
    for (float value : r.out.values) CHECK(std::isnan(value));
    for (float value : r.lse.values) CHECK(std::isnan(value));
    for (float value : r.dq.values) CHECK(std::isnan(value));
  }
}

TEST(attention_ignores_what_lies_past_key_lengths) {
  for (int64_t queries : {1, 20}) {
    Problem p({.batch = 1, .queries = queries, .keys = 40, .heads = 1, .groups = 1, .size = 16, .key_lengths = {33}});
    for (size_t i = 33 * 16; i < 40 * 16; ++i) p.k[i] = p.v[i] = kNaN;
    Results r = run(device, p);
    for (float value : r.out.values) CHECK(!std::isnan(value));
    for (size_t i = 0; i < r.dk.size(); ++i) CHECK(i < 33 * 16 ? !std::isnan(r.dk[i]) : r.dk[i] == 0 && r.dv[i] == 0);
  }
}

TEST(attention_makes_the_gradients_that_are_read) {
  for (int64_t queries : {3, 70}) {
    Problem p({.batch = 2, .queries = queries, .keys = 70, .heads = 4, .groups = 2, .size = 20, .causal = true});
    const Results all = run(device, p);
    for (unsigned read = 1; read < 7; ++read) {
      const Results some = run(device, p, read);
      int bit = 0;
      for (auto [one, other] : {std::pair{&all.dq, &some.dq}, {&all.dk, &some.dk}, {&all.dv, &some.dv}})
        CHECK(!(read >> bit++ & 1) || std::memcmp(one->values.data(), other->values.data(), one->size() * sizeof(float)) == 0);
    }
  }
}

TEST(attention_rejects_key_lengths) {
  for (int32_t length : {-1, 41}) {
    Problem p({.batch = 2, .queries = 2, .keys = 40, .heads = 1, .groups = 1, .size = 16, .key_lengths = {40, length}});
    F32 out(p.q.shape);
    TrefoilStatus status = launch_error(device, "attention", {view(p.q), view(p.k), view(p.v), view(p.lengths), absent()},
                                        {view(out), absent()}, p.attributes());
    CHECK(status.code == TREFOIL_INDEX_OUT_OF_RANGE);
    CHECK(std::strstr(status.message, "key_lengths[1]"));
  }
}

TEST(attention_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    std::vector<F32> all;
    for (Case c : {Case{.batch = 3, .queries = 200, .keys = 200, .heads = 6, .groups = 3, .size = 32, .causal = true},
                   Case{.batch = 1, .queries = 600, .keys = 600, .heads = 2, .groups = 1, .size = 16},
                   Case{.batch = 1, .queries = 1, .keys = 900, .heads = 2, .groups = 2, .size = 64}}) {
      Problem p(c);
      Results r = run(other, p);
      for (F32* output : {&r.out, &r.lse, &r.dq, &r.dk, &r.dv}) all.push_back(*output);
    }
    return all;
  });
}
