// The forward kernel of attention by wgmma, with q and results stored as bf16 (the copy engine writes them) and as f32 (threads do): blocks
// take one tile of rows after another, and a warp group's rows are whole queries of the heads that share their keys.
#include <memory>

#include "cuda_bf16.h"

using namespace trefoil::test;

namespace {

// For each number of multiprocessors, that is of blocks at most: one that takes all tiles but the first of the other, and one for each tile.
void for_each_wgmma_device(Device& device, const std::function<void(Device&)>& body) {
  if (!tries_wgmma(device)) return;
  const Variable wgmma("TREFOIL_CUDA_WGMMA", "1");
  for (const char* multiprocessors : {"2", "100"}) {
    const Variable count("TREFOIL_EMULATED_MULTIPROCESSORS", multiprocessors);
    for_each_bf16_device(device, body);
  }
}

// Twice: with q and out as bf16, and as f32.
class Forward {
 public:
  Forward(const Case& c, int seed) : p_(c, seed), generator_(seed), q_(generator_, p_.q.shape), k_(generator_, p_.k.shape), v_(generator_, p_.k.shape), out_(p_.q.shape), lse_({c.batch, c.heads, c.queries}) {
    const auto exact = [](const Stored& from) {
      Doubles values(from.size());
      for (size_t i = 0; i < values.size(); ++i) values[i] = from[i];
      return values;
    };
    expected_ = reference(p_, exact(q_), exact(k_), exact(v_), Doubles(q_.size()));
  }
  void check(Device& device) {
    for (bool half : {true, false}) {
      const Leftovers leftovers(half ? 0xFF : 0x01);  // counters that nobody zeroed show with the second
      launch(device, "attention", {q_.as(half), k_.as(true), v_.as(half), p_.lengths_view(), p_.segments_view()}, {out_.as(half), view(lse_)}, p_.attributes());
      // Weights are rounded before they are multiplied: 2^-8 of each term.
      out_.check(expected_.out, expected_.most_out, 0x1p-8 + 1e-5, "out");
      std::vector<float> found(lse_.values);
      for (size_t i = 0; i < out_.size(); ++i) found.push_back(static_cast<float>(out_[i]));
      for (size_t i = 0; i < lse_.size(); ++i)
        CHECK(expected_.lse[i] == -INFINITY ? lse_[i] == -kInfinity : std::fabs(lse_[i] - expected_.lse[i]) <= 2e-6 * (1 + std::fabs(expected_.lse[i])));
      std::vector<float>& first = found_[half];
      if (first.empty()) first = found;
      CHECK(first == found);  // whichever block a tile falls to, and in whichever order
    }
  }

 private:
  Problem p_;
  std::mt19937 generator_;
  Stored q_, k_, v_, out_;
  F32 lse_;
  Reference expected_;
  std::vector<float> found_[2];
};

void check_all(Device& device, const std::vector<Case>& cases) {
  std::vector<std::unique_ptr<Forward>> problems;
  for (const Case& c : cases) problems.push_back(std::make_unique<Forward>(c, 900 + static_cast<int>(problems.size())));
  for_each_wgmma_device(device, [&](Device& other) {
    for (const auto& problem : problems) problem->check(other);
  });
}

}  // namespace

// Tiles of 128 and of 192 rows, the last of a batch full, and with rows for one group, two, and three; one to four tiles of keys; a head's end
// within its first 64 elements and within the others.
TEST(cuda_bf16_attention_forward_by_wgmma) {
  std::vector<Case> cases;
  for (bool causal : {false, true}) {
    for (int64_t size : {causal ? 40 : 64, causal ? 128 : 104}) cases.push_back({.batch = 2, .queries = 330, .keys = 330, .heads = 1, .groups = 1, .size = size, .causal = causal});
    for (int64_t queries : {70, 384}) cases.push_back({.batch = 2, .queries = queries, .keys = 400, .heads = 2, .groups = 2, .size = queries == 70 ? 64 : 128, .causal = causal});
    cases.push_back({.batch = 1, .queries = 300, .keys = 129, .heads = 1, .groups = 1, .size = 64, .causal = causal});
    cases.push_back({.batch = 1, .queries = 40, .keys = 1100, .heads = 1, .groups = 1, .size = causal ? 128 : 64, .causal = causal});
  }
  check_all(device, cases);
}

// A group's 64 rows are 64, 32, 21, 12, 2 and 1 queries.
TEST(cuda_bf16_attention_forward_by_wgmma_shares_key_heads) {
  std::vector<Case> cases;
  for (bool causal : {false, true})
    for (int64_t shared : {2, 3, 5, 32, 64}) cases.push_back({.batch = 2, .queries = 4 + 150 / shared, .keys = 140, .heads = 2 * shared, .groups = 2, .size = causal ? 64 : 128, .causal = causal});
  cases.push_back({.batch = 1, .queries = 2, .keys = 140, .heads = 65, .groups = 1, .size = 64});  // too many: by mma.sync
  check_all(device, cases);
}

TEST(cuda_bf16_attention_forward_by_wgmma_hides_keys) {
  std::vector<Case> cases;
  for (int64_t size : {64, 128})
    for (bool causal : {false, true}) {
      cases.push_back({.batch = 5, .queries = 200, .keys = 300, .heads = 1, .groups = 1, .size = size, .causal = causal, .key_lengths = {0, 1, 128, 259, 300}});
      cases.push_back({.batch = 2, .queries = 210, .keys = 210, .heads = 3, .groups = 1, .size = size, .causal = causal, .key_lengths = {210, 131}, .segments = runs_of_segments(2, 210, {3, -1, 65536}, causal ? 5 : 70)});
    }
  check_all(device, cases);
}

// More heads than have their keys in the L2 cache at once: 128 of 1024 keys. What lies past the lengths is not a number.
TEST(cuda_bf16_attention_forward_by_wgmma_of_many_heads) {
  const int64_t batch = 150, queries = 200, keys = 1024, size = 64;
  BF16 q({batch, queries, 1, size}), k({batch, keys, 1, size}), v(k.shape), out(q.shape);
  I32 lengths({batch});
  std::mt19937 generator(950);
  for (auto& x : k.values) x = 0x7fc0;
  for (auto& x : v.values) x = 0x7fc0;
  for (auto& x : q.values) x = to_bf16(static_cast<float>(generator() % 16) / 16.0f);
  for (int64_t b = 0; b < batch; ++b) {
    lengths[b] = static_cast<int32_t>(b % 3);
    for (int64_t j = 0; j < lengths[b]; ++j)
      for (int64_t d = 0; d < size; ++d) k[(b * keys + j) * size + d] = to_bf16(j ? 1.0f : 0.0f), v[(b * keys + j) * size + d] = to_bf16(static_cast<float>(b + 100 * j));
  }
  for_each_wgmma_device(device, [&](Device& other) {
    for (auto& x : out.values) x = 0x7fc0;
    launch(other, "attention", {view(q), view(k), view(v), view(lengths), absent()}, {view(out), absent()}, {0, 0.125});
    for (int64_t row = 0; row < batch * queries; ++row) {
      const int64_t b = row / queries, n = lengths[b];
      double score = 0;
      for (int64_t d = 0; d < size; ++d) score += from_bf16(q[row * size + d]) * 0.125;
      const double second = n == 2 ? 1 / (1 + std::exp(-score)) : 0, expected = n ? static_cast<double>(b) + 100 * second : 0;
      for (int64_t d = 0; d < size; ++d) CHECK(std::fabs(from_bf16(out[row * size + d]) - expected) <= 0x1p-7 * expected);
    }
  });
}
