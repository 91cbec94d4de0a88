// Mixture-of-experts routing: worked example (T = 5, E = 4, K = 2) computed in float64 elsewhere, then random cases against loops.
#include <cstring>

#include "harness.h"

using namespace trefoil::test;

namespace {

F32 example_logits() { return F32({5, 4}, {2, 1, .5f, -1, .1f, .2f, .3f, .4f, -1, 3, 0, 2, 1.5f, 1.5f, -.5f, 0, 0, -2, 4, 1}); }

const std::vector<int32_t> kIndices = {0, 1, 3, 2, 1, 3, 0, 1, 2, 3};
const std::vector<double> kTopKSoftmax = {.731059, .268941, .524979, .475021, .731059, .268941, .5, .5, .952574, .047426};
const std::vector<double> kSoftmaxTopK = {.609460, .224208, .288651, .261183, .696387, .256187, .424005, .424005, .934072, .046505};

std::vector<double> softmax(const F32& logits) {
  std::vector<double> result(logits.size());
  size_t experts = static_cast<size_t>(logits.shape[1]);
  for (size_t t = 0; t < result.size(); t += experts) {
    double total = 0;
    for (size_t e = t; e < t + experts; ++e) total += result[e] = std::exp(double(logits[e]) - logits[t]);
    for (size_t e = t; e < t + experts; ++e) result[e] /= total;
  }
  return result;
}

F32 row(const F32& array, size_t r) {
  size_t n = static_cast<size_t>(array.shape[1]);
  return F32({static_cast<int64_t>(n)}, std::vector<float>(array.values.begin() + static_cast<int64_t>(r * n), array.values.begin() + static_cast<int64_t>((r + 1) * n)));
}

}  // namespace

TEST(moe_gate_worked_example) {
  F32 logits = example_logits(), weights({5, 2}), probabilities({5, 4});
  I32 indices({5, 2});
  launch(device, "moe_gate", {view(logits)}, {view(weights), view(indices), view(probabilities)}, {0});
  CHECK(indices.values == kIndices);
  check_close(weights, kTopKSoftmax, 0, 1e-6, "weights of mode 0");
  check_close(probabilities, softmax(logits), 0, 1e-6, "probabilities");
  check_close(row(probabilities, 0), {.609460, .224208, .135989, .030343}, 0, 1e-6, "p[0]");
  check_close(row(probabilities, 4), {.017108, .002315, .934072, .046505}, 0, 1e-6, "p[4]");
  weights.values.assign(10, 0);
  launch(device, "moe_gate", {view(logits)}, {view(weights), view(indices), absent()}, {1});
  CHECK(indices.values == kIndices);
  check_close(weights, kSoftmaxTopK, 0, 1e-6, "weights of mode 1");
}

TEST(moe_gate_grad_worked_example) {
  F32 logits = example_logits(), weights({5, 2}), probabilities({5, 4}), dlogits({5, 4});
  F32 dweights({5, 2}, {1, -1, .5f, .25f, 2, 0, 0, 3, -1, 1});
  I32 indices({5, 2});
  launch(device, "moe_gate", {view(logits)}, {view(weights), view(indices), view(probabilities)}, {0});
  launch(device, "moe_gate_grad", {view(dweights), view(weights), view(indices), view(probabilities)}, {view(dlogits)}, {0});
  check_close(dlogits, {.393224, -.393224, 0, 0, 0, 0, -.062344, .062344, 0, .393224, 0, -.393224, -.75, .75, 0, 0, 0, 0, -.090353, .090353}, 0, 1e-6, "dlogits");
}

