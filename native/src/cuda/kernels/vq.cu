// Vector quantisation (van den Oord et al. 2017, arXiv 1711.00937, equation 1): the nearest code of every row. Scores |e|² - 2 x·e are made
// in f32, a tile at a time; codes whose scores are within rounding of the least are measured in f64.
#include "kernel.h"

namespace trefoil::cuda {

namespace {

constexpr int kRows = 32, kLanes = 8, kCodes = 64, kDepth = 32, kPitch = kDepth + 4;
constexpr int kPerLane = kCodes / kLanes;
constexpr unsigned kThreads = kRows * kLanes;

__device__ __forceinline__ double squared_distance(const float* x, const float* code, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double d = static_cast<double>(x[i]) - static_cast<double>(code[i]);
    total += d * d;
  }
  return total;
}

// |x|² of every row, in f64 rounded to f32: one warp per row.
__global__ void lengths_kernel(const float* x, int64_t rows, int64_t width, float* lengths) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kWarp);
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + warp_index(); row < rows; row += warps) {
    double total = 0;
    for (int64_t i = lane_index(); i < width; i += kWarp) total += static_cast<double>(x[row * width + i]) * static_cast<double>(x[row * width + i]);
    total = warp_sum(total);
    if (lane_index() == 0) lengths[row] = static_cast<float>(total);
  }
}

__global__ void longest_kernel(const float* lengths, int64_t count, float* longest) {
  float most = 0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) most = fmaxf(most, lengths[i]);
  most = block_max(most);
  if (threadIdx.x == 0) *longest = most;
}

__device__ __forceinline__ void load_tile(float (*to)[kPitch], const float* from, int64_t first, int64_t count, int rows, int64_t width, int64_t depth) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * kDepth; i += static_cast<int>(kThreads)) {
    const int row = i / kDepth, column = i % kDepth;
    to[row][column] = first + row < count && depth + column < width ? from[(first + row) * width + depth + column] : 0.0f;
  }
}

// A block takes 32 rows through all codes; eight lanes share a row.
__global__ void __launch_bounds__(kThreads) search_kernel(const float* x, const float* codebook, const float* row_lengths, const float* lengths,
                                                          const float* longest, int64_t rows, int64_t codes, int64_t width, int32_t* index, float* distance) {
  TREFOIL_SHARED(x_tile, float[kRows][kPitch]);
  TREFOIL_SHARED(code_tile, float[kCodes][kPitch]);
  const int row = static_cast<int>(threadIdx.x) / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kRows; first < rows; first += static_cast<int64_t>(gridDim.x) * kRows) {
    const int64_t r = first + row < rows ? first + row : rows - 1;
    // A chain of D fused multiply-adds is off by at most D 2^-24 |x| |e|, |e|² and the last step by 2^-24 of their sizes.
    const double length = sqrt(static_cast<double>(row_lengths[r])) * sqrt(static_cast<double>(*longest));
    const float slack = static_cast<float>(2.001 * 0x1p-24 * (2.0 * static_cast<double>(width + 4) * length + 4.0 * static_cast<double>(*longest)));
    float least = INFINITY;
    double nearest = static_cast<double>(INFINITY);
    int64_t found = codes;
    for (int64_t code = 0; code < codes; code += kCodes) {
      float product[kPerLane] = {};
      for (int64_t depth = 0; depth < width; depth += kDepth) {
        __syncthreads();
        load_tile(x_tile, x, first, rows, kRows, width, depth);
        load_tile(code_tile, codebook, code, codes, kCodes, width, depth);
        __syncthreads();
        for (int d = 0; d < kDepth; d += 4) {
          const float4 u = load4(&x_tile[row][d]);
#pragma unroll
          for (int m = 0; m < kPerLane; ++m) {
            const float4 v = load4(&code_tile[lane + kLanes * m][d]);
            product[m] = fmaf(u.x, v.x, fmaf(u.y, v.y, fmaf(u.z, v.z, fmaf(u.w, v.w, product[m]))));
          }
        }
      }
      float score[kPerLane];
#pragma unroll
      for (int m = 0; m < kPerLane; ++m) {
        const int64_t c = code + lane + kLanes * m;
        score[m] = c < codes ? fmaf(-2.0f, product[m], lengths[c]) : INFINITY;
        if (c < codes) least = fminf(least, score[m]);
      }
      for (int offset = kLanes / 2; offset > 0; offset /= 2) least = fminf(least, __shfl_xor_sync(kFullWarp, least, offset));
      for (int m = 0; m < kPerLane; ++m) {
        const int64_t c = code + lane + kLanes * m;
        if (c >= codes || !(score[m] <= least + slack)) continue;
        const double d = squared_distance(x + r * width, codebook + c * width, width);
        if (d < nearest) nearest = d, found = c;  // codes of a lane ascend
      }
    }
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      const double other = __shfl_xor_sync(kFullWarp, nearest, offset);
      const int64_t code = __shfl_xor_sync(kFullWarp, found, offset);
      if (other < nearest || (other == nearest && code < found)) nearest = other, found = code;
    }
    if (lane != 0 || first + row >= rows) continue;
    // Not measured yet only where no score is a number.
    if (found == codes) {
      found = 0;
      nearest = squared_distance(x + r * width, codebook, width);
    }
    if (index) index[r] = static_cast<int32_t>(found);
    if (distance) distance[r] = static_cast<float>(nearest);
  }
}

// lengths of rows, of codes, and the longest of the latter.
void vq_lookup(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView &x = args.inputs[0], &codebook = args.inputs[1];
  const int64_t rows = x.shape[0], width = x.shape[1], codes = codebook.shape[0];
  if (rows == 0) return;
  if (codes == 0) fail(TREFOIL_INVALID_ARGUMENT, "vq_lookup: the codebook has no codes to choose from");
  float *row_lengths = static_cast<float*>(args.workspace), *lengths = row_lengths + rows, *longest = lengths + codes;
  launch(context, {context.grid(rows, 8), 256}, lengths_kernel, data<float>(x), rows, width, row_lengths);
  launch(context, {context.grid(codes, 8), 256}, lengths_kernel, data<float>(codebook), codes, width, lengths);
  launch(context, {1, 512}, longest_kernel, lengths, codes, longest);
  launch(context, {context.grid(rows, kRows), kThreads}, search_kernel, data<float>(x), data<float>(codebook), row_lengths, lengths, longest, rows, codes, width,
         data<int32_t>(args.outputs[0]), optional_output<float>(args, 1));
}

size_t vq_lookup_workspace(const Context&, const TrefoilLaunch& args) {
  return static_cast<size_t>(args.inputs[0].shape[0] + args.inputs[1].shape[0] + 1) * sizeof(float);
}

}  // namespace

extern const KernelEntry vq_kernels[] = {{"vq_lookup", vq_lookup, vq_lookup_workspace}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
