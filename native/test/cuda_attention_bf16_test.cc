// attention and attention_grad in bf16 precision: the tensor core kernels, and the one for few rows. The reference gets operands rounded
// to bf16 and double precision; what is left is that probabilities and their slopes are rounded before they are multiplied.
#include <array>

#include "attention_bf16.h"

using namespace trefoil::test;

namespace {

void check_case(Device& device, const Case& c, int seed) { check_rounded(device, c, seed, c.size <= 128); }

}  // namespace

TEST(cuda_bf16_attention_matches_double) {
  for_each_bf16_device(device, [](Device& other) {
    int seed = 1;
    for (bool causal : {false, true})
      for (auto [size, length] : {std::pair<int64_t, int64_t>{4, 1}, {17, 40}, {32, 64}, {48, 65}, {64, 130}, {80, 33}, {100, 70}, {128, 129}, {160, 20}})
        check_case(other, {.batch = 2, .queries = length, .keys = length, .heads = 1, .groups = 1, .size = size, .causal = causal}, seed++);
  });
}

namespace {

// `batch` problems of one head, of which the first, the last and one between are looked at.
void check_forward(Device& device, const Case& c, int seed) {
  Problem p(c, seed);
  F32 out(p.q.shape), lse({c.batch, c.heads, c.queries});
  launch(device, "attention", {view(p.q), p.k_view(), p.v_view(), p.lengths_view(), p.segments_view()}, {view(out), view(lse)}, p.attributes());
  Case single = c;
  single.batch = 1;
  Problem one(single, seed);
  for (int64_t b : {int64_t{0}, c.batch / 2, c.batch - 1}) {
    const auto part = [b](const F32& all, const std::vector<int64_t>& shape) {
      F32 result(shape);
      std::copy_n(all.values.begin() + b * static_cast<int64_t>(result.size()), result.size(), result.values.begin());
      return result;
    };
    const Reference expected =
        reference(one, all_rounded(part(p.q, one.q.shape)), all_rounded(part(p.k, one.k.shape)), all_rounded(part(p.v, one.v.shape)), all_rounded(one.dout));
    check_terms(part(out, one.q.shape), expected.out, expected.most_out, 1, "out");
    const F32 sums = part(lse, {1, c.heads, c.queries});
    for (size_t i = 0; i < sums.size(); ++i)
      CHECK(expected.lse[i] == -INFINITY ? sums[i] == -kInfinity : std::fabs(sums[i] - expected.lse[i]) <= 2e-6 * (1 + std::fabs(expected.lse[i])));
  }
}

}  // namespace

// 66 x 2 tiles of 128 rows, the fewest that blocks of 128 rows are chosen for. Of wider heads forward alone, with several tiles of keys.
TEST(cuda_bf16_attention_large_blocks) {
  for_each_bf16_device(device, [](Device& other) {
    check_case(other, {.batch = 66, .queries = 129, .keys = 33, .heads = 1, .groups = 1, .size = 32, .causal = true}, 20);
    check_forward(other, {.batch = 66, .queries = 129, .keys = 70, .heads = 1, .groups = 1, .size = 64, .causal = true}, 21);
    check_forward(other, {.batch = 66, .queries = 129, .keys = 40, .heads = 1, .groups = 1, .size = 128, .causal = true}, 22);
  });
}

TEST(cuda_bf16_attention_shares_key_heads) {
  for_each_bf16_device(device, [](Device& other) {
    for (bool causal : {false, true})
      for (int64_t groups : {1, 2})
        check_case(other, {.batch = 2, .queries = 37, .keys = 37, .heads = 6, .groups = groups, .size = 24, .causal = causal}, 30);
  });
}