// Mode 1 against central differences of sum(dw * p[I]) in double precision.
TEST(moe_gate_grad_of_raw_probabilities) {
  std::mt19937 generator(1);
  F32 logits = normal(generator, {20, 7}), weights({20, 3}), probabilities({20, 7}), dlogits({20, 7}), dweights = normal(generator, {20, 3});
  I32 indices({20, 3});
  launch(device, "moe_gate", {view(logits)}, {view(weights), view(indices), view(probabilities)}, {1});
  launch(device, "moe_gate_grad", {view(dweights), view(weights), view(indices), view(probabilities)}, {view(dlogits)}, {1});
  auto objective = [&](size_t t, size_t moved, double by) {
    double total = 0, result = 0, p[7];
    for (size_t e = 0; e < 7; ++e) total += p[e] = std::exp(logits[t * 7 + e] + (e == moved ? by : 0.0));
    for (size_t j = 0; j < 3; ++j) result += dweights[t * 3 + j] * p[indices[t * 3 + j]] / total;
    return result;
  };
  std::vector<double> expected;
  for (size_t t = 0; t < 20; ++t)
    for (size_t e = 0; e < 7; ++e) expected.push_back((objective(t, e, 1e-5) - objective(t, e, -1e-5)) / 2e-5);
  check_close(dlogits, expected, 1e-6, 1e-8, "dlogits");
}

TEST(moe_gate_edge_cases) {
  // All equal: lowest indices, in order. K = E keeps every expert. K = 1 has weight 1.
  F32 equal({1, 5}), one({1, 1}), all({1, 5}), probabilities({1, 5});
  I32 first({1, 1}), order({1, 5});
  launch(device, "moe_gate", {view(equal)}, {view(one), view(first), absent()}, {0});
  CHECK(one[0] == 1 && first[0] == 0);
  launch(device, "moe_gate", {view(equal)}, {view(all), view(order), view(probabilities)}, {0});
  CHECK(order.values == std::vector<int32_t>({0, 1, 2, 3, 4}));
  check_close(all, std::vector<double>(5, 0.2), 1e-7, 0, "uniform weights");
  // Only the probabilities are read.
  F32 logits({1, 3}, {100, 101, 99}), only({1, 3});
  launch(device, "moe_gate", {view(logits)}, {absent(), absent(), view(only)}, {0});
  check_close(only, softmax(logits), 1e-6, 0, "probabilities alone");
  // Large E: more than one vector, random, against a stable sort.
  std::mt19937 generator(2);
  F32 wide({64, 130}), weights({64, 8});
  I32 chosen({64, 8});
  for (float& value : wide.values) value = static_cast<float>(generator() % 40) / 8;  // many ties
  launch(device, "moe_gate", {view(wide)}, {view(weights), view(chosen), absent()}, {0});
  for (size_t t = 0; t < 64; ++t) {
    std::vector<int32_t> rank(130);
    for (size_t e = 0; e < 130; ++e) rank[e] = static_cast<int32_t>(e);
    std::stable_sort(rank.begin(), rank.end(), [&](int32_t a, int32_t b) { return wide[t * 130 + static_cast<size_t>(a)] > wide[t * 130 + static_cast<size_t>(b)]; });
    for (size_t j = 0; j < 8; ++j) CHECK(chosen[t * 8 + j] == rank[j]);
  }
  F32 no_tokens({0, 4}), no_weights({0, 2});
  I32 no_indices({0, 2});
  launch(device, "moe_gate", {view(no_tokens)}, {view(no_weights), view(no_indices), absent()}, {0});
  launch(device, "moe_gate_grad", {view(no_weights), view(no_weights), view(no_indices), view(no_tokens)}, {view(no_tokens)}, {0});
}

TEST(moe_gate_puts_nan_last) {
  F32 logits({3, 4}, {NAN, 2, NAN, 3, 1, NAN, -INFINITY, 0, NAN, NAN, NAN, NAN});
  I32 indices({3, 4});
  launch(device, "moe_gate", {view(logits)}, {absent(), view(indices), absent()}, {0});
  CHECK(indices.values == std::vector<int32_t>({3, 1, 0, 2, 0, 3, 2, 1, 0, 1, 2, 3}));
}

