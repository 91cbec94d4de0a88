// Column sums of partial results, added in the order of the rows that a thread takes and then of the threads.
#pragma once
#include "kernel.h"

namespace trefoil::cuda {
namespace {  // each family that includes this has its own kernel

constexpr unsigned kColumnLanes = 32;  // rows that are read side by side

// total[c] = Σ_r partial[r * stride + c] for c < n. Block: 32 columns by kColumnLanes.
__global__ void column_sums_kernel(const float* partial, int64_t rows, int64_t stride, int64_t n, float* total) {
  TREFOIL_SHARED(sums, float[kColumnLanes][33]);
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  float sum = 0;
  if (column < n)
    for (int64_t row = threadIdx.y; row < rows; row += kColumnLanes) sum += partial[row * stride + column];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && column < n) {
    for (unsigned lane = 1; lane < kColumnLanes; ++lane) sum += sums[lane][threadIdx.x];
    total[column] = sum;
  }
}

inline void column_sums(const Context& context, const float* partial, int64_t rows, int64_t stride, int64_t n, float* total) {
  launch(context, {static_cast<unsigned>(ceil_divide(n, 32)), dim3(32, kColumnLanes)}, column_sums_kernel, partial, rows, stride, n, total);
}

}  // namespace
}  // namespace trefoil::cuda