TEST(cuda_bf16_attention_of_other_key_counts) {
  for_each_bf16_device(device, [](Device& other) {
    for (bool causal : {false, true})
      for (auto [queries, keys] : {std::pair<int64_t, int64_t>{20, 90}, {100, 40}, {2, 3}, {8, 0}})
        check_case(other, {.batch = 2, .queries = queries, .keys = keys, .heads = 2, .groups = 1, .size = 16, .causal = causal}, 40);
    for (int64_t queries : {2, 50})
      check_case(other, {.batch = 4, .queries = queries, .keys = 80, .heads = 2, .groups = 1, .size = 32, .causal = true, .key_lengths = {0, 1, 67, 80}}, 41);
  });
}

TEST(cuda_bf16_attention_within_segments) {
  for_each_bf16_device(device, [](Device& other) {
    const std::vector<int32_t> names = {0, -1, 65536, 65537, INT32_MIN, 7};
    for (int64_t run : {1, 20, 64})
      check_case(other, {.batch = 2, .queries = 90, .keys = 90, .heads = 2, .groups = 1, .size = 16, .causal = run == 20, .segments = runs_of_segments(2, 90, names, run)}, 50);
    check_case(other, {.batch = 2, .queries = 3, .keys = 3, .heads = 2, .groups = 2, .size = 16, .causal = true, .segments = {5, 5, 6, 1, 2, 1}}, 51);
    check_case(other, {.batch = 2, .queries = 70, .keys = 70, .heads = 2, .groups = 2, .size = 16, .key_lengths = {70, 41}, .segments = runs_of_segments(2, 70, {3, 4}, 35)}, 52);
  });
}

// Keys in one part and in several, stored as f32 and as bf16, in rows that whole chunks fill and that they do not.
TEST(cuda_bf16_attention_decodes_against_a_cache) {
  for_each_bf16_device(device, [](Device& other) {
    int seed = 60;
    for (auto [queries, heads, groups] : {std::array<int64_t, 3>{1, 4, 4}, {1, 8, 1}, {4, 4, 1}})
      for (int64_t size : {20, 64})
        for (bool bf16 : {false, true})
          check_case(other, {.batch = 2, .queries = queries, .keys = 300, .heads = heads, .groups = groups, .size = size, .causal = true, .key_lengths = {299, 30}, .bf16 = bf16}, seed++);
    for (int64_t size : {126, 128})
      for (bool bf16 : {false, true})
        check_case(other, {.batch = 1, .queries = 2, .keys = 600, .heads = 2, .groups = 1, .size = size, .key_lengths = {530}, .bf16 = bf16}, seed++);
    check_case(other, {.batch = 1, .queries = 40, .keys = 100, .heads = 1, .groups = 1, .size = 32, .causal = true, .bf16 = true}, seed);
  });
}

