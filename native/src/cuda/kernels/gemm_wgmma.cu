// Products by wgmma: which tile, and what the copy engine is told of the operands. The kernel: gemm_wgmma_tile.h.
#include "gemm_wgmma.h"

#include "gemm_wgmma_tile.h"
#include "tensor_boxes.h"

namespace trefoil::cuda {

namespace {

// [products, rows, columns] of an operand, columns k or (across) rows k.
CUtensorMap encode(const Rows<bf16>& operand, bool by_depth, int count, int side, int k) {
  const int64_t columns = by_depth ? k : side, rows = by_depth ? side : k;
  return encode_boxes<3>(operand.data, {columns, rows, operand.step ? count : 1}, {operand.stride, operand.step ? operand.step : rows * operand.stride}, {64, by_depth ? 128 : kDepth, 1});
}

// Where results, or the sums of parts, can go through the copy engine: rows start at multiples of 16 bytes, and scaling is all there is to do.
bool suits_engine(const Product& p, const Floats& to, int64_t step) {
  const Epilogue& e = p.epilogue;
  const bool plain = p.splits > 1 || (!e.bias && !e.residual && !e.preactivation && e.activation == Activation::none);
  return plain && int64_t{p.n} * (to.half ? 2 : 4) % 16 == 0 && reinterpret_cast<uintptr_t>(to.data) % 16 == 0 && step % p.n == 0 && step >= int64_t{p.m} * p.n;
}

int64_t tile_count(const Product& p, int rows, int columns) {
  return tile_slots(p, rows) * ceil_divide(p.n, columns) * (p.schedule == Schedule::row_groups ? 1 : int64_t{p.count} * p.splits);
}

// By the sizes alone, as all that decides about results. A tile of 256 columns does twice the work of one of 128 in about 1.5 times the time, by
// what it reads of shared memory and L2; two that share b in a tenth less. The last wave of tiles counts too: it takes as long as the others.
WgmmaTile choose_tile(const Product& p) {
  const auto time = [&](int rows, int columns, int64_t at_once, int64_t wave) { return ceil_divide(tile_count(p, rows, columns), at_once) * wave; };
  const int64_t narrow = time(kTileRows, 128, kFullWave, 20), wide = time(kTileRows, 256, kFullWave, 30), pair = time(2 * kTileRows, 256, kFullWave / 2, 27);
  if (p.n <= 128 || (narrow < wide && narrow < pair)) return WgmmaTile::narrow;
  return pair <= wide ? WgmmaTile::pair : WgmmaTile::wide;
}

}  // namespace

bool gemm_wgmma(const Context& context, const Rows<bf16>& a, bool a_by_depth, const Rows<bf16>& b, bool b_by_depth, const Product& p) {
  if (!context.wgmma || p.placement.columns != 0 || a.index || b.index || p.k == 0) return false;
  if (p.schedule == Schedule::depth_groups && (a_by_depth || b_by_depth)) return false;  // no op has groups of k along rows
  const CUtensorMap a_map = encode(a, a_by_depth, p.count, p.m, p.k), b_map = encode(b, b_by_depth, p.count, p.n, p.k);
  const Floats to = p.splits > 1 ? Floats(p.partials) : p.c;
  const int results = p.schedule == Schedule::row_groups ? 1 : p.count * p.splits;
  const int64_t step = p.splits > 1 || results == 1 ? int64_t{p.m} * p.n : p.c_step;
  const bool by_engine = suits_engine(p, to, step);
  CUtensorMap c_map{};
  if (by_engine) c_map = encode_boxes<3>(to, {p.n, p.m, results}, {p.n, step}, {to.half ? 64 : 32, 64, 1});
  const WgmmaTile tile = context.wgmma_tile == WgmmaTile::by_size ? choose_tile(p) : context.wgmma_tile;
  const int columns = tile == WgmmaTile::narrow ? 128 : 256, cluster = tile == WgmmaTile::pair ? 2 : 1;
  const WgmmaKernel kernel = (columns == 256 ? gemm_wgmma_256 : gemm_wgmma_128)(!a_by_depth, !b_by_depth);
  Shape shape{static_cast<unsigned>(cluster), kWgmmaThreads, columns == 256 ? kWgmmaShared<256> : kWgmmaShared<128>, static_cast<unsigned>(cluster)};
  const int64_t tiles = tile_count(p, kTileRows * cluster, columns), most = resident_clusters(context, shape, kernel);
  shape.grid = static_cast<unsigned>(tiles < most ? tiles : most) * shape.cluster;
  launch(context, shape, kernel, a_map, b_map, c_map, WgmmaProblem{cluster, a.step ? 1 : 0, b.step ? 1 : 0, by_engine, p});
  return true;
}

}  // namespace trefoil::cuda