TEST(moe_sort_worked_example) {
  I32 indices({5, 2}, kIndices), permutation({10}), token({10}), offsets({5}), inverse({10});
  launch(device, "moe_sort", {view(indices)}, {view(permutation), view(token), view(offsets), view(inverse)});
  CHECK(permutation.values == std::vector<int32_t>({0, 6, 1, 4, 7, 3, 8, 2, 5, 9}));
  CHECK(token.values == std::vector<int32_t>({0, 3, 0, 2, 3, 1, 4, 1, 2, 4}));
  CHECK(offsets.values == std::vector<int32_t>({0, 2, 5, 7, 10}));
  CHECK(inverse.values == std::vector<int32_t>({0, 2, 7, 5, 3, 8, 1, 4, 6, 9}));
  I32 again({10});
  launch(device, "moe_sort", {view(indices)}, {view(again), absent(), absent(), absent()});
  CHECK(again.values == permutation.values);
}

// Where nobody reads the offsets there are 8192 experts at most, whatever the indices say; a scalar of offsets stands for no expert.
TEST(moe_sort_does_not_count_experts_by_the_indices) {
  I32 indices({2, 2}, {0, 8191, 3, 0}), permutation({4}), offsets(std::vector<int64_t>{});
  launch(device, "moe_sort", {view(indices)}, {view(permutation), absent(), absent(), absent()});
  CHECK(permutation.values == std::vector<int32_t>({0, 3, 2, 1}));
  for (int32_t wrong : {8192, INT32_MAX, INT32_MAX - 1, INT32_MIN, -1}) {
    indices[2] = wrong;
    TrefoilStatus status = launch_error(device, "moe_sort", {view(indices)}, {view(permutation), absent(), absent(), absent()});
    CHECK(status.code == TREFOIL_INDEX_OUT_OF_RANGE && std::strstr(status.message, "[0, 8192)"));
  }
  indices.values.assign(4, 0);
  TrefoilStatus status = launch_error(device, "moe_sort", {view(indices)}, {view(permutation), absent(), view(offsets), absent()});
  CHECK(status.code == TREFOIL_INDEX_OUT_OF_RANGE && std::strstr(status.message, "[0, 0)"));
}

TEST(moe_sort_many_slots) {
  std::mt19937 generator(3);
  const int64_t tokens = 20000, kept = 3, experts = 37;
  I32 indices({tokens, kept}), permutation({tokens * kept}), token({tokens * kept}), offsets({experts + 1}), inverse({tokens * kept});
  for (int32_t& value : indices.values) value = static_cast<int32_t>(generator() % 36);  // expert 36 gets nothing
  launch(device, "moe_sort", {view(indices)}, {view(permutation), view(token), view(offsets), view(inverse)});
  CHECK(offsets[0] == 0 && offsets[36] == tokens * kept && offsets[37] == tokens * kept);
  for (int32_t e = 0; e < experts; ++e)
    for (int32_t r = offsets[static_cast<size_t>(e)]; r < offsets[static_cast<size_t>(e) + 1]; ++r) {
      size_t at = static_cast<size_t>(r), slot = static_cast<size_t>(permutation[at]);
      CHECK(indices[slot] == e && token[at] == permutation[at] / 3 && inverse[slot] == r);
      CHECK(r == offsets[static_cast<size_t>(e)] || permutation[at - 1] < permutation[at]);  // stable
    }
  indices[100] = 37;
  TrefoilStatus status = launch_error(device, "moe_sort", {view(indices)}, {view(permutation), view(token), view(offsets), view(inverse)});
  CHECK(status.code == TREFOIL_INDEX_OUT_OF_RANGE);
  CHECK(std::string(status.message).find("expert 37 at position 100") != std::string::npos);
  I32 none({0, 2}), empty({0}), starts({5}, {9, 9, 9, 9, 9});
  launch(device, "moe_sort", {view(none)}, {view(empty), view(empty), view(starts), view(empty)});
  CHECK(starts.values == std::vector<int32_t>(5, 0));
}