namespace {

// Heads of 64 and of 128 elements and what is rounded up to them: rows and keys that fill tiles of 128 and that do not, one group without rows,
// fewer and more tiles of keys, and of rows, than stages; few rows go elsewhere.
void check_wgmma(Device& device) {
  int seed = 80;
  for (bool causal : {false, true})
    for (auto [size, length] : {std::pair<int64_t, int64_t>{64, 128}, {128, 256}, {33, 17}, {48, 65}, {72, 129}, {100, 70}, {126, 200}})
      check_case(device, {.batch = 2, .queries = length, .keys = length, .heads = 1, .groups = 1, .size = size, .causal = causal}, seed++);
  check_case(device, {.batch = 1, .queries = 20, .keys = 1290, .heads = 1, .groups = 1, .size = 64}, seed++);
  check_case(device, {.batch = 1, .queries = 20, .keys = 700, .heads = 1, .groups = 1, .size = 128, .bf16 = true}, seed++);
  check_case(device, {.batch = 1, .queries = 150, .keys = 150, .heads = 2, .groups = 1, .size = 64, .causal = true}, seed++);
  check_case(device, {.batch = 1, .queries = 530, .keys = 530, .heads = 1, .groups = 1, .size = 128, .causal = true}, seed++);
}

void check_wgmma_hides_keys(Device& device) {
  int seed = 100;
  for (int64_t size : {64, 128})
    for (bool causal : {false, true}) {
      check_case(device, {.batch = 2, .queries = 37, .keys = 37, .heads = 6, .groups = 2, .size = size, .causal = causal, .bf16 = causal}, seed++);
      check_case(device, {.batch = 1, .queries = 150, .keys = 40, .heads = 1, .groups = 1, .size = size, .causal = causal}, seed++);
      check_case(device, {.batch = 4, .queries = 20, .keys = 300, .heads = 4, .groups = 1, .size = size, .causal = causal, .key_lengths = {0, 1, 128, 259}}, seed++);
      check_case(device, {.batch = 2, .queries = 150, .keys = 150, .heads = 1, .groups = 1, .size = size, .causal = causal, .key_lengths = {150, 101}, .segments = runs_of_segments(2, 150, {3, -1, 65536}, causal ? 5 : 50)}, seed++);
    }
  check_case(device, {.batch = 2, .queries = 20, .keys = 0, .heads = 1, .groups = 1, .size = 64}, seed++);
}

// Past the length, keys and values are not numbers. The last tile of keys has as much of it as can be, or it is the next batch's.
void check_wgmma_reads_nothing_past_lengths(Device& device) {
  for (int64_t size : {64, 128})
    for (int32_t length : {1, 130, 200}) {
      Problem p({.batch = 2, .queries = 20, .keys = 200, .heads = 1, .groups = 1, .size = size, .key_lengths = {length, 0}});
      for (size_t i = 0; i < p.k.size(); ++i)
        if (static_cast<int64_t>(i) >= length * size) p.k[i] = p.v[i] = kNaN;
      const Results r = run(device, p);
      for (const F32* result : {&r.out, &r.dq})
        for (float value : result->values) CHECK(!std::isnan(value));
      for (size_t i = 0; i < r.dk.size(); ++i) CHECK(static_cast<int64_t>(i) < length * size ? !std::isnan(r.dk[i]) && !std::isnan(r.dv[i]) : r.dk[i] == 0 && r.dv[i] == 0);
      p.k[0] = kNaN;
      const Results broken = run(device, p);
      for (size_t i = 0; i < broken.out.size(); ++i) CHECK(std::isnan(broken.out[i]) == (i < broken.out.size() / 2));
    }
}

}  // namespace

namespace {

// What a model reads that trains the projection of queries, of keys or of values alone: f32, and bf16 that the copy engine may write.
void check_gradients_that_are_read(Device& device) {
  for (int64_t size : {24, 64, 128}) {
    Problem p({.batch = 2, .queries = 40, .keys = 40, .heads = 2, .groups = 1, .size = size, .causal = true}, 170);
    const Reference expected = reference(p, all_rounded(p.q), all_rounded(p.k), all_rounded(p.v), all_rounded(p.dout));
    for (unsigned read = 1; read < 7; ++read) {
      const Results r = run(device, p, read);
      F32 out = r.out, lse = r.lse;
      BF16 halves[] = {BF16(p.q.shape), BF16(p.k.shape), BF16(p.k.shape)};
      const auto half = [&](int i) { return read >> i & 1 ? view(halves[i]) : absent(); };
      launch(device, "attention_grad", {view(p.dout), view(p.q), view(p.k), view(p.v), view(out), view(lse), absent(), absent()}, {half(0), half(1), half(2)}, p.attributes());
      const F32* made[] = {&r.dq, &r.dk, &r.dv};
      const Doubles *right[] = {&expected.dq, &expected.dk, &expected.dv}, *most[] = {&expected.most_dq, &expected.most_dk, &expected.most_dv};
      const char* names[] = {"dq", "dk", "dv"};
      for (int i = 0; i < 3; ++i) {
        if (!(read >> i & 1)) continue;
        check_terms(*made[i], *right[i], *most[i], i < 2 ? 2 : 1, names[i]);
        F32 widened(made[i]->shape);
        for (size_t at = 0; at < widened.size(); ++at) widened[at] = from_bf16(halves[i][at]);
        check_terms(widened, *right[i], *most[i], i < 2 ? 3 : 2, names[i]);  // rounded once more
      }
    }
  }
}

}  // namespace

