// Softmax cross-entropy over logits, and over a projection whose logits exist only some rows at a time.
#include <algorithm>

#include "index_check.h"
#include "multiply.h"

namespace trefoil::cuda {

namespace {

constexpr int kThreads = 512;

struct Running {
  float most;   // largest so far; NaN is passed over here and shows in the sum
  float total;  // sum of e^(x - most)
};
__device__ __forceinline__ void add(Running& r, float x) {
  if (x > r.most) {
    r.total = r.total * expf(r.most - x) + 1.0f;
    r.most = x;
  } else {
    r.total += x == -INFINITY && r.most == -INFINITY ? 0.0f : expf(x - r.most);
  }
}

// One row of logits [V]: its loss; w (softmax - onehot) into dlogits where it is not null (it may be logits) or, as bf16 in rows of
// `half_stride`, into half. Two passes: the second reads what the first brought into the L2 cache.
__device__ void row_loss(const float* logits, int classes, int32_t target, float weight, double* loss, float* dlogits, bf16* half, int half_stride) {
  const bool vectors = classes % 4 == 0;
  Running mine = {-INFINITY, 0.0f};
  if (vectors) {
    for (int v = static_cast<int>(threadIdx.x) * 4; v < classes; v += kThreads * 4) {
      const float4 x = load4(logits + v);
      const float most = fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w));
      if (most > mine.most) {
        mine.total *= expf(mine.most - most);
        mine.most = most;
      }
      const float shift = mine.most == -INFINITY ? 0.0f : mine.most;
      mine.total += (expf(x.x - shift) + expf(x.y - shift)) + (expf(x.z - shift) + expf(x.w - shift));
    }
  } else {
    for (int v = static_cast<int>(threadIdx.x); v < classes; v += kThreads) add(mine, logits[v]);
  }
  const float most = block_max(mine.most), shift = most == -INFINITY ? 0.0f : most;
  const float own_shift = mine.most == -INFINITY ? 0.0f : mine.most;
  // A thread that saw nothing has shift 0: e^(0 - shift) may be infinite.
  const double total = block_sum(mine.total == 0.0f ? 0.0 : static_cast<double>(mine.total) * static_cast<double>(expf(own_shift - shift)));
  if (threadIdx.x == 0) *loss = log(total) + (static_cast<double>(shift) - static_cast<double>(logits[target]));
  if (!dlogits && !half) return;
  __syncthreads();  // logits[target] was read before its row is overwritten
  const float scale = static_cast<float>(static_cast<double>(weight) / total);
  auto gradient = [&](float x, int v) { return expf(x - shift) * scale - (v == target ? weight : 0.0f); };
  if (vectors && (half == nullptr || half_stride == classes)) {
    for (int v = static_cast<int>(threadIdx.x) * 4; v < classes; v += kThreads * 4) {
      const float4 x = load4(logits + v);
      const float4 y = make_float4(gradient(x.x, v), gradient(x.y, v + 1), gradient(x.z, v + 2), gradient(x.w, v + 3));
      if (half) store4(half + v, y);
      else store4(dlogits + v, y);
    }
  } else if (half) {
    for (int v = static_cast<int>(threadIdx.x); v < half_stride; v += kThreads) half[v] = narrow<bf16>(v < classes ? gradient(logits[v], v) : 0.0f);
  } else {
    for (int v = static_cast<int>(threadIdx.x); v < classes; v += kThreads) dlogits[v] = gradient(logits[v], v);
  }
}

// A block takes a row; rows whose target is -1 have loss and gradient 0.
__global__ void __launch_bounds__(kThreads) cross_entropy_rows(const float* logits, const int32_t* targets, const float* weights, int classes,
                                                               double* losses, float* dlogits, bf16* half, int half_stride) {
  const int64_t row = blockIdx.x;
  const int32_t target = targets[row];
  float* gradient = dlogits ? dlogits + row * classes : nullptr;
  bf16* half_gradient = half ? half + row * half_stride : nullptr;
  if (target >= 0 && target < classes) {
    row_loss(logits + row * classes, classes, target, weights[row], losses + row, gradient, half_gradient, half_stride);
    return;
  }
  if (threadIdx.x == 0) losses[row] = 0;
  if (gradient)
    for (int v = static_cast<int>(threadIdx.x); v < classes; v += kThreads) gradient[v] = 0;
  if (half)
    for (int v = static_cast<int>(threadIdx.x); v < half_stride; v += kThreads) half_gradient[v] = bf16{0};
}

// nll, and loss = sum w nll in an order that depends on the number of rows alone.
__global__ void __launch_bounds__(1024) write_losses(const double* losses, const int32_t* targets, const float* weights, int64_t rows, float* nll,
                                                     float* loss) {
  double total = 0;
  for (int64_t t = threadIdx.x; t < rows; t += 1024) {
    if (targets[t] >= 0) total += static_cast<double>(weights[t]) * losses[t];
    if (nll) nll[t] = static_cast<float>(losses[t]);
  }
  if (!loss) return;
  total = block_sum(total);
  if (threadIdx.x == 0) *loss = static_cast<float>(total);
}

size_t cross_entropy_workspace(const Context&, const TrefoilLaunch& launch) { return static_cast<size_t>(elements(launch.inputs[1])) * sizeof(double); }

