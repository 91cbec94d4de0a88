// Reductions. Long ones are cut into parts whose results are reduced in turn; how many parts depends on the shape alone.
#include "kernel.h"
#include "rows.h"
#include "tensor_list.h"

namespace trefoil::cuda {

namespace {

enum class Kind { sum, max, min };

// A NaN, once met, stays.
template <Kind kind>
struct Combine {
  static constexpr float identity = kind == Kind::sum ? 0.0f : kind == Kind::max ? -INFINITY : INFINITY;
  __device__ __forceinline__ float operator()(float a, float b) const {
    if constexpr (kind == Kind::sum) return a + b;
    const bool first = kind == Kind::max ? a > b : a < b;
    return a != a || (first && b == b) ? a : b;
  }
};

constexpr int64_t kRowPart = 16384;  // elements
constexpr unsigned kColumnThreads = 8;

// How [outer, n, inner] is cut: n into `parts` of `length`.
struct Cut {
  int64_t parts, length;
};
Cut cut(int64_t outer, int64_t n, int64_t inner) {
  int64_t parts = 1;
  if (inner == 1) {
    if (n > 2 * kRowPart) parts = ceil_divide(n, kRowPart);
  } else {
    const int64_t blocks = outer * ceil_divide(inner, 32);
    if (n > 512 && blocks < 1024) {
      const int64_t wanted = ceil_divide(1024, blocks), most = ceil_divide(n, 128);
      parts = wanted < most ? wanted : most;
    }
  }
  const int64_t length = n ? ceil_divide(n, parts) : 0;
  return {n ? ceil_divide(n, length) : 1, length};
}

// y[row, part] from x [rows, n], `length` elements to a part. A result is divided by `divisor`.
template <Kind kind, bool wide>
__global__ void reduce_rows_kernel(const float* x, int64_t rows, int64_t n, int64_t parts, int64_t length, float divisor, float* y) {
  using Group = Team<wide>;
  for (int64_t item = Group::first(); item < rows * parts; item += Group::count()) {
    const int64_t row = item / parts, begin = (item - row * parts) * length, end = begin + length < n ? begin + length : n;
    float total = Combine<kind>::identity;
    in_batches<8>(begin + Group::rank(), end, Group::size(), [&](int64_t i) { return x[row * n + i]; }, [&](float v) { total = Combine<kind>{}(total, v); });
    total = Group::reduce(total, Combine<kind>::identity, Combine<kind>{});
    if (Group::rank() == 0) y[item] = kind == Kind::sum ? total / divisor : total;
  }
}

// y[outer, part, inner] from x [outer, n, inner]. Block: 32 columns by kColumnThreads rows.
template <Kind kind>
__global__ void reduce_columns_kernel(const float* x, int64_t n, int64_t inner, int64_t parts, int64_t length, float divisor, float* y, int64_t items) {
  TREFOIL_SHARED(partial, float[kColumnThreads][33]);
  const int64_t tiles = (inner + 31) / 32;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {  // items = outer * parts * tiles
    const int64_t group = item / tiles, column = (item - group * tiles) * 32 + threadIdx.x, outer = group / parts;
    const int64_t begin = (group - outer * parts) * length, end = begin + length < n ? begin + length : n;
    float total = Combine<kind>::identity;
    if (column < inner)
      for (int64_t i = begin + threadIdx.y; i < end; i += kColumnThreads) total = Combine<kind>{}(total, x[(outer * n + i) * inner + column]);
    partial[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y == 0 && column < inner) {
      for (unsigned k = 1; k < kColumnThreads; ++k) total = Combine<kind>{}(total, partial[k][threadIdx.x]);
      y[group * inner + column] = kind == Kind::sum ? total / divisor : total;
    }
    __syncthreads();
  }
}

template <Kind kind>
void reduce_part(const Context& context, const float* x, int64_t outer, int64_t n, int64_t inner, Cut cut, float divisor, float* y) {
  if (inner == 1) {
    const int64_t items = outer * cut.parts;
    if (cut.length > 256)
      launch(context, {context.grid(items, 1), 256}, reduce_rows_kernel<kind, true>, x, outer, n, cut.parts, cut.length, divisor, y);
    else
      launch(context, {context.grid(items, 4), 128}, reduce_rows_kernel<kind, false>, x, outer, n, cut.parts, cut.length, divisor, y);
  } else {
    const int64_t items = outer * cut.parts * ceil_divide(inner, 32);
    launch(context, {context.grid(items, 1), dim3(32, kColumnThreads)}, reduce_columns_kernel<kind>, x, n, inner, cut.parts, cut.length, divisor, y, items);
  }
}

template <Kind kind>
void reduce_as(const Context& context, const float* x, int64_t outer, int64_t n, int64_t inner, float divisor, float* y, float* partial) {
  const Cut first = cut(outer, n, inner);
  if (first.parts == 1) return reduce_part<kind>(context, x, outer, n, inner, first, divisor, y);
  reduce_part<kind>(context, x, outer, n, inner, first, 1.0f, partial);
  reduce_part<kind>(context, partial, outer, first.parts, inner, {1, first.parts}, divisor, y);
}

void reduce(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView& y = args.outputs[0];
  const int kind = static_cast<int>(args.attributes[0]);
  const int64_t outer = static_cast<int64_t>(args.attributes[1]), n = static_cast<int64_t>(args.attributes[2]);
  const int64_t inner = static_cast<int64_t>(args.attributes[3]), count = elements(y);
  if (!y.data || count == 0) return;
  if (outer < 0 || n < 0 || inner < 0 || outer * inner != count || outer * n * inner != elements(args.inputs[0]))
    fail(TREFOIL_INVALID_ARGUMENT, "reduce: outer, n and inner do not fit the shapes");
  const float* x = data<float>(args.inputs[0]);
  float *to = data<float>(y), *partial = static_cast<float*>(args.workspace);
  switch (kind) {
    case 0: return reduce_as<Kind::sum>(context, x, outer, n, inner, 1.0f, to, partial);
    case 1: return reduce_as<Kind::max>(context, x, outer, n, inner, 1.0f, to, partial);
    case 2: return reduce_as<Kind::min>(context, x, outer, n, inner, 1.0f, to, partial);
    case 3: return reduce_as<Kind::sum>(context, x, outer, n, inner, static_cast<float>(n), to, partial);
    default: fail(TREFOIL_INVALID_ARGUMENT, "reduce: unknown kind %d", kind);
  }
}

size_t reduce_workspace(const Context&, const TrefoilLaunch& args) {
  const int64_t outer = static_cast<int64_t>(args.attributes[1]), n = static_cast<int64_t>(args.attributes[2]);
  const int64_t inner = static_cast<int64_t>(args.attributes[3]);
  if (outer <= 0 || n <= 0 || inner <= 0) return 0;
  const Cut first = cut(outer, n, inner);
  return first.parts == 1 ? 0 : static_cast<size_t>(outer * first.parts * inner) * sizeof(float);
}

struct LargestKey {
  __device__ __forceinline__ unsigned long long operator()(unsigned long long a, unsigned long long b) const { return a > b ? a : b; }
};

// A value and its index as one number that grows with the value (NaN above all, -0 as +0), then with lower indices.
__device__ __forceinline__ unsigned long long argmax_key(float value, int64_t index) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  const uint32_t rank = value != value ? 0xffffffffu : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(rank) << 32 | static_cast<uint32_t>(~static_cast<uint32_t>(index));
}

template <bool wide, int vectors>
__global__ void __launch_bounds__(kMostRowThreads) argmax_kernel(const float* x, int32_t* y, int64_t rows, int64_t n) {
  using Group = Team<wide>;
  for (int64_t row = Group::first(); row < rows; row += Group::count()) {
    const RowValues<wide, vectors> values(x + row * n, n);
    unsigned long long best = 0;
    each<wide, vectors>(n, [&](int, int64_t i, float v) { best = LargestKey{}(best, argmax_key(v, i)); }, values);
    best = Group::reduce(best, 0ull, LargestKey{});
    if (Group::rank() == 0) y[row] = static_cast<int32_t>(~static_cast<uint32_t>(best));
  }
}

void argmax(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView &x = args.inputs[0], &y = args.outputs[0];
  const int64_t rows = row_count(x), n = last_dimension(x);
  if (!y.data || rows == 0) return;
  if (n == 0) fail(TREFOIL_INVALID_ARGUMENT, "argmax: the last dimension is empty; it must hold at least one value");
  const RowPlan plan = plan_rows(context, rows, n);
  with_row_shape(plan, [&](auto wide, auto vectors) {
    launch(context, plan.shape(), argmax_kernel<wide(), vectors()>, data<float>(x), data<int32_t>(y), rows, n);
  });
}

using SquareList = TensorList<1, 0>;

__global__ void __launch_bounds__(256) squares_kernel(const __grid_constant__ SquareList list, double* partial) {
  const int64_t chunk = blockIdx.x;
  const int tensor = list.tensor_of(chunk);
  const int64_t begin = (chunk - list.first_chunk[tensor]) * kListChunk, left = list.count[tensor] - begin, n = left < kListChunk ? left : kListChunk;
  const float* x = list.data[tensor][0] + begin;
  double total = 0;
  in_batches<4>(threadIdx.x, n / 4, blockDim.x, [&](int64_t i) { return load4(x + 4 * i); }, [&](float4 v) {
    total += static_cast<double>(v.x) * static_cast<double>(v.x) + static_cast<double>(v.y) * static_cast<double>(v.y) +
             static_cast<double>(v.z) * static_cast<double>(v.z) + static_cast<double>(v.w) * static_cast<double>(v.w);
  });
  for (int64_t i = n / 4 * 4 + threadIdx.x; i < n; i += blockDim.x) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  total = block_sum(total);
  if (threadIdx.x == 0) partial[chunk] = total;
}

__global__ void squares_total_kernel(const double* partial, int64_t count, float* y) {
  double total = 0;
  in_batches<8>(threadIdx.x, count, blockDim.x, [&](int64_t i) { return partial[i]; }, [&](double x) { total += x; });
  total = block_sum(total);
  if (threadIdx.x == 0) *y = static_cast<float>(total);
}

int64_t squares_chunks(const TrefoilLaunch& args) {
  int64_t chunks = 0;
  for (int i = 0; i < args.input_count; ++i) chunks += ceil_divide(elements(args.inputs[i]), kListChunk);
  return chunks;
}

void sum_squares(const Context& context, const TrefoilLaunch& args) {
  if (!args.outputs[0].data) return;
  double* partial = static_cast<double*>(args.workspace);
  int64_t done = 0;
  for_each_list<SquareList>(
      args.input_count,
      [&](SquareList& list, int at, int tensor) {
        list.data[at][0] = data<float>(args.inputs[tensor]);
        list.count[at] = elements(args.inputs[tensor]);
      },
      [&](const SquareList& list) {
        launch(context, {static_cast<unsigned>(list.chunks()), 256}, squares_kernel, list, partial + done);
        done += list.chunks();
      });
  launch(context, {1, 1024}, squares_total_kernel, partial, done, data<float>(args.outputs[0]));
}

size_t sum_squares_workspace(const Context&, const TrefoilLaunch& args) { return static_cast<size_t>(squares_chunks(args)) * sizeof(double); }

}  // namespace

extern const KernelEntry reduce_kernels[] = {{"reduce", reduce, reduce_workspace},
                                             {"argmax", argmax, nullptr},
                                             {"sum_squares", sum_squares, sum_squares_workspace},
                                             {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
