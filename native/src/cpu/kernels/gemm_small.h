// Products with few rows or columns: B (or A) is read once, as it lies in memory.
#pragma once
#include "epilogue.h"
#include "gemm_pack.h"
#include "gemm_plan.h"
#include "microkernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

// Rows of A as the kernels need them: f32 and, for Walk::rows, contiguous in k.
struct Rows {
  const float* data;
  int64_t stride;
};

#if defined(TREFOIL_ISA_AVX512) || defined(TREFOIL_ISA_NEON)
constexpr int kDotTileRows = 6;
#else
constexpr int kDotTileRows = 2;
#endif
constexpr int kDotTileColumns = 4;
constexpr int64_t kDotDepth = 1024;  // of k: what passes by each other stays in L1 and L2
constexpr int64_t kDotAhead = 8 * 1024;  // bytes of B that are fetched before their use, at least

template <int R, int C, class B>
DotKernel<B> dot_kernel_for_rows(int rows) {
  if constexpr (R == 1) {
    return &dot_kernel<1, C, B>;
  } else {
    return rows == R ? &dot_kernel<R, C, B> : dot_kernel_for_rows<R - 1, C, B>(rows);
  }
}

inline void run_dot_rows(const Gemm& g, const float* a, int64_t row, int64_t column, int64_t columns) {
  float* c = g.c + row * g.c_stride;
  for (int64_t j = column; j < column + columns; ++j) {
    float product = dot_row(g.k, a, stored_row<float>(g.b, j));
    c[j] = g.accumulate ? c[j] + product : product;
  }
}

// Every row of A passes by a few rows of B, which are then in the nearest cache: B is read from memory once. Meanwhile the rows of B
// that come some tiles later are fetched in order of their addresses, a part by each group of rows of A: the memory can follow
// neither many short runs at once nor all of it in a burst.
// With `bf16` rows of A are pairs.
template <class B>
void run_dot_tile(const Gemm& g, Rows a, int64_t row, int64_t rows, int64_t column, int64_t columns, const Bf16Products* bf16 = nullptr) {
  if constexpr (sizeof(B) == sizeof(float))
    if (rows == 1) return run_dot_rows(g, a.data, row, column, columns);
  const int64_t step = bf16 ? 2 * Vec::width : Vec::width;  // of k, to each fetch
  const int64_t tile = kDotTileColumns * g.b.stride;
  const int64_t ahead = ceil_div(kDotAhead, at_least(tile * static_cast<int64_t>(sizeof(B)), 1)) * tile;
  for (int64_t j = 0; j < columns;) {
    const bool four = columns - j >= kDotTileColumns;
    const int64_t width = four ? kDotTileColumns : 1;
    const int tile_lines = lines_per_step<B>(static_cast<int>(width * step / Vec::width));
    for (int64_t k = 0; k == 0 || k < g.k; k += kDotDepth) {
      const int64_t depth = at_most(g.k - k, kDotDepth);
      const B* b = stored_row<B>(g.b, column + j) + k;
      const char* fetched = reinterpret_cast<const char*>(b - k + ahead + width * k);
      int lines_left = tile_lines;
      for (int64_t i = 0; i < rows;) {
        const int64_t left = rows - i, tiles = ceil_div(left, kDotTileRows);
        const int count = static_cast<int>(ceil_div(left, tiles)), lines = static_cast<int>(ceil_div(lines_left, tiles));
        float* c = g.c + (row + i) * g.c_stride + column + j;
        const bool accumulate = g.accumulate || k > 0;
        if (bf16) {
          bf16->dot(g.b.bf16, count, static_cast<int>(width))(depth, a.data + i * a.stride + k / 2, a.stride, b, g.b.stride, c, g.c_stride, accumulate, fetched, lines);
        } else {
          const DotKernel<B> kernel =
              four ? dot_kernel_for_rows<kDotTileRows, kDotTileColumns, B>(count) : dot_kernel_for_rows<kDotTileRows, 1, B>(count);
          kernel(depth, a.data + i * a.stride + k, a.stride, b, g.b.stride, c, g.c_stride, accumulate, {fetched, lines});
        }
        i += count;
        lines_left -= lines;
        fetched += depth / step * lines * 4 * kLine;
      }
    }
    j += width;
  }
}

// Vectors of C side by side: as many as the registers hold for this many rows.
constexpr int stream_vectors(int rows) { return rows * 8 <= kAccumulators ? 8 : rows * 4 <= kAccumulators ? 4 : 2; }

