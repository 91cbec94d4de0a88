// GroupNorm (Wu and He 2018, arXiv 1803.08494, equation 7), channels last: x [N, .., C] in groups of neighbouring channels.
#include "partial.h"
#include "rows.h"
#include "work_split.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

// Positions of each image are cut into chunks of about 64 KiB, which stay in L2 while they are read twice. Every chunk leaves two
// sums per channel; those are added in order.
struct Chunks {
  int64_t images, positions, channels, groups, per_group, grain, per_image;
  Chunks(const TrefoilView& x, int64_t groups) : images(x.shape[0]), channels(last_dimension(x)), groups(groups) {
    positions = 1;
    for (int i = 1; i + 1 < x.rank; ++i) positions *= x.shape[i];
    per_group = channels / groups;
    grain = rows_per_task(channels, 16384);
    if (grain < 8) grain = 8;
    per_image = ceil_divide(positions, grain);
  }
  int64_t count() const { return images * per_image; }
  size_t bytes() const { return static_cast<size_t>(count() * 2 * channels) * sizeof(float); }
  double group_size() const { return static_cast<double>(positions * per_group); }
};

struct Chunk {
  int64_t image, rows;
  int64_t begin;  // its first element in x
};
Chunk chunk_of(const Chunks& c, int64_t index) {
  const int64_t first = index % c.per_image * c.grain, image = index / c.per_image;
  return {image, c.positions - first < c.grain ? c.positions - first : c.grain, (image * c.positions + first) * c.channels};
}

// body(channel, lanes) for every vector of channels.
template <class Body>
void for_each_channel(int64_t channels, const Body& body) {
  for (int64_t c = 0; c < channels; c += Vec::width) body(c, lanes_left(channels, c));
}

// body.template operator()<V>(channel, lanes) for V vectors of channels at a time: as many sums side by side as hide the latency
// of an addition.
template <class Body>
void for_each_channel_block(int64_t channels, const Body& body) {
  constexpr int V = 4;
  int64_t c = 0;
  for (; c + V * Vec::width <= channels; c += V * Vec::width) body.template operator()<V>(c, WholeVector{});
  for (; c + Vec::width <= channels; c += Vec::width) body.template operator()<1>(c, WholeVector{});
  if (c < channels) body.template operator()<1>(c, PartialVector{static_cast<int>(channels - c)});
}

