// dq, dk and dv of attention by wgmma in one pass, for sm_90a: five products where two passes make seven, in the manner of flash attention 3 (Shah et
// al. 2024, arXiv 2407.08608). 128 keys and their values stay in shared memory, tiles of rows of q and dout pass by. A tile's part of dq goes
// through shared memory to f32 sums in global memory, by the copy engine. Two more warps of the producer's group see to it that each tile of rows is
// added to in the order of the tiles of keys, so that the same run gives the same bits: see turns.h, and native/lab/NOTES.md for why it may not
// hang. It is right on the emulator and has never run on a GPU, so it is used only where TREFOIL_CUDA_WGMMA=1 and TREFOIL_CUDA_ATTENTION_GRADIENT=one-pass.
#include <algorithm>

#include "attention_backward_wgmma.h"
#include "turns.h"

namespace trefoil::cuda {

namespace {

constexpr int kKeys = kWgmmaRows, kStages = 2, kBuffers = 2, kTileElements = 8192, kPieceElements = 64 * 64;  // of a tile of rows; a warp group makes a piece of its dq
template <int dim>
constexpr int kRows = kTileElements / dim;
template <int dim>
constexpr int kSlopeBytes = kKeys * kRows<dim> * static_cast<int>(sizeof(bf16));
constexpr int kRowBytes = kTileElements * static_cast<int>(sizeof(bf16)), kSumBytes = kTileElements * static_cast<int>(sizeof(float));

#if defined(TREFOIL_HOPPER)

constexpr int kReadBarrier = 6, kSumBarrier = 8;  // named barriers: of the slopes, one for each group; of dq, one for each buffer

// Blocks start with the first tiles of keys of `heads_at_once` heads, then come their second ones, …: neighbours in the order of sums are that far apart.
template <int rows>
__device__ __forceinline__ KeyPlace find_ticket(const Attention& a, const RowUnits& units, const QuerySums& sums) {
  // In 32 bits, as blocks are counted: nothing else happens meanwhile.
  const auto ticket = static_cast<unsigned>(take_ticket(sums.ticket)), key_tiles = static_cast<unsigned>((a.keys + kKeys - 1) / kKeys), heads = static_cast<unsigned>(a.batch * a.groups);
  const unsigned first = ticket / (sums.heads_at_once * key_tiles) * sums.heads_at_once, count = min(heads - first, sums.heads_at_once), rest = ticket - first * key_tiles;
  return find_keys<rows>(a, units, first + rest % count, rest / count);
}

// sums[64 x 64] = 64 rows of slopes times 64 elements of keys, over the 128 keys. To be committed.
__device__ __forceinline__ void multiply_slopes(float (&sums)[32], const unsigned char* slope_tile, const unsigned char* k_tile) {
  const uint64_t a = describe_columns_of_128(slope_tile, kHalfBytes), b = describe_columns_of_128(k_tile, kHalfBytes);
#pragma unroll
  for (int j = 0; j < kKeys / 16; ++j) {
    const uint32_t step = 128u * static_cast<uint32_t>(j);
    if (j == 0) wgmma_anew<64, true, true>(sums, a, b);
    else wgmma<64, true, true>(sums, further(a, step), further(b, step), true);
  }
}

// A piece of dq as the threads of a warp group hold it: four neighbours in the array of each of 128 threads, then the next four.
__device__ __forceinline__ void store_piece(unsigned char* to, const float (&sums)[32]) {
#pragma unroll
  for (int j = 0; j < 8; ++j)
    store_for_engine(to + (j * 128 + static_cast<int>(threadIdx.x) % 128) * 16,
                     make_uint4(__float_as_uint(sums[4 * j]), __float_as_uint(sums[4 * j + 1]), __float_as_uint(sums[4 * j + 2]), __float_as_uint(sums[4 * j + 3])));
}

// A tile of dq to global memory, by one thread, in its turn: the tiles of keys before this one have all added to it, as they see no fewer rows.
__device__ __forceinline__ void add_to_queries(const QuerySums& sums, int64_t tile, int32_t turn, const unsigned char* buffer, uint64_t* read) {
  float* to = sums.sums + tile * kTileElements;
  if (turn == 0) {
    copy_out(to, buffer, kSumBytes);
  } else {
    await_turn(sums.turns + tile, turn);
    global_engine_fence();
    add_out(to, buffer, kSumBytes);
  }
  commit_stores();
  wait_stores_read<0>();
  barrier_arrive(read);
  wait_stores<0>();
  global_engine_fence();
  pass_turn(sums.turns + tile, turn + 1);
}

#endif

template <int dim>
__global__ void __launch_bounds__(kWgmmaThreads, 1)
    attention_one_pass_gradient_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap dout_map, const __grid_constant__ CUtensorMap k_map,
                                       const __grid_constant__ CUtensorMap v_map, const __grid_constant__ CUtensorMap dk_map, const __grid_constant__ CUtensorMap dv_map, Attention a,
                                       BackwardRows laid_out, QuerySums query_sums, KeyResults results) {
#if defined(TREFOIL_HOPPER)
  constexpr int kTileBytes = kWgmmaTileBytes<dim>, kTileRows = kRows<dim>, kRowHalf = kTileRows * 128, kStatisticBytes = kTileRows * static_cast<int>(sizeof(float));
  TREFOIL_SHARED(barriers, uint64_t[2 * kStages]);
  TREFOIL_SHARED(ready, uint64_t[1 + kBuffers]);  // keys and values; then dq's buffers, once they are read
  TREFOIL_SHARED(at, KeyPlace);
  TREFOIL_SHARED(statistics, float4[kStages][2][kTileRows / 4]);  // lse, then delta
  unsigned char *k_tile = aligned_tiles(), *v_tile = k_tile + kTileBytes, *slope_tile = v_tile + kTileBytes, *buffers = slope_tile + kSlopeBytes<dim>;
  uint64_t* read = ready + 1;
  const Ring<kStages, 2 * kRowBytes> ring{buffers + kBuffers * kSumBytes, barriers};  // q, then dout
  start_block(at, ring, ready, [&] {
    for (int i = 0; i < kBuffers; ++i) barrier_init(&read[i], 1);
    return find_ticket<kTileRows>(a, laid_out.units, query_sums);
  }, q_map, dout_map, k_map, v_map);
  const auto row_of = [&](int j) { return at.begin + (at.tiles - 1 - j) * kTileRows; };  // late rows first: all of a head's blocks begin with the same
  if (threadIdx.x < 128) {
    give_registers<24>();
    const int head = static_cast<int>(at.b * a.groups + at.g);
    if (threadIdx.x == 0 && at.tiles > 0) {
      barrier_expect(ready, 2 * kTileBytes);
      copy_keys<dim>(k_tile, &k_map, at.b, at.g, static_cast<int>(at.first), ready);
      copy_keys<dim>(v_tile, &v_map, at.b, at.g, static_cast<int>(at.first), ready);
      for (int j = 0; j < at.tiles; ++j) {
        const int from = row_of(j);
        const int64_t statistic = head * laid_out.padded + from;
        uint64_t* full = ring.claim(j, 2 * row_bytes<dim, kTileRows>(laid_out.units) + 2 * kStatisticBytes);
        copy_rows<dim, kTileRows>(ring.tile(j), &q_map, laid_out.units, at.b, at.g, from, full);
        copy_rows<dim, kTileRows>(ring.tile(j) + kRowBytes, &dout_map, laid_out.units, at.b, at.g, from, full);
        copy_bytes(statistics[j % kStages][0], laid_out.lse + statistic, kStatisticBytes, full);
        copy_bytes(statistics[j % kStages][1], laid_out.delta + statistic, kStatisticBytes, full);
      }
    }
    const int buffer = warp_index() - 1;
    if (buffer >= 0 && buffer < kBuffers) {
      for (int j = buffer; j < at.tiles; j += kBuffers) {
        named_sync(kSumBarrier + buffer, 256 + kWarp);
        if (lane_index() == 0)
          add_to_queries(query_sums, (head * laid_out.padded + row_of(j)) / kTileRows, static_cast<int32_t>(at.first / kKeys), buffers + buffer * kSumBytes, &read[buffer]);
        __syncwarp();
      }
    }
  } else {
    take_registers<240>();
    const GroupKeys<kTileRows> keys(a, at, laid_out.units);
    const float slope = a.scale * kLog2E;
    float scores[kTileRows / 2], slopes[kTileRows / 2], dk_sums[dim / 2], dv_sums[dim / 2], dq_sums[32];
    uint32_t weights[kTileRows / 16][4], slope_weights[kTileRows / 16][4];
    set_zero(dk_sums);
    set_zero(dv_sums);
    if (at.tiles > 0) {
      barrier_wait(ready, 0);
      if (at.valid < at.stored) {
        clear_keys<dim>(k_tile, at.valid);
        clear_keys<dim>(v_tile, at.valid);
        end_clearing();
      }
      clear_empty(ring.tiles, 2 * kStages * kRowBytes, laid_out.units);
    }
    const int own = keys.side * 64 * 128;
    const auto multiply_queries = [&](int j) {
      ring.wait(j);
      wgmma_fence();
      multiply_along<dim, kTileRows>(scores, k_tile + own, kHalfBytes, ring.tile(j), kRowHalf);
      wgmma_commit();
    };
    const auto make_weights = [&](int j) {
      wgmma_fence();
      multiply_along<dim, kTileRows>(slopes, v_tile + own, kHalfBytes, ring.tile(j) + kRowBytes, kRowHalf);
      wgmma_commit();
      wgmma_wait<1>();
      keep(scores);
      keys.hide(scores, row_of(j));
      keys.weigh(scores, reinterpret_cast<const float*>(statistics[j % kStages][0]), slope);
      round_weights(weights, scores);
    };
    const auto add_up = [&](int j) {
      const unsigned char *q_tile = ring.tile(j), *dout_tile = q_tile + kRowBytes;
      wgmma_wait<0>();  // the slopes are there
      keep(slopes);
      wgmma_fence();
      add_across<dim>(dv_sums, weights, dout_tile, kRowHalf);
      wgmma_commit();
      keys.pass_softmax(slopes, scores, reinterpret_cast<const float*>(statistics[j % kStages][1]));
      round_weights(slope_weights, slopes);
      if (j > 0) named_sync(kReadBarrier + keys.side, 256);  // the other group has read the last slopes
      store_rows_for_engine(slope_tile + own, kHalfBytes, slope_weights);
      engine_fence();
      named_sync(kBothBarrier, 256);
      wgmma_fence();
      multiply_slopes(dq_sums, slope_tile + (dim == 64 ? keys.side * kHalfBytes : 0), k_tile + (dim == 128 ? keys.side * kHalfBytes : 0));
      wgmma_commit();
      wgmma_fence();
      add_across<dim>(dk_sums, slope_weights, q_tile, kRowHalf);
      wgmma_commit();
      wgmma_wait<1>();  // dq is there
      keep(dq_sums);
      if (j + 1 < at.tiles) named_arrive(kReadBarrier + 1 - keys.side, 256);
      if (j >= kBuffers) barrier_wait(&read[j % kBuffers], static_cast<uint32_t>(j / kBuffers - 1) & 1u);
      store_piece(buffers + j % kBuffers * kSumBytes + keys.side * kPieceElements * static_cast<int>(sizeof(float)), dq_sums);
      engine_fence();
      named_arrive(kSumBarrier + j % kBuffers, 256 + kWarp);
    };
    // dk goes on beside the next scores. Once in a step nothing is under way, or ptxas would run products one by one (C7514).
    if (at.tiles > 0) {
      multiply_queries(0);
      make_weights(0);
      for (int j = 1; j < at.tiles; ++j) {
        add_up(j - 1);
        multiply_queries(j);
        wgmma_wait<1>();
        keep(dv_sums);
        keep(dk_sums);
        ring.release(j - 1);
        make_weights(j);
      }
      add_up(at.tiles - 1);
      wgmma_wait<0>();
      keep(dv_sums);
      keep(dk_sums);
    }
    // The stage that is not the last one's: both groups have gone on from it.
    keys.template store<dim>(results, &dk_map, &dv_map, ring.tile(at.tiles), v_tile, dk_sums, dv_sums);
  }
#endif
}

// dq from its sums: a block takes a piece of a tile, a thread eight columns of the rows at two places, which four neighbours of a warp group left.
// Tiles that no keys see were not written.
template <int dim>
__global__ void __launch_bounds__(256) finish_queries_kernel(Attention a, RowUnits units, int row_tiles, QuerySums sums, Floats dq) {
  const int tile = static_cast<int>(blockIdx.x / 2), piece = static_cast<int>(blockIdx.x % 2), head = tile / row_tiles, groups = static_cast<int>(a.groups), b = head / groups;
  const int chunk = static_cast<int>(threadIdx.x) % 8, quad = static_cast<int>(threadIdx.x) / 8;
  const int first = (tile - head * row_tiles) * kRows<dim> + (dim == 64 ? piece * 64 : 0) + quad / 8 * 16 + quad % 8;
  const int column = (dim == 128 ? piece * 64 : 0) + chunk * 8, left = static_cast<int>(a.size) - column;
  if (left <= 0) return;
  float4 pairs[4] = {};
  if (sums.turns[tile] > 0)
#pragma unroll
    for (int lane = 0; lane < 4; ++lane) pairs[lane] = load4(sums.sums + int64_t{tile} * kTileElements + piece * kPieceElements + (chunk * 128 + quad * 4 + lane) * 4);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const PlacedRow placed(a, units, first + 8 * half);
    if (!placed.there) continue;
    const Floats row = dq.from(placed.row(a, b, head - b * groups) * a.size + column);
    float x[8];
#pragma unroll
    for (int lane = 0; lane < 4; ++lane) {
      x[2 * lane] = (half ? pairs[lane].z : pairs[lane].x) * a.scale;
      x[2 * lane + 1] = (half ? pairs[lane].w : pairs[lane].y) * a.scale;
    }
    if (a.size % 8 == 0) {
      row.store4(0, make_float4(x[0], x[1], x[2], x[3]));
      row.store4(4, make_float4(x[4], x[5], x[6], x[7]));
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (j < left) row.store(j, x[j]);
    }
  }
}

