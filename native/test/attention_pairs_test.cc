// attention and attention_grad of a CPU that multiplies pairs of bf16, against the reference of attention_bf16.h.
#include "attention_bf16.h"

using namespace trefoil::test;

namespace {

// On Arm attention is f32, whatever its products are.
bool rounds_attention(Device& device) { return device.isa == "avx512" && multiplies_pairs(device); }

void with_pairs(Device& device, const std::function<void(Device&)>& body) {
  with_bf16_products(device, [&](Device& other) {
    if (rounds_attention(other)) body(other);
  });
}

std::vector<F32*> arrays(Results& r) { return {&r.out, &r.lse, &r.dq, &r.dk, &r.dv}; }

bool same(const F32& a, const F32& b) { return std::memcmp(a.values.data(), b.values.data(), a.size() * sizeof(float)) == 0; }

}  // namespace

// One vector of rows and two, tiles of rows and of keys that are full and not, heads of odd sizes.
TEST(attention_in_pairs_matches_double) {
  with_pairs(device, [](Device& other) {
    int seed = 1;
    for (bool causal : {false, true})
      for (auto [size, length] : {std::pair<int64_t, int64_t>{1, 5}, {4, 7}, {17, 40}, {32, 64}, {33, 17}, {48, 65}, {64, 130}, {80, 33}, {100, 70}, {128, 129}, {160, 20}})
        check_rounded(other, {.batch = 2, .queries = length, .keys = length, .heads = 1, .groups = 1, .size = size, .causal = causal}, seed++);
  });
}

TEST(attention_in_pairs_shares_key_heads) {
  with_pairs(device, [](Device& other) {
    for (bool causal : {false, true}) {
      for (int64_t groups : {1, 2}) check_rounded(other, {.batch = 2, .queries = 37, .keys = 37, .heads = 6, .groups = groups, .size = 24, .causal = causal}, 30);
      check_rounded(other, {.batch = 2, .queries = 3, .keys = 40, .heads = 7, .groups = 1, .size = 24, .causal = causal}, 31);
    }
  });
}

TEST(attention_in_pairs_of_other_key_counts) {
  with_pairs(device, [](Device& other) {
    for (bool causal : {false, true})
      for (auto [queries, keys] : {std::pair<int64_t, int64_t>{20, 90}, {100, 40}, {50, 63}, {5, 3}, {8, 1}, {8, 0}})
        check_rounded(other, {.batch = 2, .queries = queries, .keys = keys, .heads = 2, .groups = 1, .size = 16, .causal = causal}, 40);
    for (int64_t queries : {5, 50})
      for (bool causal : {false, true})
        check_rounded(other, {.batch = 4, .queries = queries, .keys = 80, .heads = 2, .groups = 1, .size = 32, .causal = causal, .key_lengths = {0, 1, 67, 80}}, 41);
    check_rounded(other, {.batch = 1, .queries = 40, .keys = 101, .heads = 4, .groups = 2, .size = 35, .causal = true, .bf16 = true}, 42);
  });
}

TEST(attention_in_pairs_within_segments) {
  with_pairs(device, [](Device& other) {
    const std::vector<int32_t> names = {0, -1, 65536, 65537, INT32_MIN, 7};
    for (int64_t run : {1, 20, 64})
      check_rounded(other, {.batch = 2, .queries = 90, .keys = 90, .heads = 2, .groups = 1, .size = 16, .causal = run == 20, .segments = runs_of_segments(2, 90, names, run)}, 50);
    check_rounded(other, {.batch = 2, .queries = 3, .keys = 3, .heads = 2, .groups = 2, .size = 16, .causal = true, .segments = {5, 5, 6, 1, 2, 1}}, 51);
    check_rounded(other, {.batch = 2, .queries = 70, .keys = 70, .heads = 2, .groups = 2, .size = 16, .key_lengths = {70, 41}, .segments = runs_of_segments(2, 70, {3, 4}, 35)}, 52);
  });
}

// Several parts of keys in the gradient, several blocks of rows, several tasks.
TEST(attention_in_pairs_of_long_sequences) {
  with_pairs(device, [](Device& other) {
    check_rounded(other, {.batch = 1, .queries = 1101, .keys = 1101, .heads = 2, .groups = 1, .size = 8, .causal = true}, 60);
    check_rounded(other, {.batch = 1, .queries = 301, .keys = 777, .heads = 1, .groups = 1, .size = 24}, 61);
  });
}

TEST(attention_in_pairs_by_any_scale) {
  with_pairs(device, [](Device& other) {
    for (double scale : {-0.3, 0.0}) {
      Problem p({.batch = 1, .queries = 45, .keys = 45, .heads = 2, .groups = 1, .size = 20, .causal = true}, 70);
      p.scale = scale;
      const Results actual = run(other, p);
      const Reference expected = reference(p, all_rounded(p.q), all_rounded(p.k), all_rounded(p.v), all_rounded(p.dout));
      check_terms(actual.out, expected.out, expected.most_out, 1, "out");
      check_terms(actual.dv, expected.dv, expected.most_dv, 1, "dv");
      check_terms(actual.dq, expected.dq, expected.most_dq, 2, "dq");
      check_terms(actual.dk, expected.dk, expected.most_dk, 2, "dk");
    }
  });
}