void cross_entropy(const Context& context, const TrefoilLaunch& launch_) {
  const int64_t rows = elements(launch_.inputs[1]), classes = last_dimension(launch_.inputs[0]);
  const int32_t* targets = data<const int32_t>(launch_.inputs[1]);
  const float* weights = data<const float>(launch_.inputs[2]);
  double* losses = static_cast<double*>(launch_.workspace);
  check_index(context, Checked::cross_entropy_targets, targets, rows, -1, classes);
  if (rows > 0)
    launch(context, {static_cast<unsigned>(rows), kThreads}, cross_entropy_rows, data<const float>(launch_.inputs[0]), targets, weights,
           static_cast<int>(classes), losses, optional_output<float>(launch_, 2), nullptr, 0);
  launch(context, {1, 1024}, write_losses, losses, targets, weights, rows, optional_output<float>(launch_, 1), optional_output<float>(launch_, 0));
}

// logits = x wᵀ of a chunk of rows, their gradient, then its share of dx and dw.
struct Projection {
  const TrefoilLaunch& launch;
  int64_t rows, width, classes, chunk;

  explicit Projection(const TrefoilLaunch& launch) : launch(launch) {
    rows = launch.inputs[0].shape[0];
    width = launch.inputs[0].shape[1];
    classes = launch.inputs[1].shape[0];
    // About 256 MiB of logits, but rows enough to pay for a pass over dw.
    chunk = ((int64_t{1} << 26) / (classes + 1)) / 128 * 128;
    chunk = chunk < 512 ? 512 : chunk > 8192 ? 8192 : chunk;
    if (chunk > rows) chunk = rows;
  }

  // A chunk of x, or of the logits' gradient.
  Matrix x_rows(int64_t first, int64_t count, bool by_depth) const {
    const TrefoilView& x = launch.inputs[0];
    return {static_cast<const char*>(x.data) + first * width * element_bytes(x.dtype), x.dtype, count, width, 1, by_depth};
  }

  template <class T>
  void run(const Context& context, Workspace& workspace) const {
    const TrefoilView& w = launch.inputs[1];
    const int32_t* targets = data<const int32_t>(launch.inputs[2]);
    const float* weights = data<const float>(launch.inputs[3]);
    const Floats dx = optional_floats(launch.outputs, launch.output_count, 2);
    float* dw = optional_output<float>(launch, 3);
    constexpr bool in_bf16 = sizeof(T) == 2;
    double* losses = workspace.take<double>(rows);
    float* logits = workspace.take<float>(chunk * classes);
    const int64_t half_stride = ceil_divide(classes, 8) * 8;
    bf16* half = in_bf16 && (dx || dw) ? workspace.take<bf16>(chunk * half_stride) : nullptr;
    // w once in the type of the kernel; both products with it read that.
    const Matrix stored{w.data, w.dtype, classes, width, 1, true};
    const Rows<T> kernel = as_rows<T>(context, workspace, stored, false);
    Matrix packed{kernel.data, in_bf16 ? TREFOIL_BF16 : TREFOIL_F32, classes, kernel.stride, 1, true};

    for (int64_t first = 0; first < rows; first += chunk) {
      const int64_t count = rows - first < chunk ? rows - first : chunk;
      const size_t mark = workspace.mark();
      const Rows<T> x = as_rows<T>(context, workspace, x_rows(first, count, true), false);
      Matrix left{x.data, packed.dtype, count, x.stride, 1, true};
      Product p;
      // Rows that are filled up go on with zeros; those that are stored as they are (f32 of any length) do not.
      p.m = static_cast<int>(count), p.n = static_cast<int>(classes), p.k = static_cast<int>(std::min(x.stride, kernel.stride));
      p.c = logits;
      multiply(context, workspace, left, packed, p);
      if (workspace.running())
        cuda::launch(context, {static_cast<unsigned>(count), kThreads}, cross_entropy_rows, logits, targets + first, weights + first,
                     static_cast<int>(classes), losses + first, half || !(dx || dw) ? nullptr : logits, half, static_cast<int>(half_stride));
      Matrix gradient{in_bf16 ? static_cast<const void*>(half) : logits, packed.dtype, count, in_bf16 ? half_stride : classes, 1, true};
      if (dx) {
        Product q;
        q.m = static_cast<int>(count), q.n = static_cast<int>(width), q.k = static_cast<int>(classes);
        q.c = dx.from(first * width);
        Matrix right = packed;
        right.by_depth = false;
        multiply(context, workspace, gradient, right, q);
      }
      if (dw) {
        Product q;
        q.m = static_cast<int>(classes), q.n = static_cast<int>(width), q.k = static_cast<int>(count);
        q.c = dw;
        if (first > 0) q.epilogue.residual = dw;  // adds to what the chunks before left
        Matrix left_gradient = gradient, right = left;
        left_gradient.by_depth = right.by_depth = false;
        multiply(context, workspace, left_gradient, right, q);
      }
      workspace.release_to(mark);
    }
    if (workspace.running())
      cuda::launch(context, {1, 1024}, write_losses, losses, targets, weights, rows, optional_output<float>(launch, 1),
                   optional_output<float>(launch, 0));
  }
};

void linear_cross_entropy(const Context& context, Workspace& workspace, const TrefoilLaunch& launch) {
  const Projection projection(launch);
  if (workspace.running()) {
    check_index(context, Checked::linear_cross_entropy_targets, data<const int32_t>(launch.inputs[2]), projection.rows, -1, projection.classes);
    if (projection.rows == 0 && optional_output<float>(launch, 3))
      platform::fill_zero(context.stream, launch.outputs[3].data, static_cast<size_t>(elements(launch.outputs[3])) * sizeof(float));
  }
  if (context.precision == Precision::bf16) projection.run<bf16>(context, workspace);
  else projection.run<float>(context, workspace);
}

}  // namespace

extern const KernelEntry cross_entropy_kernels[];
const KernelEntry cross_entropy_kernels[] = {{"cross_entropy", cross_entropy, cross_entropy_workspace},
                                             with_workspace<linear_cross_entropy>("linear_cross_entropy"),
                                             {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