template <int dim>
void launch_gradients(const Context& context, const Attention& a, const BackwardRows& rows, const Rows<bf16>& k, const Rows<bf16>& v, const QuerySums& sums, const Floats& dq,
                      const Floats& dk, const Floats& dv) {
  const auto blocks = static_cast<unsigned>(a.batch * a.groups * ceil_divide(a.keys, kKeys));
  const int64_t row_tiles = rows.padded / kRows<dim>, count = a.batch * a.groups * row_tiles;
  const KeyResults results(a, dk, dv);
  const CUtensorMap k_map = encode_keys(a, k);
  zero_memory(context, sums.ticket, static_cast<size_t>(count + 1) * sizeof(int32_t));
  launch(context, {blocks, kWgmmaThreads, size_t{2 * kWgmmaTileBytes<dim> + kSlopeBytes<dim> + kBuffers * kSumBytes + 2 * kStages * kRowBytes} + 1024},
         attention_one_pass_gradient_kernel<dim>, encode_queries(a, rows.q, rows.stride), encode_queries(a, rows.dout, rows.stride), k_map, encode_keys(a, v),
         encode_key_results(a, results, dk, k_map), encode_key_results(a, results, dv, k_map), a, rows, sums, results);
  launch(context, {static_cast<unsigned>(2 * count), 256}, finish_queries_kernel<dim>, a, rows.units, static_cast<int>(row_tiles), sums, dq);
}

}  // namespace

