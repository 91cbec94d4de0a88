// Scaled dot-product attention with grouped query heads, causal, length and segment masks: flash attention (Dao 2023, arXiv 2307.08691).
// Here in f32, for f32 precision and heads above 128; attention_bf16.h has the tensor core kernels. Rows of a key-value head are its (query, head) pairs, so that keys and values are read once for all heads that share them.
// A block holds 32 rows and 32 keys; eight lanes share a row. Sums have a fixed order: gradients are made without atomics, by one
// pass over tiles of queries and one over tiles of keys.
#include "attention_bf16.h"
#include "convert.h"
#include "index_check.h"

namespace trefoil::cuda {

namespace {

constexpr int kRows = 32, kLanes = 8, kPerLane = kRows / kLanes;  // kPerLane: keys of a tile that one lane scores
constexpr unsigned kThreads = kRows * kLanes;
constexpr int kPitch = kRows + 1;  // of probabilities in shared memory

// What the f32 kernels need beside the problem: tiles, and rows in shared memory.
struct Plain : Attention {
  int64_t row_tiles, key_tiles;
  int padded, pitch;  // size up to a multiple of four; floats from row to row in shared memory
  bool vector;        // rows of q, k, v start at multiples of 16 bytes
};

// to[row][column] from rows at(row) of memory; zeros past `valid` rows and past size.
template <class At>
__device__ __forceinline__ void load_tile(float* to, const Floats& from, const Plain& a, int valid, const At& at) {
  const int vectors = a.padded / 4;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * vectors; i += static_cast<int>(kThreads)) {
    const int row = i / vectors, column = (i - row * vectors) * 4;
    float4 value = make_float4(0, 0, 0, 0);
    if (row < valid) {
      const int64_t first = at(row) + column;
      if (a.vector) {
        value = from.load4(first);
      } else {
        const int left = static_cast<int>(a.size) - column;
        value.x = from.load(first);
        if (left > 1) value.y = from.load(first + 1);
        if (left > 2) value.z = from.load(first + 2);
        if (left > 3) value.w = from.load(first + 3);
      }
    }
    store4(to + row * a.pitch + column, value);
  }
}

__device__ __forceinline__ float dot(const float* x, const float* y, int padded) {
  float sum = 0;
  for (int d = 0; d < padded; d += 4) {
    const float4 u = load4(x + d), v = load4(y + d);
    sum = fmaf(u.x, v.x, fmaf(u.y, v.y, fmaf(u.z, v.z, fmaf(u.w, v.w, sum))));
  }
  return sum;
}

// Over the eight lanes of a row.
template <class Op>
__device__ __forceinline__ float row_reduce(float value, Op op) {
  for (int offset = kLanes / 2; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(kFullWarp, value, offset));
  return value;
}

// A row's share of a result: float4 at columns (lane + 8 m) * 4.
template <int vectors>
struct Share {
  float4 values[vectors];
  __device__ __forceinline__ Share() {
    for (float4& value : values) value = make_float4(0, 0, 0, 0);
  }
  __device__ __forceinline__ void scale(float factor) {
    for (float4& v : values) v = make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor);
  }
  // += weight * row
  __device__ __forceinline__ void add(float weight, const float* row, int lane, int padded) {
#pragma unroll
    for (int m = 0; m < vectors; ++m) {
      const int column = (lane + kLanes * m) * 4;
      if (column >= padded) continue;
      const float4 x = load4(row + column);
      values[m] = make_float4(fmaf(weight, x.x, values[m].x), fmaf(weight, x.y, values[m].y), fmaf(weight, x.z, values[m].z), fmaf(weight, x.w, values[m].w));
    }
  }
  __device__ __forceinline__ void store(const Floats& row, int lane, const Plain& a) const {
#pragma unroll
    for (int m = 0; m < vectors; ++m) {
      const int column = (lane + kLanes * m) * 4, left = static_cast<int>(a.size) - column;
      if (left <= 0) continue;
      const float4 v = values[m];
      if (a.vector) {
        row.store4(column, v);
        continue;
      }
      row.store(column, v.x);
      if (left > 1) row.store(column + 1, v.y);
      if (left > 2) row.store(column + 2, v.z);
      if (left > 3) row.store(column + 3, v.w);
    }
  }
};