template <Walk walk, class B, int R>
void run_stream_tile(const Gemm& g, const float* a, int64_t lda, int64_t column, int64_t columns) {
  constexpr int V = stream_vectors(R);
  constexpr int64_t kWide = V * Vec::width;
  const int64_t ahead = kStreamDepth * g.b.stride;  // the same columns of the next rows
  for (int64_t k = 0; k == 0 || k < g.k; k += kStreamDepth) {
    int64_t depth = at_most(g.k - k, kStreamDepth);
    const float* left = walk == Walk::rows ? a + k : a + k * lda;
    const B* right = static_cast<const B*>(g.b.data) + k * g.b.stride + column;
    float* c = g.c + column;
    bool accumulate = g.accumulate || k > 0;
    int64_t j = 0;
    for (; j + kWide <= columns; j += kWide)
      micro_kernel<R, V, walk, false, Source::stored, B>(depth, left, lda, right + j, g.b.stride, c + j, g.c_stride, accumulate, 0, ahead,
                                                          nullptr, {});
    for (; j < columns; j += Vec::width) {
      int tail = static_cast<int>(at_most(columns - j, Vec::width));
      micro_kernel<R, 1, walk, true, Source::stored, B>(depth, left, lda, right + j, g.b.stride, c + j, g.c_stride, accumulate, tail, ahead,
                                                        nullptr, {});
    }
  }
}

template <Walk walk, class B, int R = kTileRows>
void run_stream(const Gemm& g, const float* a, int64_t lda, int64_t column, int64_t columns) {
  if (g.m == R) return run_stream_tile<walk, B, R>(g, a, lda, column, columns);
  if constexpr (R > 1) run_stream<walk, B, R - 1>(g, a, lda, column, columns);
}

// Fewer rows are bound by reading B, or by rounding it, and few columns by reading A.
constexpr int64_t kRoundedRows = 8, kRoundedRowsOfBf16 = 4;

// One task of Method::dot or Method::stream.
inline void run_small_tile(Context& context, const Gemm& g, const Plan& plan, int64_t row, int64_t rows, int64_t column,
                           int64_t columns) {
  bool as_stored = !g.a.bf16 && !g.a.rows;
  bool stream = plan.method == Method::stream;
  const bool rounds = g.rounded && !stream && g.b.transposed && g.n > kDotColumns && rows >= (g.b.bf16 ? kRoundedRowsOfBf16 : kRoundedRows);
  if (rounds && context.bf16_products()->dot) {
    const Bf16Products& bf16 = *context.bf16_products();
    float* packed = static_cast<float*>(context.scratch(6, static_cast<size_t>(rows * pairs(g.k) + 1) * sizeof(float)));
    bf16.pack_rows(g.a, row, rows, g.k, packed);
    if (g.b.bf16) run_dot_tile<uint16_t>(g, {packed, pairs(g.k)}, row, rows, column, columns, &bf16);
    else run_dot_tile<float>(g, {packed, pairs(g.k)}, row, rows, column, columns, &bf16);
  } else if (stream && as_stored && g.a.transposed) {
    const float* a = static_cast<const float*>(g.a.data);
    if (g.b.bf16) run_stream<Walk::columns, uint16_t>(g, a, g.a.stride, column, columns);
    else run_stream<Walk::columns, float>(g, a, g.a.stride, column, columns);
  } else {
    Rows a{static_cast<const float*>(g.a.data) + row * g.a.stride, g.a.stride};
    if (!as_stored || g.a.transposed) {
      float* packed = static_cast<float*>(context.scratch(6, static_cast<size_t>(rows * g.k + 1) * sizeof(float)));
      copy_a(g.a, row, rows, g.k, packed);
      a = {packed, g.k};
    }
    if (stream) {
      if (g.b.bf16) run_stream<Walk::rows, uint16_t>(g, a.data, a.stride, column, columns);
      else run_stream<Walk::rows, float>(g, a.data, a.stride, column, columns);
    } else if (!g.b.transposed) {  // a thin b: turned over, it is no more than a few rows
      float* turned = static_cast<float*>(context.scratch(7, static_cast<size_t>(g.n * g.k + 1) * sizeof(float)));
      Matrix columns_of_b = g.b;
      columns_of_b.transposed = true;
      copy_a(columns_of_b, 0, g.n, g.k, turned);
      Gemm with_rows = g;
      with_rows.b = {turned, g.k, true, false, nullptr};
      run_dot_tile<float>(with_rows, a, row, rows, column, columns);
    } else {
      if (g.b.bf16) run_dot_tile<uint16_t>(g, a, row, rows, column, columns);
      else run_dot_tile<float>(g, a, row, rows, column, columns);
    }
  }
  if (!is_trivial(g.epilogue)) finish(g.epilogue, g.c, g.c_stride, row, rows, column, columns);
}

}  // namespace trefoil::cpu::TREFOIL_ISA