TEST(cuda_bf16_attention_makes_the_gradients_that_are_read) { for_each_bf16_device(device, check_gradients_that_are_read); }
TEST(cuda_bf16_attention_by_wgmma_makes_the_gradients_that_are_read) { for_each_wgmma_device(device, false, check_gradients_that_are_read); }
TEST(cuda_bf16_attention_in_one_pass_makes_the_gradients_that_are_read) { for_each_wgmma_device(device, true, check_gradients_that_are_read); }
TEST(cuda_bf16_attention_by_wgmma) { for_each_wgmma_device(device, false, check_wgmma); }
TEST(cuda_bf16_attention_by_wgmma_hides_keys) { for_each_wgmma_device(device, false, check_wgmma_hides_keys); }
TEST(cuda_bf16_attention_by_wgmma_reads_nothing_past_lengths) { for_each_wgmma_device(device, false, check_wgmma_reads_nothing_past_lengths); }
TEST(cuda_bf16_attention_in_one_pass) { for_each_wgmma_device(device, true, check_wgmma); }
TEST(cuda_bf16_attention_in_one_pass_hides_keys) { for_each_wgmma_device(device, true, check_wgmma_hides_keys); }
TEST(cuda_bf16_attention_in_one_pass_reads_nothing_past_lengths) { for_each_wgmma_device(device, true, check_wgmma_reads_nothing_past_lengths); }

// More blocks than run at a time, in chains of several tiles of keys and of rows, causal or not; and, last, more heads than start together: five of
// 384 KiB where the emulator's share of a cache is 1 MiB. Sums have the order of the tiles of keys, whichever blocks start first and whatever
// was left in the workspace: the same bits.
TEST(cuda_bf16_attention_in_one_pass_adds_up_in_order) {
  const std::vector<Case> cases = {{.batch = 1, .queries = 300, .keys = 900, .heads = 1, .groups = 1, .size = 64},
                                   {.batch = 1, .queries = 700, .keys = 700, .heads = 1, .groups = 1, .size = 64, .causal = true},
                                   {.batch = 2, .queries = 130, .keys = 650, .heads = 2, .groups = 1, .size = 128, .causal = true, .key_lengths = {650, 390}},
                                   {.batch = 2, .queries = 40, .keys = 150, .heads = 1, .groups = 1, .size = 40, .key_lengths = {150, 0}},
                                   {.batch = 1, .queries = 384, .keys = 384, .heads = 5, .groups = 5, .size = 128, .causal = true, .bf16 = true}};
  std::vector<Results> first;
  for_each_wgmma_device(device, true, [&](Device& other) {
    for (size_t i = 0; i < cases.size(); ++i) {
      check_case(other, cases[i], 130 + static_cast<int>(i));
      Problem p(cases[i], 130 + static_cast<int>(i));
      const Results again = (Leftovers(0x01), run(other, p));
      if (first.size() == i) first.push_back(run(other, p));
      for (auto [one, two] : {std::pair{&first[i].dq, &again.dq}, {&first[i].dk, &again.dk}, {&first[i].dv, &again.dv}})
        CHECK(std::memcmp(one->values.data(), two->values.data(), one->size() * sizeof(float)) == 0);
    }
  });
}