// What a block works on: late row tiles first, as under a causal mask they are the long ones.
struct Tile {
  int64_t b, g, first;
  int valid;
};
__device__ __forceinline__ Tile tile_of(const Plain& a, int64_t tiles, int64_t count) {
  const int64_t head = blockIdx.x / tiles, first = (tiles - 1 - (blockIdx.x - head * tiles)) * kRows;
  return {head / a.groups, head % a.groups, first, static_cast<int>(count - first < kRows ? count - first : kRows)};
}

template <int vectors>
__global__ void __launch_bounds__(kThreads) forward_kernel(Plain a, Floats q, Floats k, Floats v, Floats out, float* lse) {
  float* q_tile = dynamic_shared<float>();
  float *k_tile = q_tile + kRows * a.pitch, *v_tile = k_tile + kRows * a.pitch, *p_tile = v_tile + kRows * a.pitch;
  const Tile tile = tile_of(a, a.row_tiles, a.rows);
  const int row = static_cast<int>(threadIdx.x) / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t n = a.length(tile.b), last = tile.first + tile.valid - 1, r = tile.first + (row < tile.valid ? row : tile.valid - 1);
  const int64_t query = r / a.shared_heads, end = a.limit(n, query), tile_end = a.limit(n, last / a.shared_heads);
  load_tile(q_tile, q, a, tile.valid, [&](int i) { return a.row_at(tile.b, tile.g, tile.first + i); });
  float top = -INFINITY, total = 0;
  Share<vectors> sum;
  for (int64_t first = 0; first < tile_end; first += kRows) {
    const int valid = static_cast<int>(n - first < kRows ? n - first : kRows);
    __syncthreads();  // the last tile's readers are done
    load_tile(k_tile, k, a, valid, [&](int j) { return a.key_at(tile.b, tile.g, first + j); });
    load_tile(v_tile, v, a, valid, [&](int j) { return a.key_at(tile.b, tile.g, first + j); });
    __syncthreads();
    float score[kPerLane], most = top;
#pragma unroll
    for (int m = 0; m < kPerLane; ++m) {
      const int j = lane + kLanes * m;
      score[m] = a.sees(tile.b, query, end, first + j) ? dot(q_tile + row * a.pitch, k_tile + j * a.pitch, a.padded) * a.scale : -INFINITY;
      most = fmaxf(most, score[m]);
    }
    most = row_reduce(most, Largest{});
    const float shift = most == -INFINITY ? 0.0f : most, correction = expf(top - shift);
    float part = 0;
#pragma unroll
    for (int m = 0; m < kPerLane; ++m) {
      const float p = expf(score[m] - shift);
      p_tile[row * kPitch + lane + kLanes * m] = p;
      part += p;
    }
    total = total * correction + row_reduce(part, Add{});
    top = most;
    sum.scale(correction);
    __syncwarp();  // the lanes of a row are of one warp
    for (int j = 0; j < kRows; ++j) sum.add(p_tile[row * kPitch + j], v_tile + j * a.pitch, lane, a.padded);
    __syncwarp();
  }
  if (row >= tile.valid) return;
  sum.scale(total == 0 ? 0.0f : 1.0f / total);
  sum.store(out.from(a.row_at(tile.b, tile.g, r)), lane, a);
  if (lse && lane == 0) lse[a.statistic_at(tile.b, tile.g, r)] = total == 0 ? -INFINITY : top + logf(total);
}

