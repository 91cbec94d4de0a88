// Attention problems for the tests, and their answers by a dense reference in double precision.
#pragma once
#include <cstring>

#include "numeric.h"

namespace trefoil::test {

struct Case {
  int64_t batch, queries, keys, heads, groups, size;
  bool causal = false;
  std::vector<int32_t> key_lengths = {};
  std::vector<int32_t> segments = {};  // [batch * keys]
  bool bf16 = false;
  float magnitude = 1.0f;
};

inline uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline float from_bf16(uint16_t bits) {
  uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

struct Problem {
  Case c;
  double scale;
  F32 q, k, v, dout;
  BF16 k_half, v_half;
  I32 lengths, segments;

  explicit Problem(const Case& c, int seed = 1) : c(c), scale(1 / std::sqrt(static_cast<double>(c.size))) {
    std::mt19937 generator(seed);
    q = normal(generator, {c.batch, c.queries, c.heads, c.size}, c.magnitude);
    k = normal(generator, {c.batch, c.keys, c.groups, c.size});
    v = normal(generator, {c.batch, c.keys, c.groups, c.size});
    dout = normal(generator, q.shape);
    if (c.bf16) {
      k_half = BF16(k.shape);
      v_half = BF16(v.shape);
      for (size_t i = 0; i < k.size(); ++i) {
        k_half[i] = to_bf16(k[i]);
        k[i] = from_bf16(k_half[i]);
        v_half[i] = to_bf16(v[i]);
        v[i] = from_bf16(v_half[i]);
      }
    }
    if (!c.key_lengths.empty()) lengths = I32({c.batch}, c.key_lengths);
    if (!c.segments.empty()) segments = I32({c.batch, c.keys}, c.segments);
  }

  TrefoilView k_view() { return c.bf16 ? view(k_half) : view(k); }
  TrefoilView v_view() { return c.bf16 ? view(v_half) : view(v); }
  TrefoilView lengths_view() { return c.key_lengths.empty() ? absent() : view(lengths); }
  TrefoilView segments_view() { return c.segments.empty() ? absent() : view(segments); }
  std::vector<double> attributes() const { return {double(c.causal), scale}; }

  bool sees(int64_t b, int64_t i, int64_t j) const {
    int64_t n = c.key_lengths.empty() ? c.keys : c.key_lengths[b];
    if (j >= n || (c.causal && j > n - c.queries + i)) return false;
    return c.segments.empty() || c.segments[b * c.keys + i] == c.segments[b * c.keys + j];
  }
};

struct Results {
  F32 out, lse, dq, dk, dv;
};

// Of dq, dk and dv those that `read` has a bit for: the others stay NaN.
inline Results run(Device& device, Problem& p, unsigned read = 7) {
  Results r{F32(p.q.shape), F32({p.c.batch, p.c.heads, p.c.queries}), F32(p.q.shape), F32(p.k.shape), F32(p.k.shape)};
  for (F32* output : {&r.out, &r.lse, &r.dq, &r.dk, &r.dv}) std::fill(output->values.begin(), output->values.end(), kNaN);
  launch(device, "attention", {view(p.q), p.k_view(), p.v_view(), p.lengths_view(), p.segments_view()}, {view(r.out), view(r.lse)},
         p.attributes());
  launch(device, "attention_grad",
         {view(p.dout), view(p.q), p.k_view(), p.v_view(), view(r.out), view(r.lse), p.lengths_view(), p.segments_view()},
         {read & 1 ? view(r.dq) : absent(), read & 2 ? view(r.dk) : absent(), read & 4 ? view(r.dv) : absent()}, p.attributes());
  return r;
}

// `most`: the sums with every term's size, and in those of slopes the sizes that delta is a sum of. What rounding is measured by.
struct Reference {
  Doubles out, lse, dq, dk, dv;
  Doubles most_out, most_dq, most_dk, most_dv;
};

// Dense, one query at a time, with the gradient of softmax written out.
inline Reference reference(const Problem& p, const Doubles& q, const Doubles& k, const Doubles& v, const Doubles& dout) {
  const Case& c = p.c;
  Reference r{Doubles(q.size()), Doubles(c.batch * c.heads * c.queries), Doubles(q.size()), Doubles(k.size()), Doubles(v.size()),
              Doubles(q.size()), Doubles(q.size()), Doubles(k.size()), Doubles(v.size())};
  for (int64_t b = 0; b < c.batch; ++b)
    for (int64_t head = 0; head < c.heads; ++head)
      for (int64_t i = 0; i < c.queries; ++i) {
        int64_t group = head / (c.heads / c.groups), at = ((b * c.queries + i) * c.heads + head) * c.size;
        auto key = [&](int64_t j) { return ((b * c.keys + j) * c.groups + group) * c.size; };
        double top = -INFINITY, total = 0, delta = 0;
        Doubles score(c.keys, -INFINITY), slope(c.keys);
        for (int64_t j = 0; j < c.keys; ++j) {
          if (!p.sees(b, i, j)) continue;
          score[j] = 0;
          for (int64_t d = 0; d < c.size; ++d) score[j] += q[at + d] * k[key(j) + d];
          score[j] *= p.scale;
          top = std::max(top, score[j]);
        }
        for (double s : score) total += s == -INFINITY ? 0 : std::exp(s - top);
        r.lse[(b * c.heads + head) * c.queries + i] = total == 0 ? -INFINITY : top + std::log(total);
        for (int64_t j = 0; j < c.keys; ++j) {
          double probability = score[j] == -INFINITY ? 0 : std::exp(score[j] - top) / total;
          score[j] = probability;
          for (int64_t d = 0; d < c.size; ++d) {
            r.out[at + d] += probability * v[key(j) + d];
            r.most_out[at + d] += probability * std::fabs(v[key(j) + d]);
            slope[j] += dout[at + d] * v[key(j) + d];
          }
          delta += probability * slope[j];
        }
        double cancelled = 0;
        for (int64_t d = 0; d < c.size; ++d) cancelled += std::fabs(dout[at + d]) * r.most_out[at + d];
        for (int64_t j = 0; j < c.keys; ++j)
          for (int64_t d = 0; d < c.size; ++d) {
            double dscore = score[j] * (slope[j] - delta) * p.scale, most = std::fabs(dscore) + score[j] * cancelled * std::fabs(p.scale);
            r.dv[key(j) + d] += score[j] * dout[at + d];
            r.dq[at + d] += dscore * k[key(j) + d];
            r.dk[key(j) + d] += dscore * q[at + d];
            r.most_dv[key(j) + d] += score[j] * std::fabs(dout[at + d]);
            r.most_dq[at + d] += most * std::fabs(k[key(j) + d]);
            r.most_dk[key(j) + d] += most * std::fabs(q[at + d]);
          }
      }
  return r;
}
inline Reference reference(const Problem& p) { return reference(p, doubles(p.q), doubles(p.k), doubles(p.v), doubles(p.dout)); }

// Runs end elsewhere in each batch: with other names alone the same keys would be seen.
inline std::vector<int32_t> runs_of_segments(int64_t batch, int64_t keys, std::vector<int32_t> names, int64_t run) {
  std::vector<int32_t> result;
  for (int64_t i = 0; i < batch * keys; ++i) result.push_back(names[static_cast<size_t>((i % keys + i / keys * (run / 2)) / run) % names.size()]);
  return result;
}

}  // namespace trefoil::test
