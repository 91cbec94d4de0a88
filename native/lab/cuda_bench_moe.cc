// A layer of a mixture of experts, forward and backward: its ops in the order in which the graph of @trefoil/core runs them.
#include <algorithm>

#include "cuda_bench.h"

Work mixture_layer(int64_t tokens, int64_t hidden, int64_t intermediate, int64_t experts, int64_t choices) {
  Work w;
  const int64_t rows = tokens * choices;
  const auto numbers = [&](std::vector<int64_t> shape) { return w.add(empty(std::move(shape))); };
  const auto values = [&](std::vector<int64_t> shape) { return w.add(empty(std::move(shape), activation)); };
  const auto indices = [&](int64_t count) { return w.add(empty({count}, TREFOIL_I32)); };
  const int x = w.add(normal({tokens, hidden}, 1, activation)), router = w.add(normal({experts, hidden}, 0.02f, activation));
  const int gate_up = w.add(normal({experts, 2 * intermediate, hidden}, 0.02f, activation)), down = w.add(normal({experts, hidden, intermediate}, 0.02f, activation));
  const int dout = w.add(normal({tokens, hidden}));
  const int logits = numbers({tokens, experts}), weights = numbers({tokens, choices}), probabilities = numbers({tokens, experts});
  const int chosen = w.add(empty({tokens, choices}, TREFOIL_I32));
  const int permutation = indices(rows), token = indices(rows), offsets = indices(experts + 1), inverse = indices(rows);
  const int pair = values({rows, 2 * intermediate}), inner = values({rows, intermediate}), y = values({rows, hidden}), out = numbers({tokens, hidden});
  const int dy = values({rows, hidden}), dweights = numbers({tokens, choices}), dlogits = numbers({tokens, experts});
  const int dinner = values({rows, intermediate}), dpair = values({rows, 2 * intermediate}), dx_rows = values({rows, hidden});
  const int dx_experts = values({tokens, hidden}), dx = values({tokens, hidden}), drouter = numbers({experts, hidden});
  const int dgate_up = numbers({experts, 2 * intermediate, hidden}), ddown = numbers({experts, hidden, intermediate});
  const bool routing = true;
  w.calls = {
      {"matmul", {x, router, -1, -1}, {logits, -1}, {0, 1, 1, 0}, routing},
      {"moe_gate", {logits}, {weights, chosen, probabilities}, {0}, routing},
      {"moe_sort", {chosen}, {permutation, token, offsets, inverse}, {}, routing},
      {"grouped_matmul", {x, gate_up, offsets, token}, {pair}, {1}},
      {"swiglu", {pair}, {inner}, {}},
      {"grouped_matmul", {inner, down, offsets, -1}, {y}, {1}},
      {"moe_combine", {y, inverse, weights, permutation}, {out}, {double(choices)}, routing},
      {"moe_combine_grad", {dout, y, permutation, weights}, {dy, dweights}, {double(choices)}, routing},
      {"grouped_matmul", {dy, down, offsets, -1}, {dinner}, {0}},
      {"grouped_matmul_weight_grad", {dy, inner, offsets, -1, -1}, {ddown}, {}},
      {"swiglu_grad", {pair, dinner}, {dpair}, {}},
      {"grouped_matmul", {dpair, gate_up, offsets, -1}, {dx_rows}, {0}},
      {"scatter_add_rows", {dx_rows, token}, {dx_experts}, {}, routing},
      {"grouped_matmul_weight_grad", {dpair, x, offsets, -1, token}, {dgate_up}, {}},
      {"moe_gate_grad", {dweights, weights, chosen, probabilities}, {dlogits}, {0}, routing},
      {"matmul", {dlogits, router, -1, dx_experts}, {dx, -1}, {0, 0, 1, 0}, routing},
      {"matmul", {dlogits, x, -1, -1}, {drouter, -1}, {1, 0, 1, 0}, routing},
  };
  // Three products of matrices forward, each with two gradients.
  w.flops = 3 * 2.0 * 3 * double(rows) * double(hidden) * double(intermediate);
  return w;
}
