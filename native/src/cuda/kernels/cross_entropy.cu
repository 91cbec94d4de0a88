// Softmax cross-entropy over logits, and over a projection whose logits exist only some rows at a time.
#include <algorithm>

#include "floats.h"
#include "index_check.h"
#include "multiply.h"

namespace trefoil::cuda {

namespace {

constexpr int kMostThreads = 1024, kKept = 32;  // elements of a row to a thread, where a block keeps it

// One row of logits [V]: its loss; w (softmax - onehot) into dlogits where it is not null (it may be logits) or, as bf16 in rows of
// `half_stride`, into half. An aligned row of up to kMostThreads * kKept is kept in registers and read once, a longer one twice. Loads of a thread are
// asked for together; past the end the first elements are read and -inf is put in their place.
template <int width, bool kept>
__device__ void row_loss(const float* logits, int classes, int32_t target, float weight, double* loss, float* dlogits, bf16* half, int half_stride) {
  constexpr int kBatch = (kept ? kKept : 16) / width;
  const int first = static_cast<int>(threadIdx.x) * width, apart = static_cast<int>(blockDim.x) * width;
  const float at_target = threadIdx.x == 0 ? logits[target] : 0.0f;
  Vector<width> x[kBatch];
  const auto load = [&](int from) {
#pragma unroll
    for (int k = 0; k < kBatch; ++k) x[k] = load_vector<width>(logits + (from + k * apart < classes ? from + k * apart : 0));
    float most = -INFINITY;
#pragma unroll
    for (int k = 0; k < kBatch; ++k)
#pragma unroll
      for (int i = 0; i < width; ++i) {
        if (from + k * apart >= classes) x[k][i] = -INFINITY;
        most = fmaxf(most, x[k][i]);  // NaN is passed over here and shows in the sum
      }
    return most;
  };
  // x = e^(x - shift), and their sum.
  const auto exponentials = [&](float shift) {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kBatch; ++k)
#pragma unroll
      for (int i = 0; i < width; ++i) sum += x[k][i] = expf(x[k][i] - shift);
    return sum;
  };
  const auto finite = [](float most) { return most == -INFINITY ? 0.0f : most; };

  float most = -INFINITY, total = 0, shift;
  double all;
  if constexpr (kept) {
    shift = finite(block_max(load(first)));
    total = exponentials(shift);
    all = block_sum(static_cast<double>(total));
  } else {
    for (int from = first; from < classes; from += kBatch * apart) {
      const float larger = fmaxf(most, load(from));
      total = total * expf(most - finite(larger)) + exponentials(finite(larger));
      most = larger;
    }
    shift = finite(block_max(most));
    // A thread that saw nothing has shift 0: e^(0 - shift) may be infinite.
    all = block_sum(total == 0.0f ? 0.0 : static_cast<double>(total) * static_cast<double>(expf(finite(most) - shift)));
  }
  if (threadIdx.x == 0) *loss = log(all) + (static_cast<double>(shift) - static_cast<double>(at_target));
  if (!dlogits && !half) return;
  const Floats to = half ? Floats(half) : Floats(dlogits);
  const float scale = static_cast<float>(static_cast<double>(weight) / all);
  for (int from = first; from < classes; from += kBatch * apart) {
    if constexpr (!kept) {
      load(from);
      exponentials(shift);
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int at = from + k * apart;
      if (at >= classes) break;
#pragma unroll
      for (int i = 0; i < width; ++i) x[k][i] = x[k][i] * scale - (at + i == target ? weight : 0.0f);
      to.store_vector(at, x[k]);
    }
  }
  if (half)
    for (int v = classes + static_cast<int>(threadIdx.x); v < half_stride; v += static_cast<int>(blockDim.x)) half[v] = bf16{0};
}

// A block takes a row; rows whose target is -1 have loss and gradient 0.
template <int width, bool kept>
__global__ void __launch_bounds__(kMostThreads) cross_entropy_rows(const float* logits, const int32_t* targets, const float* weights, int classes,
                                                                   double* losses, float* dlogits, bf16* half, int half_stride) {
  const int64_t row = blockIdx.x;
  const int32_t target = targets[row];
  float* gradient = dlogits ? dlogits + row * classes : nullptr;
  bf16* half_gradient = half ? half + row * half_stride : nullptr;
  if (target >= 0 && target < classes) {
    row_loss<width, kept>(logits + row * classes, classes, target, weights[row], losses + row, gradient, half_gradient, half_stride);
    return;
  }
  if (threadIdx.x == 0) losses[row] = 0;
  if (gradient)
    for (int v = static_cast<int>(threadIdx.x); v < classes; v += static_cast<int>(blockDim.x)) gradient[v] = 0;
  if (half)
    for (int v = static_cast<int>(threadIdx.x); v < half_stride; v += static_cast<int>(blockDim.x)) half_gradient[v] = bf16{0};
}

void launch_rows(const Context& context, int64_t rows, int64_t classes, const float* logits, const int32_t* targets, const float* weights, double* losses,
                 float* dlogits, bf16* half, int64_t half_stride) {
  side("cross_entropy", rows), side("cross_entropy", classes + 16384);  // loops step past the last by less than that
  const bool aligned = classes % 4 == 0, kept = aligned && classes <= kMostThreads * kKept;
  const auto run = [&](auto kernel) {
    launch(context, {static_cast<unsigned>(rows), kept ? static_cast<unsigned>(ceil_divide(std::max<int64_t>(classes, 1), 32 * kKept)) * 32 : 512u}, kernel, logits, targets, weights,
           static_cast<int>(classes), losses, dlogits, half, static_cast<int>(half_stride));
  };
  run(kept ? cross_entropy_rows<4, true> : aligned ? cross_entropy_rows<4, false> : cross_entropy_rows<1, false>);
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
    launch_rows(context, rows, classes, data<const float>(launch_.inputs[0]), targets, weights, losses, optional_output<float>(launch_, 2), nullptr, 0);
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
    side("linear_cross_entropy", width), side("linear_cross_entropy", classes);
    // About 256 MiB of logits, but rows enough to pay for a pass over dw.
    chunk = ((int64_t{1} << 26) / (classes + 1)) / 128 * 128;
    chunk = chunk < 2048 ? 2048 : chunk > 8192 ? 8192 : chunk;
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
        launch_rows(context, count, classes, logits, targets + first, weights + first, losses + first, half || !(dx || dw) ? nullptr : logits, half, half_stride);
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
      zero_memory(context, launch.outputs[3].data, static_cast<size_t>(elements(launch.outputs[3])) * sizeof(float));
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
