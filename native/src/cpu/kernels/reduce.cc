// Reductions. Long ones are cut into chunks of fixed length; the chunk results are reduced in turn, so the order of every sum
// depends on the shape alone.
#include "partial.h"
#include "tensor_chunks.h"
#include "work_split.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

constexpr int64_t kRowChunk = 16384;  // elements
constexpr int64_t kSlab = 2048;       // columns: 8 KiB of results stay in L1

struct Sum {
  static constexpr float identity = 0.0f;
  static Vec combine(Vec a, Vec b) { return a + b; }
  static float lanes(Vec a) { return sum(a); }
};
// A NaN, once met, stays.
struct Max {
  static constexpr float identity = -HUGE_VALF;
  static Vec combine(Vec a, Vec b) { return select(equal(a, a), max(a, b), a); }
  static float lanes(Vec a) {
    bool nan = any(less(splat(0.0f), select(equal(a, a), splat(0.0f), splat(1.0f))));
    return nan ? NAN : max_lane(a);
  }
};
struct Min {
  static constexpr float identity = HUGE_VALF;
  static Vec combine(Vec a, Vec b) { return select(equal(a, a), min(a, b), a); }
  static float lanes(Vec a) { return -Max::lanes(splat(-0.0f) - a); }
};

template <class Op>
float reduce_row(const float* x, int64_t n) {
  constexpr int width = Vec::width;
  Vec a = splat(Op::identity), b = a, c = a, d = a;
  int64_t i = 0;
  for (; i + 4 * width <= n; i += 4 * width) {
    a = Op::combine(a, load(x + i));
    b = Op::combine(b, load(x + i + width));
    c = Op::combine(c, load(x + i + 2 * width));
    d = Op::combine(d, load(x + i + 3 * width));
  }
  for (; i + width <= n; i += width) a = Op::combine(a, load(x + i));
  if (i < n) {
    float tail[width];
    for (int k = 0; k < width; ++k) tail[k] = i + k < n ? x[i + k] : Op::identity;
    b = Op::combine(b, load(tail));
  }
  return Op::lanes(Op::combine(Op::combine(a, b), Op::combine(c, d)));
}

// y[0, columns) over the n rows of x, `stride` apart. Narrow columns stay in a register; wide ones go row by row through y, which
// stays in L1, so that memory is read in order.
template <class Op>
void reduce_columns(const float* x, int64_t n, int64_t stride, int64_t columns, float* y) {
  if (columns <= Vec::width) {
    int lanes = static_cast<int>(columns);
    Vec total = splat(Op::identity);
    for (int64_t i = 0; i < n; ++i) total = Op::combine(total, load_part(x + i * stride, lanes));
    return store_part(y, total, lanes);
  }
  for (int64_t j = 0; j < columns; ++j) y[j] = Op::identity;
  int rest = static_cast<int>(columns % Vec::width);
  int64_t whole = columns - rest;
  for (int64_t i = 0; i < n; ++i, x += stride) {
    for (int64_t j = 0; j < whole; j += Vec::width) store(y + j, Op::combine(load(y + j), load(x + j)));
    if (rest) store_n(y + whole, Op::combine(load_n(y + whole, rest), load_n(x + whole, rest)), rest);
  }
}

// y[outer, chunks, inner] = reductions of `chunk` rows each of x[outer, n, inner].
template <class Op>
void reduce_chunks(Context& context, const float* x, int64_t outer, int64_t n, int64_t inner, int64_t chunk, float* y) {
  int64_t chunks = n ? ceil_divide(n, chunk) : 1, slabs = ceil_divide(inner, kSlab);
  int64_t unit = (n < chunk ? n : chunk) * (inner < kSlab ? inner : kSlab);
  parallel_ranges(context, outer * chunks * slabs, rows_per_task(unit), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      int64_t group = item / slabs, row = group % chunks * chunk, column = item % slabs * kSlab;
      int64_t rows = n - row < chunk ? n - row : chunk, columns = inner - column < kSlab ? inner - column : kSlab;
      const float* from = x + (group / chunks * n + row) * inner + column;
      if (inner == 1)
        y[group] = reduce_row<Op>(from, rows);
      else
        reduce_columns<Op>(from, rows, inner, columns, y + group * inner + column);
    }
  });
}

