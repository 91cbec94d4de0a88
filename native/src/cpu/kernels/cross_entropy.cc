#include "gemm.h"
#include "vector_math.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

void check_targets(const char* op, const int32_t* targets, int64_t rows, int64_t classes) {
  for (int64_t t = 0; t < rows; ++t)
    if (targets[t] < -1 || targets[t] >= classes)
      fail(TREFOIL_INDEX_OUT_OF_RANGE, "%s: targets[%lld] is %d; it must be in [0, %lld), or -1 to ignore the row", op,
           static_cast<long long>(t), targets[t], static_cast<long long>(classes));
}

float row_max(const float* x, int64_t count) {
  Vec most[4] = {splat(-HUGE_VALF), splat(-HUGE_VALF), splat(-HUGE_VALF), splat(-HUGE_VALF)};
  int64_t i = 0;
  for (; i + 4 * Vec::width <= count; i += 4 * Vec::width)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) most[j] = max(most[j], load(x + i + j * Vec::width));
  float result = max_lane(max(max(most[0], most[1]), max(most[2], most[3])));
  for (; i < count; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

// Sum of e^(x - shift), kept in e where it is not null (e may be x). Blocks are summed in f32, the total in f64. A NaN in x
// reaches the sum whatever `shift` is.
double exp_sum(const float* x, int64_t count, float shift, float* e) {
  constexpr int64_t kBlock = 64 * Vec::width;
  const Vec by = splat(shift);
  double total = 0;
  for (int64_t first = 0; first < count; first += kBlock) {
    int64_t last = smaller(first + kBlock, count), i = first;
    Vec block = splat(0.0f);
    for (; i + Vec::width <= last; i += Vec::width) {
      Vec term = exp(load(x + i) - by);
      if (e) store(e + i, term);
      block = block + term;
    }
    if (i < last) {
      int lanes = static_cast<int>(last - i);
      alignas(64) float edge[Vec::width] = {};
      store_n(edge, exp(load_n(x + i, lanes) - by), lanes);
      if (e) store_n(e + i, load(edge), lanes);
      block = block + load(edge);
    }
    total += sum(block);
  }
  return total;
}

void scale(float* x, int64_t count, float factor) {
  const Vec by = splat(factor);
  int64_t i = 0;
  for (; i + Vec::width <= count; i += Vec::width) store(x + i, load(x + i) * by);
  if (i < count) store_n(x + i, load_n(x + i, static_cast<int>(count - i)) * by, static_cast<int>(count - i));
}

// The negative log-likelihood of one row, target >= 0; the gradient w (softmax - onehot) into dlogits where it is not null (it may be logits).
double row_loss(const float* logits, int64_t classes, int32_t target, float weight, float* dlogits) {
  float shift = row_max(logits, classes);
  double chosen = static_cast<double>(logits[target]) - shift;
  double total = exp_sum(logits, classes, shift, dlogits);
  if (dlogits) {
    scale(dlogits, classes, static_cast<float>(weight / total));
    dlogits[target] -= weight;
  }
  return ::log(total) - chosen;
}

// nll and loss from the losses of all rows, summed in order of the rows.
void write_losses(const double* losses, const int32_t* targets, const float* weights, int64_t rows, float* nll, float* loss) {
  double total = 0;
  for (int64_t t = 0; t < rows; ++t) {
    if (targets[t] >= 0) total += weights[t] * losses[t];
    if (nll) nll[t] = static_cast<float>(losses[t]);
  }
  if (loss) *loss = static_cast<float>(total);
}

// Runs body(row) over rows of `width` elements, a few thousand elements to a task.
template <class Body>
void parallel_rows(Context& context, int64_t rows, int64_t width, const Body& body) {
  const int64_t per_task = 1 + 16384 / (width + 1);
  context.parallel((rows + per_task - 1) / per_task, [&](int64_t task) {
    for (int64_t row = task * per_task; row < smaller((task + 1) * per_task, rows); ++row) body(row);
  });
}

float* optional_output(const TrefoilLaunch& launch, int output) {
  return launch.output_count > output ? data<float>(launch.outputs[output]) : nullptr;
}

size_t cross_entropy_workspace(const TrefoilLaunch& launch) {
  return static_cast<size_t>(elements(launch.inputs[1])) * sizeof(double);
}

void cross_entropy(Context& context, const TrefoilLaunch& launch) {
  const int64_t rows = elements(launch.inputs[1]), classes = last_dimension(launch.inputs[0]);
  const float* logits = data<const float>(launch.inputs[0]);
  const int32_t* targets = data<const int32_t>(launch.inputs[1]);
  const float* weights = data<const float>(launch.inputs[2]);
  float* dlogits = optional_output(launch, 2);
  double* losses = static_cast<double*>(launch.workspace);
  check_targets("cross_entropy", targets, rows, classes);

  parallel_rows(context, rows, classes, [&](int64_t t) {
    float* gradient = dlogits ? dlogits + t * classes : nullptr;
    losses[t] = targets[t] < 0 ? 0 : row_loss(logits + t * classes, classes, targets[t], weights[t], gradient);
    if (targets[t] < 0 && gradient) memset(gradient, 0, static_cast<size_t>(classes) * sizeof(float));
  });
  write_losses(losses, targets, weights, rows, optional_output(launch, 1), optional_output(launch, 0));
}

// The projection and its loss, some rows at a time: logits of a chunk, then their gradient in place, then its share of dx and dw.
struct Projection {
  int64_t rows, width, classes, chunk;
  Gemm logits, dx, dw;  // of one chunk

  static constexpr int32_t kSomeRow = 0;

  explicit Projection(const TrefoilLaunch& launch) {
    const TrefoilView& x = launch.inputs[0];
    const TrefoilView& w = launch.inputs[1];
    rows = x.shape[0];
    width = x.shape[1];
    classes = w.shape[0];
    // About 32 MiB of logits, but rows enough to pay for a pass over w and dw.
    int64_t most = (8 << 20) / (classes + 1);
    most = most < 128 ? 128 : most > 512 ? 512 : most;
    int64_t chunks = (rows + most - 1) / most;
    chunk = chunks ? (rows + chunks - 1) / chunks : 0;

    logits.n = classes;
    logits.k = width;
    logits.a = {x.data, width, false, x.dtype == TREFOIL_BF16, nullptr};
    logits.b = {w.data, width, true, w.dtype == TREFOIL_BF16, nullptr};
    logits.c_stride = classes;

    dx.n = width;
    dx.k = classes;
    dx.a = {nullptr, classes, false, false, nullptr};
    dx.b = {w.data, width, false, w.dtype == TREFOIL_BF16, nullptr};
    dx.c_stride = width;

    dw.m = classes;
    dw.n = width;
    dw.a = {nullptr, classes, true, false, nullptr};
    dw.b = logits.a;
    dw.c_stride = width;
  }

  // Largest chunk first: sizes the workspace. The number of rows in a chunk is known only when targets are.
  size_t gemm_bytes() const {
    size_t most = 0;
    for (int64_t m = 1; m <= chunk; ++m) {
      Gemm sized[4] = {logits, dx, dw, logits};
      sized[0].m = sized[1].m = sized[2].k = sized[3].m = m;
      sized[3].a.rows = &kSomeRow;  // rows without a target may lie between
      for (const Gemm& g : sized) {
        size_t bytes = gemm_workspace(g);
        if (bytes > most) most = bytes;
      }
    }
    return aligned(most);
  }
  size_t logits_bytes() const { return aligned(static_cast<size_t>(chunk * classes) * sizeof(float)); }
  size_t dx_bytes() const { return aligned(static_cast<size_t>(chunk * width) * sizeof(float)); }
  size_t losses_bytes() const { return aligned(static_cast<size_t>(rows) * sizeof(double)); }
  size_t kept_bytes() const { return aligned(static_cast<size_t>(rows) * sizeof(int32_t)); }
};

size_t linear_cross_entropy_workspace(const TrefoilLaunch& launch) {
  Projection p(launch);
  return p.gemm_bytes() + p.logits_bytes() + p.dx_bytes() + p.losses_bytes() + p.kept_bytes();
}

void linear_cross_entropy(Context& context, const TrefoilLaunch& launch) {
  Projection p(launch);
  const int32_t* targets = data<const int32_t>(launch.inputs[2]);
  const float* weights = data<const float>(launch.inputs[3]);
  float* dx = optional_output(launch, 2);
  float* dw = optional_output(launch, 3);
  check_targets("linear_cross_entropy", targets, p.rows, p.classes);

  char* at = static_cast<char*>(launch.workspace);
  auto take = [&](size_t bytes) { return at += bytes, at - bytes; };
  float* logits = reinterpret_cast<float*>(take(p.logits_bytes()));
  float* dx_chunk = reinterpret_cast<float*>(take(p.dx_bytes()));
  double* losses = reinterpret_cast<double*>(take(p.losses_bytes()));
  int32_t* kept = reinterpret_cast<int32_t*>(take(p.kept_bytes()));  // rows whose target is not -1: the others cost nothing
  void* gemm_space = take(p.gemm_bytes());

  int64_t kept_count = 0;
  for (int64_t t = 0; t < p.rows; ++t) {
    losses[t] = 0;
    if (targets[t] >= 0) kept[kept_count++] = static_cast<int32_t>(t);
    else if (dx) memset(dx + t * p.width, 0, static_cast<size_t>(p.width) * sizeof(float));
  }
  if (dw && kept_count == 0) memset(dw, 0, static_cast<size_t>(p.classes * p.width) * sizeof(float));

  for (int64_t first = 0; first < kept_count; first += p.chunk) {
    const int64_t count = smaller(p.chunk, kept_count - first);
    const int32_t* rows = kept + first;
    const bool together = rows[count - 1] - rows[0] == count - 1;
    Matrix x = p.logits.a;
    if (together) x.data = static_cast<const char*>(x.data) + rows[0] * p.width * (x.bf16 ? 2 : 4);
    else x.rows = rows;

    Gemm product = p.logits;
    product.m = count;
    product.a = x;
    product.c = logits;
    gemm(context, &product, 1, gemm_space);

    const bool gradient = dx || dw;
    parallel_rows(context, count, p.classes, [&](int64_t i) {
      float* row = logits + i * p.classes;
      losses[rows[i]] = row_loss(row, p.classes, targets[rows[i]], weights[rows[i]], gradient ? row : nullptr);
    });

    if (dx) {
      product = p.dx;
      product.m = count;
      product.a.data = logits;
      product.c = together ? dx + rows[0] * p.width : dx_chunk;
      gemm(context, &product, 1, gemm_space);
      for (int64_t i = 0; i < count && !together; ++i)
        memcpy(dx + rows[i] * p.width, dx_chunk + i * p.width, static_cast<size_t>(p.width) * sizeof(float));
    }
    if (dw) {
      product = p.dw;
      product.k = count;
      product.a.data = logits;
      product.b = x;
      product.c = dw;
      product.accumulate = first > 0;
      gemm(context, &product, 1, gemm_space);
    }
  }
  write_losses(losses, targets, weights, p.rows, optional_output(launch, 1), optional_output(launch, 0));
}

}  // namespace

extern const KernelEntry cross_entropy_kernels[];
const KernelEntry cross_entropy_kernels[] = {{"cross_entropy", cross_entropy, cross_entropy_workspace},
                                             {"linear_cross_entropy", linear_cross_entropy, linear_cross_entropy_workspace},
                                             {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