// As many blocks as a device runs at a time and more, again and again.
TEST(cuda_bf16_attention_in_one_pass_repeats_itself) {
  for_each_wgmma_device(device, true, [&](Device& other) {
    for (int64_t size : {64, 128}) {
      const int64_t length = emulated(device) ? 260 : 4096;
      Problem p({.batch = 1, .queries = length, .keys = length, .heads = 6, .groups = 6, .size = size, .causal = true, .bf16 = true});
      const Results first = run(other, p);
      for (int round = 0; round < (emulated(device) ? 1 : 20); ++round) {
        const Results again = run(other, p);
        for (auto [one, two] : {std::pair{&first.dq, &again.dq}, {&first.dk, &again.dk}, {&first.dv, &again.dv}})
          CHECK(std::memcmp(one->values.data(), two->values.data(), one->size() * sizeof(float)) == 0);
      }
    }
  });
}

TEST(cuda_bf16_attention_gradient_of_other_passes) {
  if (device.backend->flags & TREFOIL_BACKEND_HOST_MEMORY) return;
  const Variable gradient("TREFOIL_CUDA_ATTENTION_GRADIENT", "1");
  const TrefoilDeviceOptions options{0, 0, nullptr, "bf16"};
  TrefoilStatus status{};
  CHECK(!device.backend->open_device(&options, &status) && status.code == TREFOIL_INVALID_ARGUMENT);
  CHECK(std::strstr(status.message, "TREFOIL_CUDA_ATTENTION_GRADIENT") && std::strstr(status.message, "one-pass"));
}

TEST(cuda_bf16_attention_of_large_scores) {
  for_each_bf16_device(device, [](Device& other) {
    for (int64_t queries : {1, 60}) {
      Problem p({.batch = 1, .queries = queries, .keys = 100, .heads = 2, .groups = 2, .size = 64, .magnitude = 200.0f});
      const Results actual = run(other, p);
      const Reference expected = reference(p, all_rounded(p.q), all_rounded(p.k), all_rounded(p.v), all_rounded(p.dout));
      // Scores of some thousands are off by their 2^-23, and probabilities by as much in relation: 1e-3.
      for (size_t i = 0; i < expected.out.size(); ++i) CHECK(std::fabs(actual.out[i] - expected.out[i]) <= (0x1p-8 + 1e-3) * expected.most_out[i]);
    }
  });
}

TEST(cuda_bf16_attention_propagates_nan_within_key_lengths) {
  for_each_bf16_device(device, [](Device& other) {
    for (int64_t queries : {1, 20}) {
      Problem p({.batch = 1, .queries = queries, .keys = 40, .heads = 1, .groups = 1, .size = 16, .key_lengths = {33}});
      for (size_t i = 33 * 16; i < 40 * 16; ++i) p.k[i] = p.v[i] = kNaN;
      Results r = run(other, p);
      for (float value : r.out.values) CHECK(!std::isnan(value));
      for (size_t i = 0; i < r.dk.size(); ++i) CHECK(i < 33 * 16 ? !std::isnan(r.dk[i]) : r.dk[i] == 0 && r.dv[i] == 0);
      p.k[5 * 16 + 3] = kNaN;
      r = run(other, p);
      for (const F32* result : {&r.out, &r.lse, &r.dq})
        for (float value : result->values) CHECK(std::isnan(value));
    }
  });
}

// One query: decoding, which looks at the lengths itself. Twenty: the other kernel.
TEST(cuda_bf16_attention_rejects_key_lengths) {
  for_each_bf16_device(device, [](Device& other) {
    for (int64_t queries : {1, 20})
      for (int32_t length : {-1, 601}) {
        Problem p({.batch = 3, .queries = queries, .keys = 600, .heads = 4, .groups = 2, .size = 16, .key_lengths = {600, 0, length}});
        F32 out(p.q.shape);
        const TrefoilStatus status = launch_error(other, "attention", {view(p.q), view(p.k), view(p.v), view(p.lengths), absent()}, {view(out), absent()}, p.attributes());
        CHECK(status.code == TREFOIL_INDEX_OUT_OF_RANGE);
        CHECK(std::strstr(status.message, ("key_lengths[2] is " + std::to_string(length)).c_str()));
      }
  });
}
