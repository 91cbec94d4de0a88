// Rows of a tensor seen as [rows, last dimension]: a warp or a block to each, and a row in registers where it fits, so that it is read
// from memory once.
#pragma once
#include "floats.h"

namespace trefoil::cuda {

// The threads that share a row: a block (wide) or a warp.
template <bool wide>
struct Team {
  __device__ __forceinline__ static int size() { return wide ? static_cast<int>(blockDim.x) : kWarp; }
  __device__ __forceinline__ static int rank() { return wide ? static_cast<int>(threadIdx.x) : lane_index(); }
  __device__ __forceinline__ static int64_t first() { return wide ? blockIdx.x : static_cast<int64_t>(blockIdx.x) * (blockDim.x >> 5u) + static_cast<unsigned>(warp_index()); }
  __device__ __forceinline__ static int64_t count() { return wide ? gridDim.x : static_cast<int64_t>(gridDim.x) * (blockDim.x >> 5u); }
  template <class T, class Op>
  __device__ __forceinline__ static T reduce(T value, T identity, Op op) {
    if constexpr (wide)
      return block_reduce(value, identity, op);
    else
      return warp_reduce(value, op);
  }
  template <class T>
  __device__ __forceinline__ static T sum(T value) { return reduce(value, T(0), Add{}); }
  __device__ __forceinline__ static float max(float value) { return reduce(value, -INFINITY, Largest{}); }
};

// A team's share of one row: `vectors` times four values to a thread, or (0) nothing kept: every pass reads memory.
template <bool wide, int vectors>
struct RowValues {
  Floats from;
  float values[vectors ? 4 * vectors : 1];

  __device__ __forceinline__ RowValues(Floats row, int64_t n) : from(row) {
    if constexpr (vectors > 0) {
      if (row.half) load(static_cast<const bf16*>(row.data), static_cast<int>(n));
      else load(static_cast<const float*>(row.data), static_cast<int>(n));
    }
  }

