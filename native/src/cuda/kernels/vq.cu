// Vector quantisation (van den Oord et al. 2017, arXiv 1711.00937, equation 1): the nearest code of every row. Scores |e|² - 2 x·e are
// made on the tensor cores, of operands that are each the sum of two bf16, and codes whose scores are within rounding of the least are
// measured in f64: the answer is that of f64, in both precisions.
#include "gemm_bf16.h"
#include "multiply.h"

namespace trefoil::cuda {

namespace {

constexpr int kRows = 64, kCodes = 128, kStages = 3;
constexpr int kRowFragments = 2, kCodeFragments = 8;  // of a warp: 32 rows by 64 codes

// A row as two rows of bf16 (to the nearest, and the nearest to what that leaves), filled up with zeros; and |row|², in f64 rounded to
// f32. One warp per row.
__global__ void __launch_bounds__(256) split_kernel(const float* from, int64_t rows, int64_t width, int64_t padded, bf16* halves, float* lengths) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kWarp);
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + warp_index(); row < rows; row += warps) {
    double total = 0;
    for (int64_t i = lane_index(); i < padded; i += kWarp) {
      const float x = i < width ? from[row * width + i] : 0.0f;
      const bf16 high = narrow<bf16>(x);
      halves[row * 2 * padded + i] = high;
      halves[(row * 2 + 1) * padded + i] = narrow<bf16>(x - widen(high));
      total += static_cast<double>(x) * static_cast<double>(x);
    }
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

struct Search {
  const float *x, *codebook;
  Rows<bf16> x_halves, code_halves;
  const float *x_lengths, *code_lengths, *longest;
  int rows, codes, width, padded;
  int32_t* index;
  float* distance;
};

// |x - code|² by a whole warp; every lane gets it.
__device__ __forceinline__ double squared_distance(const Search& s, int row, int code) {
  const float *x = s.x + static_cast<int64_t>(row) * s.width, *e = s.codebook + static_cast<int64_t>(code) * s.width;
  double total = 0;
  for (int i = lane_index(); i < s.width; i += kWarp) {
    const double d = static_cast<double>(x[i]) - static_cast<double>(e[i]);
    total += d * d;
  }
  return warp_sum(total);
}

struct Nearest {
  double distance;
  int code;
  __device__ __forceinline__ void take(double other, int at) {
    if (other < distance || (other == distance && at < code)) distance = other, code = at;
  }
};

// A block takes 64 rows through all codes, 128 at a time. Products run over k three times: both high halves, then each high half with
// the other's low one.
__global__ void __launch_bounds__(kThreadsBf16) search_kernel(Search s) {
  using StreamX = TileStreamBf16<Rows<bf16>, true, kRows>;
  using StreamCodes = TileStreamBf16<Rows<bf16>, true, kCodes>;
  constexpr int kStage = (kRows + kCodes) * kDepthBf16;
  bf16* stages = dynamic_shared<bf16>();
  const int first = static_cast<int>(blockIdx.x) * kRows, depth_steps = s.padded / kDepthBf16, steps = 3 * depth_steps;
  const StreamX stream_x(s.x_halves, first, s.rows);
  const int warp_row = warp_index() / 2 * 32, warp_code = warp_index() % 2 * 64, group = lane_index() / 4, pair = lane_index() % 4 * 2;
  float slack[kRowFragments][2], least[kRowFragments][2];
  Nearest nearest[kRowFragments][2];
#pragma unroll
  for (int f = 0; f < kRowFragments; ++f)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + warp_row + 16 * f + group + 8 * half;
      // x·e is off by what the halves leave out, 3 2^-16 |x| |e| at most with what they round, and by f32 sums of 3 D terms, each step
      // cut off at 2^-23; |e|² and the last step by 2^-24 of their sizes. Twice: either of two scores may be.
      const double length = sqrt(static_cast<double>(s.x_lengths[row < s.rows ? row : s.rows - 1])) * sqrt(static_cast<double>(*s.longest));
      const double product = (3 * 0x1.02p-16 + 0x1.02p-23 * static_cast<double>(3 * s.padded + 8)) * length;
      slack[f][half] = static_cast<float>(2.001 * (2 * product + 0x1p-24 * 4 * (length + static_cast<double>(*s.longest))));
      least[f][half] = INFINITY;
      nearest[f][half] = {static_cast<double>(INFINITY), s.codes};
    }
  for (int code = 0; code < s.codes; code += kCodes) {
    const StreamCodes stream_codes(s.code_halves, code, s.codes);
    auto copy_stage = [&](int step) {
      if (step < steps) {
        bf16* to = stages + step % kStages * kStage;
        const int pass = step / depth_steps, k = (step - pass * depth_steps) * kDepthBf16;
        const int x_k = k + (pass == 2 ? s.padded : 0), code_k = k + (pass == 1 ? s.padded : 0);
        stream_x.copy(to, x_k, x_k + kDepthBf16);
        stream_codes.copy(to + kRows * kDepthBf16, code_k, code_k + kDepthBf16);
      }
      copy_async_commit();
    };
    __syncthreads();  // the last codes' stages have been read
#pragma unroll
    for (int step = 0; step < kStages - 1; ++step) copy_stage(step);
    float sums[kRowFragments][kCodeFragments][4] = {};
    for (int step = 0; step < steps; ++step) {
      copy_async_wait<kStages - 2>();
      __syncthreads();
      copy_stage(step + kStages - 1);
      const bf16 *left = stages + step % kStages * kStage, *right = left + kRows * kDepthBf16;
#pragma unroll
      for (int k = 0; k < kDepthBf16; k += 16) {
        uint32_t rows[kRowFragments][4];
#pragma unroll
        for (int f = 0; f < kRowFragments; ++f) StreamX::template fragment<false>(rows[f], left, warp_row + 16 * f, k);
#pragma unroll
        for (int j = 0; j < kCodeFragments; j += 2) {
          uint32_t columns[4];
          StreamCodes::template fragment<true>(columns, right, warp_code + 8 * j, k);
          const uint32_t low[2] = {columns[0], columns[1]}, high[2] = {columns[2], columns[3]};
#pragma unroll
          for (int f = 0; f < kRowFragments; ++f) {
            mma_bf16(sums[f][j], rows[f], low);
            mma_bf16(sums[f][j + 1], rows[f], high);
          }
        }
      }
    }
    copy_async_wait<0>();

#pragma unroll
    for (int f = 0; f < kRowFragments; ++f)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float most = least[f][half];
#pragma unroll
        for (int j = 0; j < kCodeFragments; ++j)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int c = code + warp_code + 8 * j + pair + i;
            float& score = sums[f][j][2 * half + i];
            score = c < s.codes ? fmaf(-2.0f, score, s.code_lengths[c]) : INFINITY;
            most = fminf(most, score);
          }
        most = fminf(most, __shfl_xor_sync(kFullWarp, most, 1));
        most = fminf(most, __shfl_xor_sync(kFullWarp, most, 2));
        least[f][half] = most;
        const int row = first + warp_row + 16 * f + group + 8 * half;
        const float reach = row < s.rows ? most + slack[f][half] : -INFINITY;
        // Candidates of this lane, a bit each. The warp measures them together, one after another.
        uint32_t candidates = 0;
#pragma unroll
        for (int j = 0; j < kCodeFragments; ++j)
#pragma unroll
          for (int i = 0; i < 2; ++i)
            if (sums[f][j][2 * half + i] <= reach && code + warp_code + 8 * j + pair + i < s.codes) candidates |= 1u << (2 * j + i);
        for (uint32_t lanes = __ballot_sync(kFullWarp, candidates != 0); lanes; lanes = __ballot_sync(kFullWarp, candidates != 0)) {
          const int leader = __ffs(static_cast<int>(lanes)) - 1, bit = __ffs(static_cast<int>(__shfl_sync(kFullWarp, candidates, leader))) - 1;
          const int at_row = first + warp_row + 16 * f + leader / 4 + 8 * half;
          const int at_code = code + warp_code + bit / 2 * 8 + leader % 4 * 2 + bit % 2;
          const double distance = squared_distance(s, at_row, at_code);
          if (lane_index() == leader) candidates &= candidates - 1;
          if (lane_index() / 4 == leader / 4) nearest[f][half].take(distance, at_code);
        }
      }
  }
  // The warps of either half of the codes meet.
  TREFOIL_SHARED(met, Nearest[kRows]);