// y [N, .., C], mean and rstd [N, groups]: statistics by Chan, Golub and LeVeque's formula for joining means and squares of parts.
void group_norm(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView& view = launch.inputs[0];
  const float *x = data<float>(view), *weight = data<float>(launch.inputs[1]), *bias = data<float>(launch.inputs[2]);
  float *y = data<float>(launch.outputs[0]), *partial = static_cast<float*>(launch.workspace);
  const Chunks cut(view, static_cast<int64_t>(launch.attributes[0]));
  const double epsilon = launch.attributes[1];
  float* statistics = partial + cut.count() * 2 * cut.channels;
  float* mean = launch.output_count > 1 && launch.outputs[1].data ? data<float>(launch.outputs[1]) : statistics;
  float* rstd = launch.output_count > 2 && launch.outputs[2].data ? data<float>(launch.outputs[2]) : statistics + cut.images * cut.groups;
  if (elements(view) == 0) return;

  context.parallel(cut.count(), [&](int64_t index) {
    const Chunk chunk = chunk_of(cut, index);
    float *centre = partial + index * 2 * cut.channels, *squares = centre + cut.channels;
    for_each_channel_block(cut.channels, [&]<int V>(int64_t c, auto lanes) {
      const float* from = x + chunk.begin + c;
      Vec middle[V], square[V];
      for (int v = 0; v < V; ++v) middle[v] = square[v] = splat(0.0f);
      for (int64_t r = 0; r < chunk.rows; ++r)
        for (int v = 0; v < V; ++v) middle[v] = middle[v] + lanes.load(from + r * cut.channels + v * Vec::width);
      for (int v = 0; v < V; ++v) middle[v] = middle[v] * splat(1.0f / static_cast<float>(chunk.rows));
      for (int64_t r = 0; r < chunk.rows; ++r)
        for (int v = 0; v < V; ++v) {
          const Vec d = lanes.load(from + r * cut.channels + v * Vec::width) - middle[v];
          square[v] = fma(d, d, square[v]);
        }
      for (int v = 0; v < V; ++v) {
        lanes.store(centre + c + v * Vec::width, middle[v]);
        lanes.store(squares + c + v * Vec::width, square[v]);
      }
    });
  });
  context.parallel(cut.images, [&](int64_t image) {
    for (int64_t g = 0; g < cut.groups; ++g) {
      double total = 0, squares = 0;
      for (int64_t part = 0; part < cut.per_image; ++part) {
        const int64_t index = image * cut.per_image + part;
        const double rows = static_cast<double>(chunk_of(cut, index).rows);
        for (int64_t c = g * cut.per_group; c < (g + 1) * cut.per_group; ++c) total += rows * static_cast<double>(partial[index * 2 * cut.channels + c]);
      }
      const double centre = total / cut.group_size();
      for (int64_t part = 0; part < cut.per_image; ++part) {
        const int64_t index = image * cut.per_image + part;
        const double rows = static_cast<double>(chunk_of(cut, index).rows);
        for (int64_t c = g * cut.per_group; c < (g + 1) * cut.per_group; ++c) {
          const double d = static_cast<double>(partial[index * 2 * cut.channels + c]) - centre;
          squares += static_cast<double>(partial[(index * 2 + 1) * cut.channels + c]) + rows * d * d;
        }
      }
      mean[image * cut.groups + g] = static_cast<float>(centre);
      rstd[image * cut.groups + g] = static_cast<float>(1 / ::sqrt(squares / cut.group_size() + epsilon));
    }
  });
  if (!y) return;  // a gradient needs the statistics alone
  context.parallel(cut.count(), [&](int64_t index) {
    const Chunk chunk = chunk_of(cut, index);
    float *centre = static_cast<float*>(context.scratch(0, static_cast<size_t>(2 * cut.channels) * sizeof(float))), *scale = centre + cut.channels;
    for (int64_t c = 0; c < cut.channels; ++c) {
      const int64_t group = chunk.image * cut.groups + c / cut.per_group;
      centre[c] = mean[group];
      scale[c] = rstd[group] * weight[c];
    }
    for (int64_t r = 0; r < chunk.rows; ++r)
      for_each_channel(cut.channels, [&](int64_t c, int lanes) {
        const int64_t at = chunk.begin + r * cut.channels + c;
        store_part(y + at, fma(load_part(x + at, lanes) - load_part(centre + c, lanes), load_part(scale + c, lanes), load_part(bias + c, lanes)), lanes);
      });
  });
}

size_t group_norm_workspace(const TrefoilLaunch& launch) {
  const Chunks cut(launch.inputs[0], static_cast<int64_t>(launch.attributes[0]));
  return cut.bytes() + static_cast<size_t>(2 * cut.images * cut.groups) * sizeof(float);
}