// delta[b, head, i] = Σ dout out: one warp per row.
__global__ void delta_kernel(Floats dout, Floats out, Plain a, float* delta) {
  const int64_t count = a.batch * a.queries * a.heads, warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kWarp);
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + warp_index(); at < count; at += warps) {
    float sum = 0;
    for (int64_t d = lane_index(); d < a.size; d += kWarp) sum += dout.load(at * a.size + d) * out.load(at * a.size + d);
    sum = warp_sum(sum);
    const int64_t head = at % a.heads, token = at / a.heads;
    if (lane_index() == 0) delta[(token / a.queries * a.heads + head) * a.queries + token % a.queries] = sum;
  }
}

// p and d score / d (q k) of a pair that sees each other. A query that sees no key has lse -inf and is never asked for.
struct Slope {
  float p, ds;
};
__device__ __forceinline__ Slope slope_of(const Plain& a, const float* q, const float* k, const float* dout, const float* v, float lse, float delta) {
  const float p = expf(dot(q, k, a.padded) * a.scale - lse);
  return {p, p * (dot(dout, v, a.padded) - delta) * a.scale};
}

struct Gradients {
  Floats dout, q, k, v, dq, dk, dv;
  const float *lse, *delta;
};

template <int vectors>
__global__ void __launch_bounds__(kThreads) query_gradient_kernel(Plain a, Gradients g) {
  float* q_tile = dynamic_shared<float>();
  float *dout_tile = q_tile + kRows * a.pitch, *k_tile = dout_tile + kRows * a.pitch, *v_tile = k_tile + kRows * a.pitch, *ds_tile = v_tile + kRows * a.pitch;
  const Tile tile = tile_of(a, a.row_tiles, a.rows);
  const int row = static_cast<int>(threadIdx.x) / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t n = a.length(tile.b), last = tile.first + tile.valid - 1, r = tile.first + (row < tile.valid ? row : tile.valid - 1);
  const int64_t query = r / a.shared_heads, end = a.limit(n, query), tile_end = a.limit(n, last / a.shared_heads), statistic = a.statistic_at(tile.b, tile.g, r);
  const float lse = g.lse[statistic], delta = g.delta[statistic];
  const auto at = [&](int i) { return a.row_at(tile.b, tile.g, tile.first + i); };
  load_tile(q_tile, g.q, a, tile.valid, at);
  load_tile(dout_tile, g.dout, a, tile.valid, at);
  Share<vectors> sum;
  for (int64_t first = 0; first < tile_end; first += kRows) {
    const int valid = static_cast<int>(n - first < kRows ? n - first : kRows);
    __syncthreads();
    load_tile(k_tile, g.k, a, valid, [&](int j) { return a.key_at(tile.b, tile.g, first + j); });
    load_tile(v_tile, g.v, a, valid, [&](int j) { return a.key_at(tile.b, tile.g, first + j); });
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kPerLane; ++m) {
      const int j = lane + kLanes * m;
      ds_tile[row * kPitch + j] = a.sees(tile.b, query, end, first + j) ? slope_of(a, q_tile + row * a.pitch, k_tile + j * a.pitch, dout_tile + row * a.pitch,
                                                                                  v_tile + j * a.pitch, lse, delta).ds
                                                                        : 0.0f;
    }
    __syncwarp();
    for (int j = 0; j < kRows; ++j) sum.add(ds_tile[row * kPitch + j], k_tile + j * a.pitch, lane, a.padded);
    __syncwarp();
  }
  if (row < tile.valid) sum.store(g.dq.from(a.row_at(tile.b, tile.g, r)), lane, a);
}