TEST(attention_in_pairs_makes_the_gradients_that_are_read) {
  with_pairs(device, [](Device& other) {
    Problem p({.batch = 2, .queries = 70, .keys = 70, .heads = 4, .groups = 2, .size = 20, .causal = true});
    const Results all = run(other, p);
    for (unsigned read = 1; read < 7; ++read) {
      const Results some = run(other, p, read);
      CHECK(!(read & 1) || same(all.dq, some.dq));
      CHECK(!(read & 2) || same(all.dk, some.dk));
      CHECK(!(read & 4) || same(all.dv, some.dv));
    }
  });
}

TEST(attention_in_pairs_of_large_scores) {
  with_pairs(device, [](Device& other) {
    Problem p({.batch = 1, .queries = 60, .keys = 100, .heads = 2, .groups = 2, .size = 64, .magnitude = 200.0f});
    const Results actual = run(other, p);
    const Reference expected = reference(p, all_rounded(p.q), all_rounded(p.k), all_rounded(p.v), all_rounded(p.dout));
    // Scores of some thousands are off by their 2^-23, and probabilities by as much in relation: 1e-3.
    for (size_t i = 0; i < expected.out.size(); ++i) CHECK(std::fabs(actual.out[i] - expected.out[i]) <= (0x1p-8 + 1e-3) * expected.most_out[i]);
  });
}

// An odd count of keys and of rows: what each pairs with is no number either.
TEST(attention_in_pairs_propagates_nan_within_key_lengths) {
  with_pairs(device, [](Device& other) {
    for (int64_t queries : {21, 53}) {
      Problem p({.batch = 1, .queries = queries, .keys = 40, .heads = 1, .groups = 1, .size = 17, .key_lengths = {33}});
      for (size_t i = 33 * 17; i < 40 * 17; ++i) p.k[i] = p.v[i] = kNaN;
      Results r = run(other, p);
      for (float value : r.out.values) CHECK(!std::isnan(value));
      for (float value : r.dq.values) CHECK(!std::isnan(value));
      for (size_t i = 0; i < r.dk.size(); ++i) CHECK(i < 33 * 17 ? !std::isnan(r.dk[i]) && !std::isnan(r.dv[i]) : r.dk[i] == 0 && r.dv[i] == 0);
      p.k[5 * 17 + 3] = kNaN;
      r = run(other, p);
      for (const F32* result : {&r.out, &r.lse, &r.dq})
        for (float value : result->values) CHECK(std::isnan(value));
    }
  });
}

// Rows of an odd size follow each other in memory: a query that is no number stays alone.
TEST(attention_in_pairs_keeps_nan_queries_apart) {
  with_pairs(device, [](Device& other) {
    const int64_t size = 17, broken = 6;
    for (int64_t queries : {21, 53}) {
      Problem p({.batch = 1, .queries = queries, .keys = 40, .heads = 1, .groups = 1, .size = size});
      for (int64_t d = 0; d < size; ++d) p.q[static_cast<size_t>(broken * size + d)] = p.dout[static_cast<size_t>(broken * size + d)] = kNaN;
      const Results r = run(other, p);
      for (size_t i = 0; i < r.out.size(); ++i) {
        CHECK(std::isnan(r.out[i]) == (static_cast<int64_t>(i) / size == broken));
        CHECK(std::isnan(r.dq[i]) == (static_cast<int64_t>(i) / size == broken));
      }
    }
  });
}

TEST(attention_in_pairs_thread_independent) {
  if (!(device.backend->flags & TREFOIL_BACKEND_HOST_MEMORY)) return;
  check_thread_independent(
      device,
      [](Device& other) {
        std::vector<F32> all;
        for (const Case& c : {Case{.batch = 3, .queries = 200, .keys = 200, .heads = 6, .groups = 3, .size = 32, .causal = true},
                              Case{.batch = 1, .queries = 600, .keys = 600, .heads = 2, .groups = 1, .size = 16}}) {
          Problem p(c);
          Results r = run(other, p);
          for (F32* output : arrays(r)) all.push_back(*output);
        }
        return all;
      },
      "bf16-products");
}

// Elsewhere, and of few queries, it stays as it is.
TEST(attention_is_f32_where_it_is_not_in_pairs) {
  with_bf16_products(device, [&](Device& other) {
    Problem many({.batch = 1, .queries = 70, .keys = 90, .heads = 2, .groups = 1, .size = 24, .causal = true});
    Results f32 = run(device, many), rounded = run(other, many);
    for (size_t i = 0; i < arrays(f32).size(); ++i) CHECK(same(*arrays(f32)[i], *arrays(rounded)[i]) != rounds_attention(other));
    Problem few({.batch = 1, .queries = 2, .keys = 90, .heads = 2, .groups = 1, .size = 24, .causal = true});
    CHECK(same(run(device, few).out, run(other, few).out));
  });
}