 private:
  // Past the end the first four are read instead, so that nothing is decided between the loads and all of them are under way at once.
  template <class T>
  __device__ __forceinline__ void load(const T* row, int n) {
#pragma unroll
    for (int k = 0; k < vectors; ++k) {
      const int i = (k * Team<wide>::size() + Team<wide>::rank()) * 4;
      const float4 four = load4(row + (i < n ? i : 0));
      values[4 * k] = four.x, values[4 * k + 1] = four.y, values[4 * k + 2] = four.z, values[4 * k + 3] = four.w;
    }
  }
};

// body(slot, index, values of the rows at it) for this thread's share, the same in each and in map; slot counts the elements of a thread (0 where
// nothing is kept).
template <bool wide, int vectors, class Body, class... Row>
__device__ __forceinline__ void each(int64_t n, const Body& body, const Row&... rows) {
  if constexpr (vectors > 0) {
#pragma unroll
    for (int k = 0; k < vectors; ++k) {
      const int i = (k * Team<wide>::size() + Team<wide>::rank()) * 4;
      if (i < static_cast<int>(n)) {
#pragma unroll
        for (int j = 0; j < 4; ++j) body(4 * k + j, i + j, rows.values[4 * k + j]...);
      }
    }
  } else if (wide && n % 4 == 0) {
    for (int64_t i = Team<wide>::rank() * 4; i < n; i += Team<wide>::size() * 4)
      [&](const auto&... four) {
        body(0, i, four.x...);
        body(0, i + 1, four.y...);
        body(0, i + 2, four.z...);
        body(0, i + 3, four.w...);
      }(rows.from.load4(i)...);
  } else {
    for (int64_t i = Team<wide>::rank(); i < n; i += Team<wide>::size()) body(0, i, rows.from.load(i)...);
  }
}

// to[index] = value(index, values of the rows at it).
template <bool wide, int vectors, class Value, class... Row>
__device__ __forceinline__ void map(Floats to, int64_t n, const Value& value, const Row&... rows) {
  if constexpr (vectors > 0) {
#pragma unroll
    for (int k = 0; k < vectors; ++k) {
      const int i = (k * Team<wide>::size() + Team<wide>::rank()) * 4;
      if (i < static_cast<int>(n))
        to.store4(i, make_float4(value(i, rows.values[4 * k]...), value(i + 1, rows.values[4 * k + 1]...),
                                 value(i + 2, rows.values[4 * k + 2]...), value(i + 3, rows.values[4 * k + 3]...)));
    }
  } else if (wide && n % 4 == 0) {
    for (int64_t i = Team<wide>::rank() * 4; i < n; i += Team<wide>::size() * 4)
      to.store4(i, [&](const auto&... four) {
        return make_float4(value(i, four.x...), value(i + 1, four.y...), value(i + 2, four.z...), value(i + 3, four.w...));
      }(rows.from.load4(i)...));
  } else {
    for (int64_t i = Team<wide>::rank(); i < n; i += Team<wide>::size()) to.store(i, value(i, rows.from.load(i)...));
  }
}

// The largest block of plan_rows: kernels that it is for promise to fit it, or a row of many registers could not be launched. Some that keep
// one row alone promise the larger one (64 registers to a thread).
constexpr unsigned kMostRowThreads = 512, kMostThreads = 1024;

// How rows of n elements are shared out.
struct RowPlan {
  bool wide;
  int vectors;
  unsigned threads;
  int64_t teams;  // at most one per row
  unsigned blocks() const { return static_cast<unsigned>(wide ? teams : ceil_divide(teams, threads / 32)); }
  Shape shape() const { return {blocks(), threads}; }
  int64_t team_count() const { return wide ? blocks() : static_cast<int64_t>(blocks()) * (threads / 32); }  // idle ones included
};

inline RowPlan plan_rows(const Context& context, int64_t rows, int64_t n, unsigned threads_per_multiprocessor = 2048, unsigned most_threads = kMostRowThreads) {
  RowPlan plan{};
  const bool aligned = n > 0 && n % 4 == 0;
  if (aligned && n <= 512) {
    plan = {false, n <= 128 ? 1 : n <= 256 ? 2 : 4, 128, 0};
  } else if (aligned && n <= 32 * most_threads) {
    plan.wide = true;
    plan.vectors = n <= 8192 ? 4 : 8;
    plan.threads = static_cast<unsigned>(ceil_divide(n, 4 * plan.vectors * 32) * 32);
  } else {
    plan.wide = n > 256;
    plan.threads = plan.wide && n > 2048 ? kMostRowThreads : 128;
  }
  const int64_t per_block = plan.wide ? 1 : plan.threads / 32, most = int64_t{context.multiprocessors} * (threads_per_multiprocessor / plan.threads) * per_block;
  plan.teams = rows < most ? rows : most;
  return plan;
}

// run(std::bool_constant<wide>, std::integral_constant<int, vectors>): one of the shapes that plan_rows chooses.
template <class Run>
void with_row_shape(const RowPlan& plan, const Run& run) {
  if (!plan.wide) {
    switch (plan.vectors) {
      case 1: return run(std::bool_constant<false>{}, std::integral_constant<int, 1>{});
      case 2: return run(std::bool_constant<false>{}, std::integral_constant<int, 2>{});
      case 4: return run(std::bool_constant<false>{}, std::integral_constant<int, 4>{});
      default: return run(std::bool_constant<false>{}, std::integral_constant<int, 0>{});
    }
  }
  switch (plan.vectors) {
    case 4: return run(std::bool_constant<true>{}, std::integral_constant<int, 4>{});
    case 8: return run(std::bool_constant<true>{}, std::integral_constant<int, 8>{});
    default: return run(std::bool_constant<true>{}, std::integral_constant<int, 0>{});
  }
}

}  // namespace trefoil::cuda