#pragma unroll
  for (int f = 0; f < kRowFragments; ++f)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (warp_code != 0 && pair == 0) met[warp_row + 16 * f + group + 8 * half] = nearest[f][half];
  __syncthreads();
  if (warp_code != 0) return;
#pragma unroll
  for (int f = 0; f < kRowFragments; ++f)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + 16 * f + group + 8 * half;
      nearest[f][half].take(met[row].distance, met[row].code);
      // Not measured yet only where no score is a number: the first code, at whatever distance that is.
      const bool none = nearest[f][half].code == s.codes;
      for (uint32_t lanes = __ballot_sync(kFullWarp, none && pair == 0 && first + row < s.rows); lanes; lanes &= lanes - 1) {
        const int leader = __ffs(static_cast<int>(lanes)) - 1;
        const double distance = squared_distance(s, first + warp_row + 16 * f + leader / 4 + 8 * half, 0);
        if (lane_index() == leader) nearest[f][half] = {distance, 0};
      }
      if (pair != 0 || first + row >= s.rows) continue;
      if (s.index) s.index[first + row] = nearest[f][half].code;
      if (s.distance) s.distance[first + row] = static_cast<float>(nearest[f][half].distance);
    }
}

void vq_lookup(const Context& context, Workspace& workspace, const TrefoilLaunch& args) {
  const TrefoilView &x = args.inputs[0], &codebook = args.inputs[1];
  const int64_t rows = x.shape[0], width = x.shape[1], codes = codebook.shape[0], padded = ceil_divide(width, kDepthBf16) * kDepthBf16;
  if (rows == 0) return;
  if (codes == 0) fail(TREFOIL_INVALID_ARGUMENT, "vq_lookup: the codebook has no codes to choose from");
  if (rows > INT32_MAX - kRows || codes > INT32_MAX - kCodes || 2 * padded > INT32_MAX / 3) fail(TREFOIL_INVALID_ARGUMENT, "vq_lookup: a side has about 2^31 elements or more");
  bf16 *x_halves = workspace.take<bf16>(rows * 2 * padded), *code_halves = workspace.take<bf16>(codes * 2 * padded);
  float *x_lengths = workspace.take<float>(rows), *code_lengths = workspace.take<float>(codes), *longest = workspace.take<float>(1);
  if (!workspace.running()) return;
  launch(context, {context.grid(rows, 8), 256}, split_kernel, data<float>(x), rows, width, padded, x_halves, x_lengths);
  launch(context, {context.grid(codes, 8), 256}, split_kernel, data<float>(codebook), codes, width, padded, code_halves, code_lengths);
  launch(context, {1, 512}, longest_kernel, code_lengths, codes, longest);
  const Search task{data<float>(x), data<float>(codebook), {.data = x_halves, .stride = 2 * padded}, {.data = code_halves, .stride = 2 * padded},
                    x_lengths, code_lengths, longest, static_cast<int>(rows), static_cast<int>(codes), static_cast<int>(width), static_cast<int>(padded),
                    data<int32_t>(args.outputs[0]), optional_output<float>(args, 1)};
  launch(context, {static_cast<unsigned>(ceil_divide(rows, kRows)), kThreadsBf16, size_t{kStages * (kRows + kCodes) * kDepthBf16} * sizeof(bf16)}, search_kernel, task);
}

}  // namespace

extern const KernelEntry vq_kernels[] = {with_workspace<vq_lookup>("vq_lookup"), {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
