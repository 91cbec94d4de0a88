// Compiled once per ISA: how gemm_plan.h cuts a product into tasks.
#pragma once
#include <cstdint>

namespace trefoil::cpu {

struct PlannedProduct {
  int64_t m, n, k;
  bool transpose_a, transpose_b, bf16_a, accumulate;
  int64_t count;         // products of this size that run together
  bool rounded = false;  // to bf16
};

// What the order of a sum depends on, and where the result's partial sums are kept.
struct PlannedSums {
  int method;
  int64_t depth, depth_blocks, splits;
};

struct PlannedTask {
  int64_t split, row, rows, column, columns;
};

struct PlanProbe {
  int shared, local;     // the methods that cut k into blocks
  int64_t tile_columns;  // columns of a panel of packed B
  PlannedSums (*plan)(const PlannedProduct& product, int threads, void (*take)(void* to, const PlannedTask& task), void* to);
};

}  // namespace trefoil::cpu
