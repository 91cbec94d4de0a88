// What the kernels of attention by wgmma share. A block has a producer thread in warp group 0, which has the copy engine (TMA) fill tiles,
// and two warp groups (forward: or three) that multiply, 64 rows each. Tiles are halves of 64 elements of the head: rows of 128 bytes, swizzled.
#pragma once
#include "attention_bf16.h"
#include "attention_tile.h"
#include "tensor_boxes.h"
#include "wgmma.h"

namespace trefoil::cuda {

constexpr int kWgmmaThreads = 384, kWgmmaRows = 128;  // rows of a block, and keys of a tile
template <int dim>
constexpr int kWgmmaTileBytes = kWgmmaRows * dim * static_cast<int>(sizeof(bf16));

// Keys or values, [batch, keys, groups, size]: boxes of so many keys of one head.
inline CUtensorMap encode_keys(const Attention& a, const bf16* data, int64_t stride, int count) {
  return encode_boxes<4>(data, {a.size, a.groups, a.keys, a.batch}, {stride, stride * a.groups, stride * a.groups * a.keys}, {64, 1, count, 1});
}
inline CUtensorMap encode_keys(const Attention& a, const Rows<bf16>& rows) { return encode_keys(a, rows.data, rows.stride, kWgmmaRows); }

// q, dout or out, [batch, queries, groups, shared heads, size]: boxes of as many whole queries as 64 rows hold.
inline CUtensorMap encode_queries(const Attention& a, const bf16* data, int64_t stride) {
  const int64_t s = a.shared_heads;
  return encode_boxes<5>(data, {a.size, s, a.groups, a.queries, a.batch}, {stride, s * stride, a.heads * stride, a.queries * a.heads * stride},
                         {64, static_cast<int>(s), 1, static_cast<int>(64 / s), 1});
}

#if defined(TREFOIL_HOPPER)

constexpr int kHalfBytes = kWgmmaRows * 128;
constexpr int kOwnBarrier = 1, kTurnBarrier = 3, kBothBarrier = 5;  // named barriers; of the first two one for each group

// Dynamic shared memory from where the swizzle starts anew, which goes by address.
__device__ __forceinline__ unsigned char* aligned_tiles() {
  unsigned char* tiles = dynamic_shared<unsigned char>();
  return tiles + (1024 - shared_address(tiles) % 1024) % 1024;
}

// Stages that are filled with `bytes` each, again and again; the j-th filling is in stage j % stages.
template <int stages, int pitch, int bytes = pitch, int readers = 8>
struct Ring {
  unsigned char* tiles;
  uint64_t* barriers;  // [2 stages]: full, empty

  __device__ __forceinline__ void init() const {
    for (int stage = 0; stage < stages; ++stage) {
      barrier_init(&barriers[stage], 1);
      barrier_init(&barriers[stages + stage], readers);  // every warp that reads
    }
  }
  static __device__ __forceinline__ int stage_of(int j) { return static_cast<int>(static_cast<unsigned>(j) % stages); }
  static __device__ __forceinline__ uint32_t parity_of(int j) { return static_cast<unsigned>(j) / stages & 1u; }
  __device__ __forceinline__ unsigned char* tile(int j) const { return tiles + stage_of(j) * pitch; }
  // By the producer, once the stage is free: the barrier at which its bytes are to count. What lies outside of a tensor counts too: it arrives as zeros.
  __device__ __forceinline__ uint64_t* claim(int j, uint32_t expected = bytes) const {
    const int stage = stage_of(j);
    if (j >= stages) barrier_wait(&barriers[stages + stage], parity_of(j) ^ 1u);
    barrier_expect(&barriers[stage], expected);
    return &barriers[stage];
  }
  __device__ __forceinline__ void wait(int j) const { barrier_wait(&barriers[stage_of(j)], parity_of(j)); }
  // By every warp that reads.
  __device__ __forceinline__ void release(int j) const {
    if (lane_index() == 0) barrier_arrive(&barriers[stages + stage_of(j)]);
  }
};

// The 128 keys from `first` on.
template <int dim>
__device__ __forceinline__ void copy_keys(unsigned char* tile, const CUtensorMap* map, int64_t b, int64_t g, int first, uint64_t* full) {
#pragma unroll
  for (int half = 0; half < dim / 64; ++half) copy_box(tile + half * kHalfBytes, map, {64 * half, static_cast<int>(g), first, static_cast<int>(b)}, full);
}

// Zeros past `left` rows of a tile of 128, by both groups, to be followed by end_clearing: what nobody sees has weight 0, and must not be NaN.
template <int dim>
__device__ __forceinline__ void clear_keys(unsigned char* tile, int left) {
  const int chunks = (kWgmmaRows - left) * 8;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x) - 128; i < chunks * (dim / 64); i += 256)
    store_for_engine(tile + i / chunks * kHalfBytes + left * 128 + i % chunks * 16, uint4{});
}
__device__ __forceinline__ void end_clearing() {
  engine_fence();
  named_sync(kBothBarrier, 256);
}