// Rows of the block are keys; it walks all tiles of queries that may see them.
template <int vectors>
__global__ void __launch_bounds__(kThreads) key_gradient_kernel(Plain a, Gradients g) {
  float* k_tile = dynamic_shared<float>();
  float *v_tile = k_tile + kRows * a.pitch, *q_tile = v_tile + kRows * a.pitch, *dout_tile = q_tile + kRows * a.pitch;
  float *p_tile = dout_tile + kRows * a.pitch, *ds_tile = p_tile + kRows * kPitch;
  const Tile tile = tile_of(a, a.key_tiles, a.keys);
  const int row = static_cast<int>(threadIdx.x) / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t n = a.length(tile.b), key = tile.first + (row < tile.valid ? row : tile.valid - 1);
  const int within = static_cast<int>(n - tile.first < tile.valid ? (n > tile.first ? n - tile.first : 0) : tile.valid);
  load_tile(k_tile, g.k, a, within, [&](int i) { return a.key_at(tile.b, tile.g, tile.first + i); });
  load_tile(v_tile, g.v, a, within, [&](int i) { return a.key_at(tile.b, tile.g, tile.first + i); });
  // The first query whose limit passes the tile's first key.
  int64_t begin = 0;
  if (a.causal) {
    const int64_t query = tile.first - (n - a.queries);
    begin = query > 0 ? query * a.shared_heads / kRows * kRows : 0;
  }
  Share<vectors> dk, dv;
  for (int64_t first = within ? begin : a.rows; first < a.rows; first += kRows) {
    const int valid = static_cast<int>(a.rows - first < kRows ? a.rows - first : kRows);
    const auto at = [&](int i) { return a.row_at(tile.b, tile.g, first + i); };
    __syncthreads();
    load_tile(q_tile, g.q, a, valid, at);
    load_tile(dout_tile, g.dout, a, valid, at);
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kPerLane; ++m) {
      const int i = lane + kLanes * m;
      Slope slope{0, 0};
      if (i < valid) {
        const int64_t r = first + i, query = r / a.shared_heads, statistic = a.statistic_at(tile.b, tile.g, r);
        if (a.sees(tile.b, query, a.limit(n, query), key))
          slope = slope_of(a, q_tile + i * a.pitch, k_tile + row * a.pitch, dout_tile + i * a.pitch, v_tile + row * a.pitch, g.lse[statistic], g.delta[statistic]);
      }
      p_tile[row * kPitch + i] = slope.p;
      ds_tile[row * kPitch + i] = slope.ds;
    }
    __syncwarp();
    for (int i = 0; i < valid; ++i) {
      dv.add(p_tile[row * kPitch + i], dout_tile + i * a.pitch, lane, a.padded);
      dk.add(ds_tile[row * kPitch + i], q_tile + i * a.pitch, lane, a.padded);
    }
    __syncwarp();
  }
  if (row >= tile.valid) return;
  if (g.dk) dk.store(g.dk.from(a.key_at(tile.b, tile.g, key)), lane, a);
  if (g.dv) dv.store(g.dv.from(a.key_at(tile.b, tile.g, key)), lane, a);
}

Attention describe(const TrefoilLaunch& args, int q, int lengths) {
  const TrefoilView &query = args.inputs[q], &key = args.inputs[q + 1];
  Attention a{};
  a.batch = query.shape[0], a.queries = query.shape[1], a.heads = query.shape[2], a.size = query.shape[3];
  a.keys = key.shape[1], a.groups = key.shape[2];
  if (a.groups == 0 || a.heads % a.groups != 0) fail(TREFOIL_INVALID_ARGUMENT, "attention: %lld query heads cannot share %lld key heads", static_cast<long long>(a.heads), static_cast<long long>(a.groups));
  if (a.size > 256) fail(TREFOIL_INVALID_ARGUMENT, "attention: heads of %lld are too large on CUDA; at most 256", static_cast<long long>(a.size));
  a.shared_heads = a.heads / a.groups, a.rows = a.queries * a.shared_heads;
  side("attention", a.rows), side("attention", a.keys), side("attention", a.groups * 256 * 128);  // keys of a tile are addressed in 32 bits
  a.causal = args.attributes[0] != 0, a.scale = static_cast<float>(args.attributes[1]);
  a.key_lengths = optional_input<int32_t>(args, lengths), a.segments = optional_input<int32_t>(args, lengths + 1);
  return a;
}

Plain plain(const Attention& problem) {
  Plain a{problem, ceil_divide(problem.rows, kRows), ceil_divide(problem.keys, kRows), static_cast<int>(ceil_divide(problem.size, 4) * 4), 0, problem.size % 4 == 0};
  a.pitch = a.padded + 4;
  return a;
}