QuerySums take_query_sums(const Context& context, Workspace& workspace, const Attention& a, int64_t padded) {
  const int64_t count = padded * (a.size <= 64 ? 64 : 128), tiles = a.batch * a.groups * count / kTileElements;  // elements of a head
  // Heads whose q, dout and sums the cache holds, a share of it for each multiprocessor; more where that would be fewer than one for eight of them.
  constexpr int64_t kCachedBytes = 256 << 10;
  const int64_t cached = context.multiprocessors * kCachedBytes / (count * static_cast<int64_t>(2 * sizeof(bf16) + sizeof(float)));
  QuerySums sums{};
  sums.sums = workspace.take<float>(tiles * kTileElements);
  sums.ticket = workspace.take<int32_t>(1 + tiles);
  sums.turns = sums.ticket + 1;
  // No more than there are, so that they and their tiles of keys are no more than blocks.
  sums.heads_at_once = static_cast<unsigned>(std::min(std::max<int64_t>({cached, context.multiprocessors / 8, 1}), a.batch * a.groups));
  return sums;
}

void attention_one_pass_gradient_wgmma(const Context& context, const Attention& a, const BackwardRows& rows, const Rows<bf16>& k, const Rows<bf16>& v, const QuerySums& sums,
                                       const Floats& dq, const Floats& dk, const Floats& dv) {
  if (a.size <= 64) launch_gradients<64>(context, a, rows, k, v, sums, dq, dk, dv);
  else launch_gradients<128>(context, a, rows, k, v, sums, dq, dk, dv);
}

}  // namespace trefoil::cuda
