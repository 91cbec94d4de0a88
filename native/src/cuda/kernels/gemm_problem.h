// Products of matrices C = epilogue(A B): what both kernels (f32 on the plain cores, bf16 on the tensor cores) are told, how
// blocks find their tile, where operands come from, and what happens to a finished piece of C.
#pragma once
#include "floats.h"

namespace trefoil::cuda {

enum class Activation : int { none, relu, gelu, silu };

// c = activation(z) + residual with z = alpha * product + bias; preactivation = z.
struct Epilogue {
  float alpha = 1;
  const float* bias = nullptr;
  Floats residual;
  float* preactivation = nullptr;
  Activation activation = Activation::none;
};

// Where row m of C lies if not at m: rows are pixels (n, u, v) of a coarse grid within images of height x width, at
// (first_row + u * step, first_column + v * step).
struct Placement {
  int rows = 0, columns = 0;  // of the coarse grid; 0: C is stored row after row
  int height = 0, width = 0, first_row = 0, first_column = 0, step = 0;
};

enum class Schedule : int {
  batch,         // `count` products one after another
  row_groups,    // rows [offsets[e], offsets[e + 1]) of A and C belong to group e, which has a B of its own
  depth_groups,  // product e contracts over [offsets[e], offsets[e + 1])
};

struct Product {
  int m = 0, n = 0, k = 0;  // with groups: m or k of all groups together
  int count = 1;            // products, or groups
  Schedule schedule = Schedule::batch;
  const int32_t* offsets = nullptr;  // [count + 1]
  Floats c;
  int64_t c_step = 0, residual_step = 0;  // from one product to the next
  Placement placement;
  Epilogue epilogue;
  int splits = 1;             // k is cut into so many parts, whose sums are added in order afterwards
  float* partials = nullptr;  // [splits, count, m, n]
  bool constant_b = false;    // b may be read before the launches before this one have ended; only of batches, whose rows have no index
};

// Blocks that run at once on the devices this is tuned for; a constant, so that results do not depend on the device.
constexpr int64_t kFullWave = 132;
// Tiles whose parts of k are added up within a cluster, and parts at most.
constexpr int kClusterRows = 64, kClusterColumns = 128, kMostInCluster = 8;

// The piece of work of one block.
struct Tile {
  int row, row_end, column;  // of C; row_end: rows from there on are another group's, or nobody's
  int k, k_end;
  int product;  // of the batch, or the group: selects B, and C where products have one each
  int part;     // of k
};

__device__ __forceinline__ int clamp_row(int32_t row, int rows) { return row < 0 ? 0 : row > rows ? rows : row; }

// Tiles of so many rows that a group has, its last one partly filled. Offsets that do not rise leave tiles out, never out of bounds.
__device__ __forceinline__ int group_tiles(const Product& p, int group, int tile_rows, int& begin, int& end) {
  begin = group < p.count ? clamp_row(p.offsets[group], p.m) : 0;
  end = group < p.count ? clamp_row(p.offsets[group + 1], p.m) : 0;
  return end > begin ? (end - begin + tile_rows - 1) / tile_rows : 0;
}

// For a whole warp. The tile of `slot` among the tiles of all groups; false: there are fewer. Looks through 32 groups at a time.
__device__ __forceinline__ bool find_group_tile(const Product& p, int tile_rows, int slot, Tile& tile) {
  const int lane = lane_index();
  int before = 0;
  for (int first = 0; first < p.count; first += 32) {
    int begin, end;
    const int tiles = group_tiles(p, first + lane, tile_rows, begin, end);
    int through = tiles;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int below = __shfl_up_sync(kFullWarp, through, offset);
      if (lane >= offset) through += below;
    }
    if (const uint32_t holds = __ballot_sync(kFullWarp, slot < before + through)) {
      const int holder = __ffs(static_cast<int>(holds)) - 1;
      tile.product = first + holder;
      tile.row = __shfl_sync(kFullWarp, begin + (slot - (before + through - tiles)) * tile_rows, holder);
      tile.row_end = __shfl_sync(kFullWarp, end, holder);
      return true;
    }
    before += __shfl_sync(kFullWarp, through, 31);
  }
  return false;
}

inline int tile_slots(const Product& p, int tile_rows) {
  const int tiles = static_cast<int>(ceil_divide(p.m, tile_rows));
  return p.schedule == Schedule::row_groups ? tiles + p.count : tiles;
}

// Blocks in flight together cover a compact part of C: `most` rows of tiles at a time, so that both operands stay in L2. Of tile `id` of a
// product the row of tiles; its column of tiles.
__device__ __forceinline__ int place_in_bands(int id, int slots, int columns, int most, int& column) {
  const int band = id / (most * columns), within = id - band * most * columns;
  const int height = slots - band * most < most ? slots - band * most : most;
  column = within / height;
  return band * most + within % height;
}

// What a tile contracts over.
template <int depth>
__device__ __forceinline__ void set_depth(const Product& p, Tile& tile) {
  tile.k = 0;
  tile.k_end = p.k;
  if (p.schedule == Schedule::depth_groups) {
    tile.k = clamp_row(p.offsets[tile.product], p.k);
    tile.k_end = clamp_row(p.offsets[tile.product + 1], p.k);
  } else if (p.splits > 1) {
    const int length = ((p.k + depth - 1) / depth + p.splits - 1) / p.splits * depth;
    tile.k = tile.part * length;
    tile.k_end = tile.k + length < p.k ? tile.k + length : p.k;
  }
}

