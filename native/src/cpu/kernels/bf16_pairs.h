// Pairs of bf16 in the 32 bits of an f32 lane, the first of each in the low half: made of rounded f32, multiplied, and summed up in f32.
#pragma once
#include "../simd.h"
#include "bf16_products.h"
#include "convert.h"

namespace trefoil::cpu::TREFOIL_ISA {

// sum + the two products of every pair.
#if defined(__AVX512BF16__)
inline Vec add_products(Vec sum, Vec left, Vec right) {
  return {_mm512_dpbf16_ps(sum.v, (__m512bh)left.v, (__m512bh)right.v)};
}
#elif defined(TREFOIL_ISA_NEON) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
inline Vec add_products(Vec sum, Vec left, Vec right) {
  return {vbfdotq_f32(sum.v, vreinterpretq_bf16_f32(left.v), vreinterpretq_bf16_f32(right.v))};
}
#else
inline Vec add_products(Vec sum, Vec left, Vec right) {
  return fma(low_bf16(left), low_bf16(right), fma(high_bf16(left), high_bf16(right), sum));
}
#endif

// The pairs (even[lane], odd[lane]); and those of neighbours in the lanes of one vector and then of another.
#if defined(__AVX512BF16__)
inline Vec neighbours(Vec first, Vec second) { return {(__m512)_mm512_cvtne2ps_pbh(second.v, first.v)}; }
inline Vec interleaved(Vec even, Vec odd) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return {_mm512_castsi512_ps(_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd.v, even.v)))};
}
// Of a row of so many numbers.
inline Vec load_pairs_of_row(const float* row, int64_t count) {
  if (count >= 32) return neighbours(load(row), load(row + 16));
  const int first = count < 16 ? static_cast<int>(count) : 16;
  return neighbours(load_n(row, first), load_n(row + 16, static_cast<int>(count) - first));
}
#endif

// to[i] = the pair (from[2 i], from[2 i + 1]).
inline void pack_row(const float* from, int64_t count, float* to) {
  int64_t i = 0;
#if defined(__AVX512BF16__)
  for (; i + 32 <= count; i += 32) store(to + i / 2, load_pairs_of_row(from + i, 32));
  if (i < count) store_n(to + i / 2, load_pairs_of_row(from + i, count - i), static_cast<int>(pairs(count - i)));
#else
  constexpr int64_t kChunk = 64;
  for (uint16_t rounded[kChunk]; i < count; i += kChunk) {
    const int64_t some = count - i < kChunk ? count - i : kChunk;
    rounded[some - 1 + some % 2] = 0;
    narrow(TREFOIL_BF16, from + i, rounded, 0, some);
    memcpy(to + i / 2, rounded, static_cast<size_t>(pairs(some)) * 4);
  }
#endif
}
inline void pack_row(const uint16_t* from, int64_t count, float* to) {
  memcpy(to, from, static_cast<size_t>(count / 2) * 4);
  if (count % 2 == 0) return;
  const uint32_t last = from[count - 1];
  memcpy(to + count / 2, &last, 4);
}

inline uint32_t bf16_bits(uint16_t x) { return x; }
inline uint32_t bf16_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return ((bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : rounded) >> 16;
}

// to[j] = the pair (first[j], second[j]); without a second row zeros take its place.
template <class T>
void pack_two_rows(const T* first, const T* second, int64_t count, float* to) {
  int64_t j = 0;
#if defined(__AVX512BF16__)
  if constexpr (sizeof(T) == 4) {
    for (; j + 16 <= count; j += 16) store(to + j, interleaved(load(first + j), second ? load(second + j) : splat(0.0f)));
    if (j < count) {
      const int lanes = static_cast<int>(count - j);
      return store_n(to + j, interleaved(load_n(first + j, lanes), second ? load_n(second + j, lanes) : splat(0.0f)), lanes);
    }
  }
#endif
  for (; second && j < count; ++j) {
    const uint32_t pair = bf16_bits(first[j]) | bf16_bits(second[j]) << 16;
    memcpy(to + j, &pair, 4);
  }
  for (; j < count; ++j) {
    const uint32_t pair = bf16_bits(first[j]);
    memcpy(to + j, &pair, 4);
  }
}

}  // namespace trefoil::cpu::TREFOIL_ISA
