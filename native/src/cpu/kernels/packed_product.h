// Products whose left matrix is made tile by tile and whose right matrix is packed once: the inner loops of convolution and of
// the search for codes.
#pragma once
#include "gemm_pack.h"
#include "gemm_plan.h"

namespace trefoil::cpu::TREFOIL_ISA {

// How k is cut into blocks.
struct Depth {
  int64_t depth, blocks;
  explicit Depth(int64_t k) {
    blocks = k <= kWholeDepth ? 1 : ceil_div(k, kDepth);
    depth = at_least(round_up(ceil_div(k, blocks), 8), 8);
    blocks = ceil_div(k, depth);
  }
};

inline size_t packed_right_bytes(int64_t k, int64_t n) { return static_cast<size_t>(k * round_up(n, kTileColumns)) * sizeof(float); }

// The whole of b [k, n]: blocks of k, each [n / kTileColumns][depth][kTileColumns]. Column c of the block from k0 on starts at
// k0 * round_up(n, kTileColumns) + c * depth.
static inline void pack_right(Context& context, const Matrix& b, int64_t k, int64_t n, float* packed) {
  const Depth cut(k);
  const int64_t strips = ceil_div(n, kPackColumns);
  context.parallel(cut.blocks * strips, [&](int64_t task) {
    const int64_t k0 = task / strips * cut.depth, column = task % strips * kPackColumns, depth = at_most(k - k0, cut.depth);
    pack_b(b, k0, depth, column, at_most(column + kPackColumns, n), packed + k0 * round_up(n, kTileColumns) + column * depth);
  });
}

// C[rows, columns] (+)= packed A times packed B, both of `depth`.
template <Walk walk>
void multiply_packed(const float* a, int64_t rows, const float* b, int64_t columns, int64_t depth, float* c, int64_t c_stride,
                     bool accumulate) {
  const int64_t strip = strip_columns(depth);  // stays in L2 while every row passes by
  for (int64_t first = 0; first < columns; first += strip) {
    const int64_t end = at_most(first + strip, columns);
    const int edge = static_cast<int>((end - first) % kTileColumns);
    const float* panel = a;
    for (int64_t i = 0; i < rows; panel += panel_stride(depth)) {
      const int count = panel_rows(rows - i);
      const int64_t lda = walk == Walk::columns ? count : depth;
      const MicroKernel whole = packed_kernel<walk>(count, kTileColumns), part = packed_kernel<walk>(count, edge);
      for (int64_t j = first; j < end; j += kTileColumns) {
        const int width = static_cast<int>(at_most(end - j, kTileColumns));
        (width == kTileColumns ? whole : part)(depth, panel, lda, b + j * depth, kTileColumns, c + i * c_stride + j, c_stride,
                                               accumulate, (width - 1) % Vec::width + 1, kPackedAhead, nullptr, {});
      }
      i += count;
    }
  }
}

}  // namespace trefoil::cpu::TREFOIL_ISA
