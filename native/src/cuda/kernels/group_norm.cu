// GroupNorm (Wu and He 2018, arXiv 1803.08494, equation 7), channels last: x [N, positions, C] in groups of neighbouring channels.
// Positions of an image are cut into chunks; every chunk leaves two sums per channel, which are joined in order.
#include "divisor.h"
#include "floats.h"

namespace trefoil::cuda {

namespace {

constexpr unsigned kRows = 8;  // positions that a block reads side by side; 32 channels across
constexpr int64_t kMostGrain = 256;

struct Chunks {
  int64_t images, positions, channels, groups, per_group, grain, per_image;
  Chunks(const TrefoilView& x, double group_count) : images(x.shape[0]), channels(last_dimension(x)), groups(static_cast<int64_t>(group_count)) {
    positions = 1;
    for (int i = 1; i + 1 < x.rank; ++i) positions *= x.shape[i];
    per_group = groups ? channels / groups : 0;
    grain = positions > 2048 ? kMostGrain : positions > 128 ? 128 : positions;
    if (grain < 1) grain = 1;
    per_image = ceil_divide(positions, grain);
  }
  __host__ __device__ int64_t count() const { return images * per_image; }
  int64_t blocks() const { return count() * ceil_divide(channels, 32); }
  __device__ int64_t rows(int64_t chunk) const { return positions - chunk * grain < grain ? positions - chunk * grain : grain; }
};

struct Place {
  int64_t chunk, image, in_image, channel, first;  // first: index of its first element in x
  int64_t rows;
};
__device__ __forceinline__ Place place_of(const Chunks& c, int64_t item) {
  const int64_t tiles = (c.channels + 31) / 32;
  Place place;
  place.chunk = item / tiles;
  place.image = place.chunk / c.per_image;
  place.in_image = place.chunk - place.image * c.per_image;
  place.channel = (item - place.chunk * tiles) * 32 + threadIdx.x;
  place.first = (place.image * c.positions + place.in_image * c.grain) * c.channels + place.channel;
  place.rows = c.rows(place.in_image);
  return place;
}

// Sum over threadIdx.y; every thread of the column gets it.
__device__ __forceinline__ float column_total(float value) {
  TREFOIL_SHARED(sums, float[kRows][32]);
  __syncthreads();
  sums[threadIdx.y][threadIdx.x] = value;
  __syncthreads();
  float total = 0;
  for (unsigned k = 0; k < kRows; ++k) total += sums[k][threadIdx.x];
  return total;
}

// partial [chunks, 2, C]: mean and sum of squared distances from it. A thread's share of a chunk is in registers, all of it on its way at once.
__global__ void __launch_bounds__(32 * kRows) moments_kernel(const float* x, Chunks c, float* partial, int64_t items) {
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const Place at = place_of(c, item);
    const bool inside = at.channel < c.channels;
    const float* column = x + at.first - (inside ? 0 : threadIdx.x);  // else the tile's first, which is there
    const int rows = static_cast<int>(at.rows);
    float values[kMostGrain / kRows], sum = 0, squares = 0;
#pragma unroll
    for (unsigned k = 0; k < kMostGrain / kRows; ++k) {
      const int r = static_cast<int>(threadIdx.y + k * kRows);
      values[k] = column[(r < rows ? r : 0) * c.channels];
    }
#pragma unroll
    for (unsigned k = 0; k < kMostGrain / kRows; ++k)
      if (static_cast<int>(threadIdx.y + k * kRows) < rows) sum += values[k];
    const float centre = column_total(sum) / static_cast<float>(at.rows);
#pragma unroll
    for (unsigned k = 0; k < kMostGrain / kRows; ++k)
      if (static_cast<int>(threadIdx.y + k * kRows) < rows) squares += (values[k] - centre) * (values[k] - centre);
    squares = column_total(squares);
    if (inside && threadIdx.y == 0) {
      partial[at.chunk * 2 * c.channels + at.channel] = centre;
      partial[(at.chunk * 2 + 1) * c.channels + at.channel] = squares;
    }
  }
}

// One block per (image, group): joins means and squares of the parts (Chan, Golub and LeVeque).
__global__ void statistics_kernel(const float* partial, Chunks c, double epsilon, float* mean, float* rstd) {
  const int64_t image = blockIdx.x / c.groups, group = blockIdx.x - image * c.groups, parts = c.per_image * c.per_group;
  const double size = static_cast<double>(c.positions * c.per_group);
  double total = 0, squares = 0;
  for (int64_t i = threadIdx.x; i < parts; i += blockDim.x) {
    const int64_t part = i / c.per_group, channel = group * c.per_group + (i - part * c.per_group);
    total += static_cast<double>(c.rows(part)) * static_cast<double>(partial[(image * c.per_image + part) * 2 * c.channels + channel]);
  }
  const double centre = block_sum(total) / size;
  for (int64_t i = threadIdx.x; i < parts; i += blockDim.x) {
    const int64_t part = i / c.per_group, channel = group * c.per_group + (i - part * c.per_group), at = (image * c.per_image + part) * 2 * c.channels + channel;
    const double d = static_cast<double>(partial[at]) - centre;
    squares += static_cast<double>(partial[at + c.channels]) + static_cast<double>(c.rows(part)) * d * d;
  }
  squares = block_sum(squares);
  if (threadIdx.x != 0) return;
  mean[blockIdx.x] = static_cast<float>(centre);
  rstd[blockIdx.x] = static_cast<float>(1 / sqrt(squares / size + epsilon));
}

// Passes over x and y: items are `width` neighbouring channels of one group.
struct Items {
  Divisor per_position, positions, per_group;
  int64_t groups, count;
  Items(const Chunks& c, int width)
      : per_position(c.channels / width), positions(c.positions), per_group(c.per_group / width), groups(c.groups), count(c.images * c.positions * (c.channels / width)) {}
  Shape shape(const Context& context) const { return {context.grid(count, kLoopThreads, kLoopBlocks), kLoopThreads}; }
  // Of item i: the channel item; in `group` that of all images.
  __device__ __forceinline__ int64_t channel(int64_t i, int64_t& group) const {
    const Divided at = per_position.divide(i);
    group = positions.divide(at.quotient).quotient * groups + per_group.divide(at.remainder).quotient;
    return at.remainder;
  }
};
int item_width(const Chunks& c) { return c.per_group % 4 == 0 ? 4 : 1; }

template <int width>
__global__ void __launch_bounds__(kLoopThreads, kLoopBlocks) normalise_kernel(const float* x, const float* weight, const float* bias, const float* mean, const float* rstd,
                                                                              Floats y, Items items) {
  for (int64_t i = first_index(); i < items.count; i += index_stride()) {
    Vector<width> v = load_vector<width>(x + i * width);
    int64_t group;
    const int64_t channel = items.channel(i, group) * width;
    const Vector<width> w = load_vector<width>(weight + channel), b = load_vector<width>(bias + channel);
    const float centre = mean[group], r = rstd[group];
#pragma unroll
    for (int k = 0; k < width; ++k) v[k] = (v[k] - centre) * (r * w[k]) + b[k];
    y.store_vector(i * width, v);
  }
}

void group_norm(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView& x = args.inputs[0];
  if (elements(x) == 0) return;
  const Chunks c(x, args.attributes[0]);
  float *partial = static_cast<float*>(args.workspace), *statistics = partial + c.count() * 2 * c.channels;
  float *mean = optional_output<float>(args, 1), *rstd = optional_output<float>(args, 2);
  const Floats y(args.outputs[0]);
  if (!mean) mean = statistics;
  if (!rstd) rstd = statistics + c.images * c.groups;
  launch(context, {context.grid(c.blocks(), 1), dim3(32, kRows)}, moments_kernel, data<float>(x), c, partial, c.blocks());
  launch(context, {static_cast<unsigned>(c.images * c.groups), 128}, statistics_kernel, partial, c, args.attributes[1], mean, rstd);
  if (!y) return;
  const Items items(c, item_width(c));
  launch(context, items.shape(context), item_width(c) == 4 ? normalise_kernel<4> : normalise_kernel<1>, data<float>(x), data<float>(args.inputs[1]),
         data<float>(args.inputs[2]), mean, rstd, y, items);
}

size_t group_norm_workspace(const Context&, const TrefoilLaunch& args) {
  const Chunks c(args.inputs[0], args.attributes[0]);
  return static_cast<size_t>(c.count() * 2 * c.channels + 2 * c.images * c.groups) * sizeof(float);
}

// partial [chunks, 2, C]: Σ dy, Σ dy z with z = (x - mean) rstd.
__global__ void gradient_sums_kernel(Floats dy, const float* x, const float* mean, const float* rstd, Chunks c, float* partial, int64_t items) {
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const Place at = place_of(c, item);
    const bool inside = at.channel < c.channels;
    float plain = 0, inner = 0;
    if (inside) {
      const int64_t group = at.image * c.groups + at.channel / c.per_group;
      const float centre = mean[group], scale = rstd[group];
      in_batches<8>(threadIdx.y, at.rows, kRows, [&](int64_t r) { return make_float2(dy.load(at.first + r * c.channels), x[at.first + r * c.channels]); }, [&](float2 pair) {
        plain += pair.x;
        inner += pair.x * ((pair.y - centre) * scale);
      });
    }
    plain = column_total(plain);
    inner = column_total(inner);
    if (inside && threadIdx.y == 0) {
      partial[at.chunk * 2 * c.channels + at.channel] = plain;
      partial[(at.chunk * 2 + 1) * c.channels + at.channel] = inner;
    }
  }
}