size_t shared_bytes(const Plain& a, int tiles, int probabilities) {
  return static_cast<size_t>(tiles * kRows * a.pitch + probabilities * kRows * kPitch) * sizeof(float);
}

// run(std::integral_constant<int, vectors>) with as many float4 to a lane as the head size needs.
template <class Run>
void with_vectors(const Plain& a, const Run& run) {
  if (a.padded <= 32) return run(std::integral_constant<int, 1>{});
  if (a.padded <= 64) return run(std::integral_constant<int, 2>{});
  if (a.padded <= 128) return run(std::integral_constant<int, 4>{});
  run(std::integral_constant<int, 8>{});
}

void forward_f32(const Context& context, const Plain& a, const TrefoilLaunch& args) {
  with_vectors(a, [&](auto vectors) {
    launch(context, {static_cast<unsigned>(a.batch * a.groups * a.row_tiles), kThreads, shared_bytes(a, 3, 1)}, forward_kernel<vectors()>, a,
           Floats(args.inputs[0]), Floats(args.inputs[1]), Floats(args.inputs[2]), Floats(args.outputs[0]), optional_output<float>(args, 1));
  });
}

void backward_f32(const Context& context, Workspace& workspace, const Plain& a, const TrefoilLaunch& args) {
  auto* delta = workspace.take<float>(a.batch * a.queries * a.heads);
  if (!workspace.running()) return;
  const Gradients gradients{Floats(args.inputs[0]),  Floats(args.inputs[1]),  Floats(args.inputs[2]),  Floats(args.inputs[3]),
                            Floats(args.outputs[0]), Floats(args.outputs[1]), Floats(args.outputs[2]), data<float>(args.inputs[5]), delta};
  if (a.batch * a.rows > 0)
    launch(context, {context.grid(a.batch * a.queries * a.heads, 8), 256}, delta_kernel, gradients.dout, Floats(args.inputs[4]), a, delta);
  with_vectors(a, [&](auto vectors) {
    if (gradients.dq && a.batch * a.rows > 0)
      launch(context, {static_cast<unsigned>(a.batch * a.groups * a.row_tiles), kThreads, shared_bytes(a, 4, 1)}, query_gradient_kernel<vectors()>, a, gradients);
    if ((gradients.dk || gradients.dv) && a.batch * a.keys > 0)
      launch(context, {static_cast<unsigned>(a.batch * a.groups * a.key_tiles), kThreads, shared_bytes(a, 4, 2)}, key_gradient_kernel<vectors()>, a, gradients);
  });
}

void check_lengths(const Context& context, const Workspace& workspace, Checked what, const Attention& a) {
  if (workspace.running() && a.key_lengths) check_index(context, what, a.key_lengths, a.batch, 0, a.keys + 1);
}

void attention(const Context& context, Workspace& workspace, const TrefoilLaunch& args) {
  const Attention a = describe(args, 0, 3);
  const bool decode = a.rows > 0 && suits_tensor_cores(context, a) && suits_decode(a);
  if (!decode) check_lengths(context, workspace, Checked::attention_key_lengths, a);  // decoding looks at them itself
  if (a.batch * a.rows == 0) return;
  if (decode) {
    attention_decode_bf16(context, workspace, a, args);
  } else if (!suits_tensor_cores(context, a)) {
    if (workspace.running()) forward_f32(context, plain(a), args);
  } else {
    attention_forward_bf16(context, workspace, a, args);
  }
}

void attention_grad(const Context& context, Workspace& workspace, const TrefoilLaunch& args) {
  const Attention a = describe(args, 1, 6);
  check_lengths(context, workspace, Checked::attention_grad_key_lengths, a);
  if (suits_tensor_cores(context, a)) attention_backward_bf16(context, workspace, a, args);
  else backward_f32(context, workspace, plain(a), args);
}

}  // namespace

extern const KernelEntry attention_kernels[] = {with_workspace<attention>("attention"), with_workspace<attention_grad>("attention_grad"),
                                                {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