template <class Op>
void reduce_as(Context& context, const float* x, int64_t outer, int64_t n, int64_t inner, float* y) {
  int64_t chunk = inner == 1 ? kRowChunk : rows_per_task(inner < kSlab ? inner : kSlab);
  if (inner > 1 && chunk < 16) chunk = 16;
  if (inner > 1 && chunk > 1024) chunk = 1024;
  if (n <= 2 * chunk) return reduce_chunks<Op>(context, x, outer, n, inner, n ? n : 1, y);
  int64_t chunks = ceil_divide(n, chunk);
  float* partial = static_cast<float*>(context.scratch(0, static_cast<size_t>(outer * chunks * inner) * sizeof(float)));
  reduce_chunks<Op>(context, x, outer, n, inner, chunk, partial);
  reduce_chunks<Op>(context, partial, outer, chunks, inner, chunks, y);
}

void reduce(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView& y = launch.outputs[0];
  int kind = static_cast<int>(launch.attributes[0]);
  int64_t outer = static_cast<int64_t>(launch.attributes[1]), n = static_cast<int64_t>(launch.attributes[2]);
  int64_t inner = static_cast<int64_t>(launch.attributes[3]), count = elements(y);
  if (!y.data || count == 0) return;
  if (outer < 0 || n < 0 || inner < 0 || outer * inner != count || outer * n * inner != elements(launch.inputs[0]))
    fail(TREFOIL_INVALID_ARGUMENT, "reduce: outer, n and inner do not fit the shapes");
  const float* x = data<float>(launch.inputs[0]);
  float* to = data<float>(y);
  switch (kind) {
    case 0: return reduce_as<Sum>(context, x, outer, n, inner, to);
    case 1: return reduce_as<Max>(context, x, outer, n, inner, to);
    case 2: return reduce_as<Min>(context, x, outer, n, inner, to);
    case 3: break;
    default: fail(TREFOIL_INVALID_ARGUMENT, "reduce: unknown kind %d", kind);
  }
  reduce_as<Sum>(context, x, outer, n, inner, to);
  float divisor = static_cast<float>(n);
  for (int64_t i = 0; i < count; ++i) to[i] /= divisor;
}

// Index of the first element equal to value (or of the first NaN where value is NaN).
int64_t find_first(const float* x, int64_t n, float value) {
  int64_t i = 0;
  if (value == value)
    for (; i + Vec::width <= n && !any(equal(load(x + i), splat(value))); i += Vec::width) {
    }
  for (; i < n; ++i)
    if (x[i] == value || (value != value && x[i] != x[i])) return i;
  return 0;
}

void argmax(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &x = launch.inputs[0], &y = launch.outputs[0];
  int64_t rows = row_count(x), n = last_dimension(x);
  if (!y.data || rows == 0) return;
  if (n == 0) fail(TREFOIL_INVALID_ARGUMENT, "argmax: the last dimension is empty; it must hold at least one value");
  parallel_ranges(context, rows, rows_per_task(n), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* row = data<float>(x) + r * n;
      data<int32_t>(y)[r] = static_cast<int32_t>(find_first(row, n, reduce_row<Max>(row, n)));
    }
  });
}

double squares(const float* x, int64_t n) {
  constexpr int lanes = 16;
  double total[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int k = 0; k < lanes; ++k) total[k] += static_cast<double>(x[i + k]) * static_cast<double>(x[i + k]);
  for (int k = 0; i + k < n; ++k) total[k] += static_cast<double>(x[i + k]) * static_cast<double>(x[i + k]);
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int k = 0; k < half; ++k) total[k] += total[k + half];
  return total[0];
}

void sum_squares(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView& y = launch.outputs[0];
  if (!y.data) return;
  int64_t* storage = static_cast<int64_t*>(context.scratch(0, static_cast<size_t>(launch.input_count + 1) * sizeof(int64_t)));
  TensorChunks chunks = cut(launch.inputs, launch.input_count, 1, storage);
  double* partial = static_cast<double*>(context.scratch(1, static_cast<size_t>(chunks.count()) * sizeof(double)));
  context.parallel(chunks.count(), [&](int64_t task) {
    int tensor = chunks.tensor_of(task);
    int64_t begin = (task - chunks.first[tensor]) * TensorChunks::size, n = elements(launch.inputs[tensor]) - begin;
    partial[task] = squares(data<float>(launch.inputs[tensor]) + begin, n < TensorChunks::size ? n : TensorChunks::size);
  });
  double total = 0;
  for (int64_t i = 0; i < chunks.count(); ++i) total += partial[i];
  *data<float>(y) = static_cast<float>(total);
}

}  // namespace

extern const KernelEntry reduce_kernels[];
const KernelEntry reduce_kernels[] = {
    {"reduce", reduce, nullptr}, {"argmax", argmax, nullptr}, {"sum_squares", sum_squares, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