TEST(moe_combine_and_gradient) {
  std::mt19937 generator(4);
  const size_t tokens = 50, kept = 2;
  for (size_t width : {size_t{1}, size_t{19}, size_t{64}}) {
    int64_t rows = static_cast<int64_t>(tokens * kept), columns = static_cast<int64_t>(width), t64 = static_cast<int64_t>(tokens), k64 = static_cast<int64_t>(kept);
    I32 indices({t64, k64}), permutation({rows}), token({rows}), offsets({5}), inverse({rows});
    for (int32_t& value : indices.values) value = static_cast<int32_t>(generator() % 4);
    launch(device, "moe_sort", {view(indices)}, {view(permutation), view(token), view(offsets), view(inverse)});
    F32 y = normal(generator, {rows, columns}), weights = normal(generator, {t64, k64}), out({t64, columns}), plain({t64, columns});
    F32 dout = normal(generator, {t64, columns}), dy({rows, columns}), dweights({t64, k64}), dy_alone({rows, columns}), dweights_alone({t64, k64});
    launch(device, "moe_combine", {view(y), view(inverse), view(weights)}, {view(out)}, {2});
    launch(device, "moe_combine", {view(y), view(inverse), absent()}, {view(plain)}, {2});
    std::vector<TrefoilView> inputs = {view(dout), view(y), view(permutation), view(weights)};
    launch(device, "moe_combine_grad", inputs, {view(dy), view(dweights)});
    launch(device, "moe_combine_grad", inputs, {view(dy_alone), absent()});
    launch(device, "moe_combine_grad", inputs, {absent(), view(dweights_alone)});
    CHECK(dy.values == dy_alone.values && dweights.values == dweights_alone.values);
    std::vector<double> out64(tokens * width), plain64(tokens * width), dy64(tokens * kept * width), dweights64(tokens * kept);
    for (size_t s = 0; s < tokens * kept; ++s)
      for (size_t d = 0; d < width; ++d) {
        size_t from = static_cast<size_t>(inverse[s]) * width + d, to = s / kept * width + d;
        out64[to] += double(weights[s]) * y[from];
        plain64[to] += y[from];
        dy64[from] = double(weights[s]) * dout[to];
        dweights64[s] += double(y[from]) * dout[to];
      }
    check_close(out, out64, 1e-6, 0, "out");
    check_close(plain, plain64, 1e-6, 0, "out without weights");
    check_close(dy, dy64, 1e-6, 0, "dy");
    check_close(dweights, dweights64, 2e-6, 0, "dweights");
    inverse[7] = static_cast<int32_t>(rows);
    CHECK(launch_error(device, "moe_combine", {view(y), view(inverse), view(weights)}, {view(out)}, {2}).code == TREFOIL_INDEX_OUT_OF_RANGE);
    permutation[7] = -1;
    CHECK(launch_error(device, "moe_combine_grad", inputs, {view(dy), view(dweights)}).code == TREFOIL_INDEX_OUT_OF_RANGE);
  }
  F32 none({0, 4}), no_weights({0, 2});
  I32 empty({0});
  launch(device, "moe_combine", {view(none), view(empty), view(no_weights)}, {view(none)}, {2});
  launch(device, "moe_combine_grad", {view(none), view(none), view(empty), view(no_weights)}, {view(none), view(no_weights)});
}

TEST(moe_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    std::mt19937 generator(5);
    F32 logits = normal(generator, {9000, 8}), weights({9000, 2}), probabilities({9000, 8}), y = normal(generator, {18000, 24}), out({9000, 24}), order({18000});
    F32 dweights({9000, 2});
    I32 indices({9000, 2}), permutation({18000}), token({18000}), offsets({9}), inverse({18000});
    launch(other, "moe_gate", {view(logits)}, {view(weights), view(indices), view(probabilities)}, {0});
    launch(other, "moe_sort", {view(indices)}, {view(permutation), view(token), view(offsets), view(inverse)});
    launch(other, "moe_combine", {view(y), view(inverse), view(weights)}, {view(out)}, {2});
    launch(other, "moe_combine_grad", {view(out), view(y), view(permutation), view(weights)}, {absent(), view(dweights)});
    launch(other, "copy", {view(permutation)}, {view(order)});
    return std::vector<F32>{weights, probabilities, out, order, dweights};
  });
}