// With z = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - z mean(g z)) over each group.
void group_norm_grad(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView& view = launch.inputs[1];
  const float *dy = data<float>(launch.inputs[0]), *x = data<float>(view), *weight = data<float>(launch.inputs[2]);
  const float *mean = data<float>(launch.inputs[3]), *rstd = data<float>(launch.inputs[4]);
  float* dx = data<float>(launch.outputs[0]);
  float* dweight = launch.output_count > 1 ? data<float>(launch.outputs[1]) : nullptr;
  float* dbias = launch.output_count > 2 ? data<float>(launch.outputs[2]) : nullptr;
  const Chunks cut(view, static_cast<int64_t>(launch.attributes[0]));
  float* partial = static_cast<float*>(launch.workspace);             // [chunks, 2, C]: Σ dy, Σ dy z
  float* image_sums = partial + cut.count() * 2 * cut.channels;       // [N, 2, C]
  float* group_means = image_sums + cut.images * 2 * cut.channels;    // [N, groups, 2]: mean(g), mean(g z)

  // [3, C]: mean, rstd, weight of every channel of an image.
  auto spread = [&](int64_t image) {
    float* values = static_cast<float*>(context.scratch(0, static_cast<size_t>(3 * cut.channels) * sizeof(float)));
    for (int64_t c = 0; c < cut.channels; ++c) {
      const int64_t group = image * cut.groups + c / cut.per_group;
      values[c] = mean[group];
      values[cut.channels + c] = rstd[group];
      values[2 * cut.channels + c] = weight[c];
    }
    return values;
  };
  context.parallel(cut.count(), [&](int64_t index) {
    const Chunk chunk = chunk_of(cut, index);
    const float* values = spread(chunk.image);
    for_each_channel_block(cut.channels, [&]<int V>(int64_t c, auto lanes) {
      Vec centre[V], r[V], plain[V], inner[V];
      for (int v = 0; v < V; ++v) {
        centre[v] = lanes.load(values + c + v * Vec::width);
        r[v] = lanes.load(values + cut.channels + c + v * Vec::width);
        plain[v] = inner[v] = splat(0.0f);
      }
      for (int64_t row = 0; row < chunk.rows; ++row)
        for (int v = 0; v < V; ++v) {
          const int64_t at = chunk.begin + row * cut.channels + c + v * Vec::width;
          const Vec d = lanes.load(dy + at);
          plain[v] = plain[v] + d;
          inner[v] = fma(d, (lanes.load(x + at) - centre[v]) * r[v], inner[v]);
        }
      for (int v = 0; v < V; ++v) {
        lanes.store(partial + index * 2 * cut.channels + c + v * Vec::width, plain[v]);
        lanes.store(partial + (index * 2 + 1) * cut.channels + c + v * Vec::width, inner[v]);
      }
    });
  });
  context.parallel(cut.images, [&](int64_t image) {
    float* sums = image_sums + image * 2 * cut.channels;
    for_each_channel(2 * cut.channels, [&](int64_t c, int lanes) {
      Vec total = splat(0.0f);
      for (int64_t part = 0; part < cut.per_image; ++part)
        total = total + load_part(partial + (image * cut.per_image + part) * 2 * cut.channels + c, lanes);
      store_part(sums + c, total, lanes);
    });
    for (int64_t g = 0; g < cut.groups; ++g) {
      double plain = 0, inner = 0;
      for (int64_t c = g * cut.per_group; c < (g + 1) * cut.per_group; ++c) {
        plain += static_cast<double>(weight[c]) * static_cast<double>(sums[c]);
        inner += static_cast<double>(weight[c]) * static_cast<double>(sums[cut.channels + c]);
      }
      float* means = group_means + (image * cut.groups + g) * 2;
      means[0] = static_cast<float>(plain / cut.group_size());
      means[1] = static_cast<float>(inner / cut.group_size());
    }
  });
  for_each_channel(cut.channels, [&](int64_t c, int lanes) {
    Vec bias = splat(0.0f), scale = bias;
    for (int64_t image = 0; image < cut.images; ++image) {
      bias = bias + load_part(image_sums + image * 2 * cut.channels + c, lanes);
      scale = scale + load_part(image_sums + (image * 2 + 1) * cut.channels + c, lanes);
    }
    if (dweight) store_part(dweight + c, scale, lanes);
    if (dbias) store_part(dbias + c, bias, lanes);
  });
  if (!dx) return;
  context.parallel(cut.count(), [&](int64_t index) {
    const Chunk chunk = chunk_of(cut, index);
    const float* values = spread(chunk.image);
    float *means = static_cast<float*>(context.scratch(1, static_cast<size_t>(2 * cut.channels) * sizeof(float))), *inner = means + cut.channels;
    for (int64_t c = 0; c < cut.channels; ++c) {
      const float* of_group = group_means + (chunk.image * cut.groups + c / cut.per_group) * 2;
      means[c] = of_group[0];
      inner[c] = of_group[1];
    }
    for (int64_t row = 0; row < chunk.rows; ++row)
      for_each_channel(cut.channels, [&](int64_t c, int lanes) {
        const int64_t at = chunk.begin + row * cut.channels + c;
        const Vec r = load_part(values + cut.channels + c, lanes), z = (load_part(x + at, lanes) - load_part(values + c, lanes)) * r;
        const Vec g = load_part(dy + at, lanes) * load_part(values + 2 * cut.channels + c, lanes) - load_part(means + c, lanes);
        store_part(dx + at, r * fnma(z, load_part(inner + c, lanes), g), lanes);
      });
  });
}

size_t group_norm_grad_workspace(const TrefoilLaunch& launch) {
  const Chunks cut(launch.inputs[1], static_cast<int64_t>(launch.attributes[0]));
  return cut.bytes() + static_cast<size_t>(cut.images * 2 * (cut.channels + cut.groups)) * sizeof(float);
}

}  // namespace

extern const KernelEntry group_norm_kernels[];
const KernelEntry group_norm_kernels[] = {{"group_norm", group_norm, group_norm_workspace},
                                          {"group_norm_grad", group_norm_grad, group_norm_grad_workspace},
                                          {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