// sums[64 x n] = rows of a times rows of b, both along the head; halves of their tiles lie so many bytes apart. To be committed.
// `anew`: until the first product the sums' registers are free for others. The forward kernel spills 260 bytes at heads of 64 for it.
template <int dim, int n, bool anew = true>
__device__ __forceinline__ void multiply_along(float (&sums)[n / 2], const unsigned char* a_tile, int a_half, const unsigned char* b_tile, int b_half) {
  const uint64_t a = describe_rows_of_128(a_tile), b = describe_rows_of_128(b_tile);
#pragma unroll
  for (int d = 0; d < dim / 16; ++d) {
    if (anew && d == 0) wgmma_anew<n, false, false>(sums, a, b);
    else wgmma<n, false, false>(sums, further(a, static_cast<uint32_t>(d / 4 * (a_half >> 4) + d % 4 * 2)), further(b, static_cast<uint32_t>(d / 4 * (b_half >> 4) + d % 4 * 2)), d > 0);
  }
}
// sums[64 x dim] += weights times as many rows of b. To be committed.
template <int dim, int steps>
__device__ __forceinline__ void add_across(float (&sums)[dim / 2], const uint32_t (&weights)[steps][4], const unsigned char* b_tile, int b_half) {
  const uint64_t b = describe_columns_of_128(b_tile, static_cast<uint32_t>(b_half));
#pragma unroll
  for (int j = 0; j < steps; ++j) wgmma<dim, true>(sums, weights[j], further(b, 128u * static_cast<uint32_t>(j)), true);
}
// Sums are what products leave, weights what they take from registers.
template <int steps>
__device__ __forceinline__ void round_weights(uint32_t (&weights)[steps][4], const float (&sums)[8 * steps]) {
#pragma unroll
  for (int j = 0; j < steps; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) weights[j][i] = pack_bf16(sums[8 * j + 2 * i], sums[8 * j + 2 * i + 1]);
}
// Such weights, of a warp group's 64 rows, to shared memory for the copy engine or for products: halves of 64 columns, so many bytes apart.
template <int steps>
__device__ __forceinline__ void store_rows_for_engine(unsigned char* own, int half, const uint32_t (&weights)[steps][4]) {
  const int lane = lane_index(), row = warp_index() % 4 * 16 + lane % 16, above = lane / 16;
#pragma unroll
  for (int j = 0; j < steps; ++j) store_matrices_for_engine(own + j / 4 * half + chunk_of_128(row, j % 4 * 2 + above), weights[j]);
}
// ptxas would run products one by one if it found these zeros among them.
template <int n>
__device__ __forceinline__ void set_zero(float (&sums)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) sums[i] = 0;
  keep(sums);
}

// Of the two warp groups that multiply. Asked of one lane it is in a uniform register, and so are the descriptors of what the group reads.
__device__ __forceinline__ int own_group() { return __shfl_sync(kFullWarp, static_cast<int>(threadIdx.x) / 128 - 1, 0); }

// Of a tile of 128 columns of scores a thread has 32 of each row: 8 j + i, from its first one on, is bit 2 j + i. Those from `limit` on:
__device__ __forceinline__ uint32_t columns_past(int limit) {
  const int seen = limit <= 0 ? 0 : limit / 8 * 2 + min(limit % 8, 2);
  return seen < 32 ? ~0u << seen : 0;
}
// And those of other segments than the rows'. No load beyond `end`. One after another: registers for all loads at once would be missing.
__device__ __forceinline__ void add_other_segments(uint32_t (&hidden)[2], const int32_t* segments, const int32_t (&own)[2], int from, int end) {
#pragma unroll 1
  for (int j = 0; j < kWgmmaRows / 4; ++j) {
    const int key = from + j / 2 * 8 + j % 2;
    const int32_t found = segments[key < end ? key : 0];
#pragma unroll
    for (int half = 0; half < 2; ++half) hidden[half] |= static_cast<uint32_t>(found != own[half]) << j;
  }
}
template <int n>
__device__ __forceinline__ void hide_scores(float (&scores)[n], const uint32_t (&hidden)[2]) {
#pragma unroll
  for (int i = 0; i < n; ++i)
    if (hidden[i / 2 % 2] >> (i / 4 * 2 + i % 2) & 1u) scores[i] = -INFINITY;
}

#endif

}  // namespace trefoil::cuda
