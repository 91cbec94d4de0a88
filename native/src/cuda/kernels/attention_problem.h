// What attention is asked for, as every kernel of it sees it. Rows of a key-value head are its (query, head) pairs, so that keys and
// values are read once for all heads that share them.
#pragma once
#include "kernel.h"

namespace trefoil::cuda {

struct Attention {
  int64_t batch, queries, keys, heads, groups, size;
  int64_t shared_heads, rows;  // heads per key-value head; rows = queries * shared_heads
  float scale;
  bool causal;
  const int32_t *key_lengths, *segments;

  __device__ __forceinline__ int64_t length(int64_t b) const {
    const int64_t n = key_lengths ? key_lengths[b] : keys;
    return n < 0 ? 0 : n > keys ? keys : n;
  }
  // Keys before this one are visible to the query.
  __device__ __forceinline__ int64_t limit(int64_t n, int64_t query) const {
    if (!causal) return n;
    const int64_t end = n - queries + query + 1;
    return end < 0 ? 0 : end < n ? end : n;
  }
  // The first row whose limit lies past this key.
  __device__ __forceinline__ int64_t first_row(int64_t n, int64_t key) const {
    const int64_t query = causal ? key - (n - queries) : 0;
    return query > 0 ? query * shared_heads : 0;
  }
  // The first element of row r of key-value head g in q, out, …
  __device__ __forceinline__ int64_t row_at(int64_t b, int64_t g, int64_t r) const {
    const int64_t query = r / shared_heads;
    return ((b * queries + query) * heads + g * shared_heads + (r - query * shared_heads)) * size;
  }
  __device__ __forceinline__ int64_t statistic_at(int64_t b, int64_t g, int64_t r) const {
    const int64_t query = r / shared_heads;
    return (b * heads + g * shared_heads + (r - query * shared_heads)) * queries + query;
  }
  __device__ __forceinline__ int64_t key_at(int64_t b, int64_t g, int64_t j) const { return ((b * keys + j) * groups + g) * size; }
  __device__ __forceinline__ bool sees(int64_t b, int64_t query, int64_t end, int64_t j) const {
    return j < end && (!segments || segments[b * keys + query] == segments[b * keys + j]);
  }
};

}  // namespace trefoil::cuda
