// Loops over one row in vectors, and the split of many rows into tasks.
#pragma once
#include "kernel.h"
#include "vector_math.h"

namespace trefoil::cpu::TREFOIL_ISA {

// A whole vector, or the last n lanes of a row: what a loop body loads and stores through.
struct WholeVector {
  Vec load(const float* p) const { return TREFOIL_ISA::load(p); }
  void store(float* p, Vec x) const { TREFOIL_ISA::store(p, x); }
  Vec or_else(Vec x, float) const { return x; }
};
struct PartialVector {
  int lanes;
  Vec load(const float* p) const { return load_n(p, lanes); }
  void store(float* p, Vec x) const { store_n(p, x, lanes); }
  // The lanes past the row read as `outside`.
  Vec or_else(Vec x, float outside) const {
    alignas(64) static constexpr float index[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return select(less(TREFOIL_ISA::load(index), splat(static_cast<float>(lanes))), x, splat(outside));
  }
};

// Stores go past the caches; for rows that streams_past_caches allows.
struct StreamedVector : WholeVector {
  void store(float* p, Vec x) const { stream(p, x); }
};

// A result this large has left the caches before anyone reads it. `to` holds rows of n floats; `total` floats in all.
constexpr int64_t kStreamedBytes = 16 << 20;
inline bool streams_past_caches(const float* to, int64_t n, int64_t total) {
  return kStreams && total * static_cast<int64_t>(sizeof(float)) >= kStreamedBytes && n % Vec::width == 0 && reinterpret_cast<uintptr_t>(to) % 64 == 0;
}

// body(offset, lanes) over [0, n).
template <class Body>
inline void for_each_vector(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + Vec::width <= n; i += Vec::width) body(i, WholeVector{});
  if (i < n) body(i, PartialVector{static_cast<int>(n - i)});
}

// The same, storing past the caches if `streamed`.
template <class Body>
inline void for_each_vector(int64_t n, bool streamed, const Body& body) {
  if (!streamed) return for_each_vector(n, body);
  for (int64_t i = 0; i < n; i += Vec::width) body(i, StreamedVector{});
}

// Sum of value(offset, lanes) over [0, n): four partial sums in a fixed order.
template <class Value>
inline float sum_over(int64_t n, const Value& value) {
  constexpr int64_t width = Vec::width;
  Vec s0 = splat(0.0f), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * width <= n; i += 4 * width) {
    s0 = s0 + value(i, WholeVector{});
    s1 = s1 + value(i + width, WholeVector{});
    s2 = s2 + value(i + 2 * width, WholeVector{});
    s3 = s3 + value(i + 3 * width, WholeVector{});
  }
  for (; i + width <= n; i += width) s0 = s0 + value(i, WholeVector{});
  if (i < n) {
    PartialVector last{static_cast<int>(n - i)};
    s1 = s1 + last.or_else(value(i, last), 0.0f);
  }
  return sum((s0 + s1) + (s2 + s3));
}

// The largest of x[0, n), NaN ignored; -inf for n = 0.
inline float largest(const float* x, int64_t n) {
  Vec m = splat(-HUGE_VALF);
  for_each_vector(n, [&](int64_t i, auto lanes) { m = max(lanes.or_else(lanes.load(x + i), -HUGE_VALF), m); });
  return max_lane(m);
}

// Rows per task: about 16 thousand elements, below which waking a thread costs more than it gives.
struct RowTasks {
  int64_t rows, rows_per_task, count;
  RowTasks(int64_t rows, int64_t row_elements) : rows(rows) {
    rows_per_task = row_elements < 16384 ? 16384 / (row_elements > 0 ? row_elements : 1) : 1;
    count = (rows + rows_per_task - 1) / rows_per_task;
  }
  int64_t begin(int64_t task) const { return task * rows_per_task; }
  int64_t end(int64_t task) const { return begin(task) + rows_per_task < rows ? begin(task) + rows_per_task : rows; }
};

template <class Body>
inline void for_each_row(Context& context, int64_t rows, int64_t row_elements, const Body& body) {
  RowTasks tasks(rows, row_elements);
  context.parallel(tasks.count, [&](int64_t task) {
    for (int64_t row = tasks.begin(task); row < tasks.end(task); ++row) body(row);
    stream_fence();
  });
}

}  // namespace trefoil::cpu::TREFOIL_ISA