// The tile of a block of a grid of tiles, parts of k in y, or (cluster) next to each other.
template <int tile_rows, int tile_columns, int depth, bool cluster = false>
__device__ bool locate(const Product& p, Tile& tile) {
  const int columns = (p.n + tile_columns - 1) / tile_columns, row_tiles = (p.m + tile_rows - 1) / tile_rows;
  const int slots = p.schedule == Schedule::row_groups ? row_tiles + p.count : row_tiles;
  const int block = static_cast<int>(blockIdx.x), id = cluster ? block / p.splits : block;
  tile.product = id / (slots * columns);
  tile.part = cluster ? block % p.splits : static_cast<int>(blockIdx.y);
  int column;
  const int slot = place_in_bands(id - tile.product * slots * columns, slots, columns, 8, column);
  tile.column = column * tile_columns;
  tile.row = slot * tile_rows;
  tile.row_end = p.m;
  set_depth<depth>(p, tile);
  if (p.schedule != Schedule::row_groups) return true;
  TREFOIL_SHARED(found, Tile);
  if (threadIdx.x < 32) {
    Tile mine = tile;
    if (!find_group_tile(p, tile_rows, slot, mine)) mine.product = -1;
    if (threadIdx.x == 0) found = mine;
  }
  __syncthreads();
  tile = found;
  return tile.product >= 0;
}

__device__ __forceinline__ float activate(float z, Activation activation) {
  switch (activation) {
    case Activation::relu: return z < 0.0f ? 0.0f : z;  // this order keeps a NaN
    // 0.5 z (1 + tanh u) = z sigmoid(2 u), u = sqrt(2 / pi) (z + 0.044715 z^3)
    case Activation::gelu: return z / (1.0f + expf(-1.5957691216057308f * (0.044715f * z * z * z + z)));
    case Activation::silu: return z / (1.0f + expf(-z));
    default: return z;
  }
}

__device__ __forceinline__ int64_t placed_row(const Placement& place, int row) {
  if (place.columns == 0) return row;
  const int v = row % place.columns, rest = row / place.columns, u = rest % place.rows, image = rest / place.rows;
  return (static_cast<int64_t>(image) * place.height + place.first_row + u * place.step) * place.width + place.first_column + v * place.step;
}

// One element of C, `at` from its start, without the residual.
__device__ __forceinline__ float finish_product(const Epilogue& e, float sum, int column, int64_t at) {
  float z = sum * e.alpha;
  if (e.bias) z += e.bias[column];
  if (e.preactivation) e.preactivation[at] = z;
  return activate(z, e.activation);
}
__device__ __forceinline__ float finish(const Epilogue& e, float sum, int column, int64_t at, int64_t residual_at) {
  const float z = finish_product(e, sum, column, at);
  return e.residual ? z + e.residual.load(residual_at) : z;
}

// Four neighbouring columns of one row of C, at once where rows are multiples of that. `whole_k`: never the sums of a part.
template <bool whole_k = false>
__device__ __forceinline__ void store_columns(const Product& p, const Tile& tile, int row, int column, const float* sums) {
  if (row >= tile.row_end || column >= p.n) return;
  constexpr int width = 4;
  const bool whole = p.n % width == 0;
  const int product = p.schedule == Schedule::row_groups ? 0 : tile.product;
  if (!whole_k && p.splits > 1) {
    float* to = p.partials + ((static_cast<int64_t>(tile.part) * p.count + product) * p.m + row) * p.n + column;
    if (whole) {
      store4(to, make_float4(sums[0], sums[1], sums[2], sums[3]));
    } else {
#pragma unroll
      for (int i = 0; i < width; ++i)
        if (column + i < p.n) to[i] = sums[i];
    }
    return;
  }
  const int64_t within = placed_row(p.placement, row) * p.n + column, at = product * p.c_step + within, residual_at = product * p.residual_step + within;
  if (whole) {
    float values[width];
#pragma unroll
    for (int i = 0; i < width; ++i) values[i] = finish_product(p.epilogue, sums[i], column + i, at + i);
    float4 four = make_float4(values[0], values[1], values[2], values[3]);
    if (p.epilogue.residual) {
      const float4 r = p.epilogue.residual.load4(residual_at);
      four = make_float4(four.x + r.x, four.y + r.y, four.z + r.z, four.w + r.w);
    }
    p.c.store4(at, four);
  } else {
#pragma unroll
    for (int i = 0; i < width; ++i)
      if (column + i < p.n) p.c.store(at + i, finish(p.epilogue, sums[i], column + i, at + i, residual_at + i));
  }
}

// An operand is read in chunks of 16 bytes along `inner`, the direction that is contiguous in memory; the other one is `outer`.
// outer(o) and inner(i) do what each coordinate costs once; at() joins them: where the chunk is, null where all of it is zero.

template <class T>
struct Rows {
  using Element = T;
  const T* data = nullptr;
  int64_t stride = 0, step = 0;    // from row to row, from product to product
  const int32_t* index = nullptr;  // row o is stored row index[o]
  int stored = 0;                  // rows, where there is an index: others read as zero
  bool aligned = true;             // rows start at multiples of 16 bytes
  using Outer = const T*;
  using Inner = int;
  __device__ __forceinline__ void select(int product) { data += product * step; }
  __device__ __forceinline__ Outer outer(int o) const {
    if (!index) return data + o * stride;
    const int32_t row = index[o];
    return row >= 0 && row < stored ? data + row * stride : nullptr;
  }
  __device__ __forceinline__ Inner inner(int i) const { return i; }
  __device__ __forceinline__ const T* at(Outer o, Inner i) const { return o ? o + i : nullptr; }
  __device__ __forceinline__ bool vectors() const { return aligned; }
};

}  // namespace trefoil::cuda