// means [N, groups, 2]: mean(g), mean(g z) with g = dy weight. One block per (image, group).
__global__ void gradient_means_kernel(const float* partial, const float* weight, Chunks c, float* means) {
  const int64_t image = blockIdx.x / c.groups, group = blockIdx.x - image * c.groups, parts = c.per_image * c.per_group;
  double plain = 0, inner = 0;
  for (int64_t i = threadIdx.x; i < parts; i += blockDim.x) {
    const int64_t part = i / c.per_group, channel = group * c.per_group + (i - part * c.per_group), at = (image * c.per_image + part) * 2 * c.channels + channel;
    plain += static_cast<double>(weight[channel]) * static_cast<double>(partial[at]);
    inner += static_cast<double>(weight[channel]) * static_cast<double>(partial[at + c.channels]);
  }
  plain = block_sum(plain);
  inner = block_sum(inner);
  if (threadIdx.x != 0) return;
  const double size = static_cast<double>(c.positions * c.per_group);
  means[2 * blockIdx.x] = static_cast<float>(plain / size);
  means[2 * blockIdx.x + 1] = static_cast<float>(inner / size);
}

// Over all images and chunks, in order: dbias = Σ dy, dweight = Σ dy z. One block per 32 channels.
__global__ void gradient_totals_kernel(const float* partial, Chunks c, float* dweight, float* dbias) {
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  const bool inside = channel < c.channels;
  float plain = 0, inner = 0;
  if (inside)
    for (int64_t chunk = threadIdx.y; chunk < c.count(); chunk += kRows) {
      plain += partial[chunk * 2 * c.channels + channel];
      inner += partial[(chunk * 2 + 1) * c.channels + channel];
    }
  plain = column_total(plain);
  inner = column_total(inner);
  if (!inside || threadIdx.y != 0) return;
  if (dbias) dbias[channel] = plain;
  if (dweight) dweight[channel] = inner;
}

