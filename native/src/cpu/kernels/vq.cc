// Vector quantisation (van den Oord et al. 2017, arXiv 1711.00937, equation 1): the nearest code of every row.
#include "packed_product.h"
#include "partial.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

constexpr int64_t kCodes = 8 * kTileColumns;  // codes whose scores are made and searched at a time

double squared_length(const float* x, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return total;
}

double squared_distance(const float* x, const float* code, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double d = static_cast<double>(x[i]) - static_cast<double>(code[i]);
    total += d * d;
  }
  return total;
}

struct Nearest {
  float score;      // the least so far of |e|² - 2 x·e in f32
  float slack;      // how far scores may be off, twice
  double distance;  // of the nearest so far
  int32_t index;
};

struct Lookup {
  const float* codebook;
  const float* lengths;  // |e|² of every code
  int64_t width;         // D
};

// Codes [first, first + count). Every code whose score could still be the least, rounding considered, is measured in f64.
void search(const Lookup& lookup, const float* x, const float* products, int64_t first, int64_t count, Nearest& nearest) {
  for (int64_t j = 0; j < count; j += Vec::width) {
    const int lanes = lanes_left(count, j);
    const Vec scores = fnma(splat(2.0f), load_part(products + j, lanes), load_part(lookup.lengths + first + j, lanes));
    if (!any(less_equal(scores, splat(nearest.score + nearest.slack)))) continue;
    float score[Vec::width];
    store(score, scores);
    for (int i = 0; i < lanes; ++i) {
      if (!(score[i] <= nearest.score + nearest.slack)) continue;
      if (score[i] < nearest.score) nearest.score = score[i];
      const int64_t code = first + j + i;
      const double distance = squared_distance(x, lookup.codebook + code * lookup.width, lookup.width);
      if (distance < nearest.distance) {
        nearest.distance = distance;
        nearest.index = static_cast<int32_t>(code);
      }
    }
  }
}

int64_t lengths_bytes(int64_t codes) { return round_up(codes * static_cast<int64_t>(sizeof(float)), 64); }

size_t vq_lookup_workspace(const TrefoilLaunch& launch) {
  const TrefoilView& codebook = launch.inputs[1];
  return static_cast<size_t>(lengths_bytes(codebook.shape[0])) + packed_right_bytes(codebook.shape[1], codebook.shape[0]);
}

void vq_lookup(Context& context, const TrefoilLaunch& launch) {
  const TrefoilView &x = launch.inputs[0], &codebook = launch.inputs[1];
  int32_t* index = data<int32_t>(launch.outputs[0]);
  float* distance = launch.output_count > 1 ? data<float>(launch.outputs[1]) : nullptr;
  const int64_t rows = x.shape[0], width = x.shape[1], codes = codebook.shape[0];
  if (rows == 0) return;
  if (codes == 0) fail(TREFOIL_INVALID_ARGUMENT, "vq_lookup: the codebook has no codes to choose from");
  float* lengths = static_cast<float*>(launch.workspace);
  float* packed = reinterpret_cast<float*>(static_cast<char*>(launch.workspace) + lengths_bytes(codes));
  const Lookup lookup{data<float>(codebook), lengths, width};
  constexpr int64_t grain = 256;
  context.parallel(ceil_div(codes, grain), [&](int64_t task) {
    for (int64_t v = task * grain; v < at_most(task * grain + grain, codes); ++v)
      lengths[v] = static_cast<float>(squared_length(lookup.codebook + v * width, width));
  });
  double longest = 0;
  for (int64_t v = 0; v < codes; ++v)
    if (static_cast<double>(lengths[v]) > longest) longest = static_cast<double>(lengths[v]);
  pack_right(context, {codebook.data, width, true, false, nullptr}, width, codes, packed);

  const Depth cut(width);
  const Matrix left{x.data, width, false, false, nullptr};
  const int64_t row_tile = at_most(round_up(ceil_div(rows, kTasks), kTileRows), kBlockRows), padded = round_up(codes, kTileColumns);
  context.parallel(ceil_div(rows, row_tile), [&](int64_t task) {
    const int64_t row = task * row_tile, count = at_most(rows - row, row_tile);
    const int64_t panels = panel_count(count) + 1, block_floats = panels * panel_stride(cut.depth);
    Nearest* nearest = static_cast<Nearest*>(context.scratch(4, static_cast<size_t>(count) * sizeof(Nearest)));
    float* products = static_cast<float*>(context.scratch(5, static_cast<size_t>(kTileRows * kCodes) * sizeof(float)));
    float* a = static_cast<float*>(context.scratch(6, static_cast<size_t>(cut.blocks * block_floats + 1) * sizeof(float)));
    for (int64_t block = 0; block < cut.blocks; ++block)
      pack_a(left, row, count, block * cut.depth, at_most(width - block * cut.depth, cut.depth), a + block * block_floats);
    for (int64_t i = 0; i < count; ++i) {
      // A chain of D fused multiply-adds is off by at most D 2^-24 |x| |e|, |e|² and the last step by 2^-24 of their sizes.
      const double length = ::sqrt(squared_length(data<float>(x) + (row + i) * width, width)) * ::sqrt(longest);
      const double error = 0x1p-24 * (2.0 * static_cast<double>(width + 4) * length + 4.0 * longest);
      nearest[i] = {HUGE_VALF, static_cast<float>(2.001 * error), HUGE_VAL, 0};
    }
    const int64_t strip = round_up(at_least(strip_columns(cut.depth), kCodes), kCodes);  // stays in L2 for all rows
    for (int64_t first = 0; first < codes; first += strip)
      for (int64_t i = 0, panel = 0; i < count; ++panel) {
        const int height = panel_rows(count - i);
        for (int64_t code = first; code < at_most(first + strip, codes); code += kCodes) {
          const int64_t together = at_most(codes - code, kCodes);
          for (int64_t block = 0; block < cut.blocks; ++block) {
            const int64_t k0 = block * cut.depth, depth = at_most(width - k0, cut.depth);
            multiply_packed<Walk::rows>(a + block * block_floats + panel * panel_stride(depth), height, packed + k0 * padded + code * depth,
                                        together, depth, products, kCodes, block > 0);
          }
          if (cut.blocks == 0) memset(products, 0, static_cast<size_t>(kTileRows * kCodes) * sizeof(float));
          for (int r = 0; r < height; ++r)
            search(lookup, data<float>(x) + (row + i + r) * width, products + r * kCodes, code, together, nearest[i + r]);
        }
        i += height;
      }
    for (int64_t i = 0; i < count; ++i) {
      if (index) index[row + i] = nearest[i].index;
      if (!distance) continue;
      // Not measured yet only where every score is NaN.
      const double found = nearest[i].distance < HUGE_VAL
                               ? nearest[i].distance
                               : squared_distance(data<float>(x) + (row + i) * width, lookup.codebook + nearest[i].index * width, width);
      distance[row + i] = static_cast<float>(found);
    }
  });
}

}  // namespace

extern const KernelEntry vq_kernels[];
const KernelEntry vq_kernels[] = {{"vq_lookup", vq_lookup, vq_lookup_workspace}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