// dx = rstd (g - mean(g) - z mean(g z)) over each group.
template <int width>
__global__ void __launch_bounds__(kLoopThreads, kLoopBlocks) gradient_kernel(Floats dy, const float* x, const float* weight, const float* mean, const float* rstd,
                                                                             const float* means, float* dx, Items items) {
  for (int64_t i = first_index(); i < items.count; i += index_stride()) {
    Vector<width> v = load_vector<width>(x + i * width);
    const Vector<width> d = dy.load_vector<width>(i * width);
    int64_t group;
    const Vector<width> w = load_vector<width>(weight + items.channel(i, group) * width);
    const float centre = mean[group], r = rstd[group];
    const float2 of_group = load2(means + 2 * group);
#pragma unroll
    for (int k = 0; k < width; ++k) v[k] = r * (d[k] * w[k] - of_group.x - (v[k] - centre) * r * of_group.y);
    store_vector(dx + i * width, v);
  }
}

void group_norm_grad(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView& x = args.inputs[1];
  const Chunks c(x, args.attributes[0]);
  const Floats dy(args.inputs[0]);
  const float *weight = data<float>(args.inputs[2]), *mean = data<float>(args.inputs[3]), *rstd = data<float>(args.inputs[4]);
  float *dx = data<float>(args.outputs[0]), *dweight = optional_output<float>(args, 1), *dbias = optional_output<float>(args, 2);
  if (elements(x) == 0) {
    for (float* nothing : {dweight, dbias})
      if (nothing && c.channels) zero_memory(context, nothing, static_cast<size_t>(c.channels) * sizeof(float));
    return;
  }
  float *partial = static_cast<float*>(args.workspace), *means = partial + c.count() * 2 * c.channels;
  launch(context, {context.grid(c.blocks(), 1), dim3(32, kRows)}, gradient_sums_kernel, dy, data<float>(x), mean, rstd, c, partial, c.blocks());
  if (dweight || dbias)
    launch(context, {static_cast<unsigned>(ceil_divide(c.channels, 32)), dim3(32, kRows)}, gradient_totals_kernel, partial, c, dweight, dbias);
  if (!dx) return;
  launch(context, {static_cast<unsigned>(c.images * c.groups), 128}, gradient_means_kernel, partial, weight, c, means);
  const Items items(c, item_width(c));
  launch(context, items.shape(context), item_width(c) == 4 ? gradient_kernel<4> : gradient_kernel<1>, dy, data<float>(x), weight, mean, rstd, means, dx, items);
}

size_t group_norm_grad_workspace(const Context&, const TrefoilLaunch& args) {
  const Chunks c(args.inputs[1], args.attributes[0]);
  return static_cast<size_t>(c.count() * 2 * c.channels + 2 * c.images * c.groups) * sizeof(float);
}

}  // namespace

extern const KernelEntry group_norm_kernels[] = {{"group_norm", group_norm, group_norm_workspace},
                                                 {"group_norm_grad", group_norm_grad, group_norm_grad_workspace},
                                                 {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
