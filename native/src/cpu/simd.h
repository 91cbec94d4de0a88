// Vectors of f32, one width per ISA: the only file with intrinsics besides the matmul micro-kernels.
// Include it inside kernel files only; everything lives in the namespace of the ISA being compiled.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(TREFOIL_ISA_AVX512) || defined(TREFOIL_ISA_AVX2)
#include <immintrin.h>
#elif defined(TREFOIL_ISA_NEON)
#include <arm_neon.h>
#endif

namespace trefoil::cpu::TREFOIL_ISA {

#if defined(TREFOIL_ISA_AVX512)
struct Vec {
  static constexpr int width = 16;
  __m512 v;
};
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
// Past the caches, where a vector is a whole line; p is aligned to it. stream_fence before others may read it.
constexpr bool kStreams = true;
inline void stream(float* p, Vec a) { _mm512_stream_ps(p, a.v); }
inline void stream_fence() { _mm_sfence(); }
// First n lanes, 0 <= n <= width; the others read as 0 / are left alone.
inline Vec load_n(const float* p, int n) { return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p)}; }
inline void store_n(float* p, Vec a, int n) { _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), a.v); }
inline Vec splat(float x) { return {_mm512_set1_ps(x)}; }
inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }    // a*b + c
inline Vec fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a*b
// max/min return b where either is NaN; write max(bound, x) to keep a NaN in x.
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
inline Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Vec floor(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
struct Mask {
  __mmask16 m;
};
inline Mask less(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask less_equal(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
inline Mask equal(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline Vec select(Mask m, Vec yes, Vec no) { return {_mm512_mask_blend_ps(m.m, no.v, yes.v)}; }
inline bool any(Mask m) { return m.m != 0; }
// 2^n for integral n, clamped so that the exponent stays representable: -126..127.
inline Vec exp2_integer(Vec n) {
  __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(e, 23))};
}
// x * 2^n for integral n; exact where the result is normal. Below that it is rounded if kScaleUnderflows, else anything.
constexpr bool kScaleUnderflows = true;
inline Vec scale_exponent(Vec x, Vec n) { return {_mm512_scalef_ps(x.v, n.v)}; }
// x = m * 2^e with m in [1, 2); x positive and normal.
inline Vec mantissa(Vec x) {
  __m512i bits = _mm512_castps_si512(x.v);
  return {_mm512_castsi512_ps(_mm512_or_si512(_mm512_and_si512(bits, _mm512_set1_epi32(0x007fffff)), _mm512_set1_epi32(0x3f800000)))};
}
inline Vec exponent(Vec x) {
  __m512i bits = _mm512_castps_si512(x.v);
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_srli_epi32(bits, 23), _mm512_set1_epi32(127)))};
}
inline Vec load_bf16(const uint16_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16))};
}
// Of two bf16 in each lane, the one in the low or the high half.
inline Vec low_bf16(Vec a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a.v), 16))}; }
inline Vec high_bf16(Vec a) { return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(static_cast<int>(0xffff0000u))))}; }
// Lane sums in one fixed order, so that a reduction is repeatable.
inline float sum(Vec a) {
  __m256 low = _mm512_castps512_ps256(a.v);
  __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1));
  __m256 s8 = _mm256_add_ps(low, high);
  __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  s4 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s4, _mm_movehdup_ps(s4)));
}
inline float max_lane(Vec a) {
  __m256 low = _mm512_castps512_ps256(a.v);
  __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1));
  __m256 s8 = _mm256_max_ps(low, high);
  __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  s4 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s4, _mm_movehdup_ps(s4)));
}
// to[0..3] = the sums of the lanes of a, b, c and d.
inline void sums_of_four(Vec a, Vec b, Vec c, Vec d, float* to) {
  __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a.v, b.v), _mm512_unpackhi_ps(a.v, b.v));
  __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c.v, d.v), _mm512_unpackhi_ps(c.v, d.v));
  __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}
// rows[i] lane j <-> rows[j] lane i, for width rows.
inline void transpose(Vec* rows) {
  __m512d t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_castps_pd(_mm512_unpacklo_ps(rows[i].v, rows[i + 1].v));
    t[i + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(rows[i].v, rows[i + 1].v));
  }
  __m512 u[16];  // u[4i + j]: in its 128-bit lane L, column 4L + j of rows 4i to 4i + 3
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    u[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(t[i], t[i + 2]));
    u[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(t[i], t[i + 2]));
    u[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(t[i + 1], t[i + 3]));
    u[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(t[i + 1], t[i + 3]));
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    __m512 even_top = _mm512_shuffle_f32x4(u[j], u[4 + j], 0x88), odd_top = _mm512_shuffle_f32x4(u[j], u[4 + j], 0xdd);
    __m512 even_low = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0x88), odd_low = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0xdd);
    rows[j].v = _mm512_shuffle_f32x4(even_top, even_low, 0x88);
    rows[4 + j].v = _mm512_shuffle_f32x4(odd_top, odd_low, 0x88);
    rows[8 + j].v = _mm512_shuffle_f32x4(even_top, even_low, 0xdd);
    rows[12 + j].v = _mm512_shuffle_f32x4(odd_top, odd_low, 0xdd);
  }
}

#elif defined(TREFOIL_ISA_AVX2)
struct Vec {
  static constexpr int width = 8;
  __m256 v;
};
inline __m256i lane_mask(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
constexpr bool kStreams = false;
inline void stream(float* p, Vec a) { store(p, a); }
inline void stream_fence() {}
inline Vec load_n(const float* p, int n) { return {_mm256_maskload_ps(p, lane_mask(n))}; }
inline void store_n(float* p, Vec a, int n) { _mm256_maskstore_ps(p, lane_mask(n), a.v); }
inline Vec splat(float x) { return {_mm256_set1_ps(x)}; }
inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec fnma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
inline Vec round(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Vec floor(Vec a) { return {_mm256_floor_ps(a.v)}; }
struct Mask {
  __m256 m;
};
inline Mask less(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask less_equal(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
inline Mask equal(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
inline Vec select(Mask m, Vec yes, Vec no) { return {_mm256_blendv_ps(no.v, yes.v, m.m)}; }
inline bool any(Mask m) { return _mm256_movemask_ps(m.m) != 0; }
inline Vec exp2_integer(Vec n) {
  __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(e, 23))};
}
constexpr bool kScaleUnderflows = false;
inline Vec scale_exponent(Vec x, Vec n) {
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x.v), _mm256_slli_epi32(_mm256_cvtps_epi32(n.v), 23)))};
}
inline Vec mantissa(Vec x) {
  __m256i bits = _mm256_castps_si256(x.v);
  return {_mm256_castsi256_ps(_mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x007fffff)), _mm256_set1_epi32(0x3f800000)))};
}
inline Vec exponent(Vec x) {
  __m256i bits = _mm256_castps_si256(x.v);
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(127)))};
}
inline Vec load_bf16(const uint16_t* p) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16))};
}
inline Vec low_bf16(Vec a) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a.v), 16))}; }
inline Vec high_bf16(Vec a) { return {_mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(a.v), _mm256_set1_epi32(static_cast<int>(0xffff0000u))))}; }
inline float sum(Vec a) {
  __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s4 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s4, _mm_movehdup_ps(s4)));
}
inline float max_lane(Vec a) {
  __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s4 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s4, _mm_movehdup_ps(s4)));
}
inline void sums_of_four(Vec a, Vec b, Vec c, Vec d, float* to) {
  __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v));
  __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c.v, d.v), _mm256_unpackhi_ps(c.v, d.v));
  __m256 all = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}
inline void transpose(Vec* rows) {
  __m256d t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_castps_pd(_mm256_unpacklo_ps(rows[i].v, rows[i + 1].v));
    t[i + 1] = _mm256_castps_pd(_mm256_unpackhi_ps(rows[i].v, rows[i + 1].v));
  }
  __m256 u[8];  // u[4i + j]: in its 128-bit lane L, column 4L + j of rows 4i to 4i + 3
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(t[i], t[i + 2]));
    u[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(t[i], t[i + 2]));
    u[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(t[i + 1], t[i + 3]));
    u[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(t[i + 1], t[i + 3]));
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    rows[j].v = _mm256_permute2f128_ps(u[j], u[4 + j], 0x20);
    rows[4 + j].v = _mm256_permute2f128_ps(u[j], u[4 + j], 0x31);
  }
}

#elif defined(TREFOIL_ISA_NEON)
struct Vec {
  static constexpr int width = 4;
  float32x4_t v;
};
inline Vec load(const float* p) { return {vld1q_f32(p)}; }
inline void store(float* p, Vec a) { vst1q_f32(p, a.v); }
constexpr bool kStreams = false;
inline void stream(float* p, Vec a) { store(p, a); }
inline void stream_fence() {}
inline Vec load_n(const float* p, int n) {
  float t[4] = {0, 0, 0, 0};
  for (int i = 0; i < n; ++i) t[i] = p[i];
  return {vld1q_f32(t)};
}
inline void store_n(float* p, Vec a, int n) {
  float t[4];
  vst1q_f32(t, a.v);
  for (int i = 0; i < n; ++i) p[i] = t[i];
}
inline Vec splat(float x) { return {vdupq_n_f32(x)}; }
inline Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
inline Vec fnma(Vec a, Vec b, Vec c) { return {vfmsq_f32(c.v, a.v, b.v)}; }
inline Vec max(Vec a, Vec b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
inline Vec sqrt(Vec a) { return {vsqrtq_f32(a.v)}; }
inline Vec round(Vec a) { return {vrndnq_f32(a.v)}; }
inline Vec floor(Vec a) { return {vrndmq_f32(a.v)}; }
struct Mask {
  uint32x4_t m;
};
inline Mask less(Vec a, Vec b) { return {vcltq_f32(a.v, b.v)}; }
inline Mask less_equal(Vec a, Vec b) { return {vcleq_f32(a.v, b.v)}; }
inline Mask equal(Vec a, Vec b) { return {vceqq_f32(a.v, b.v)}; }
inline Vec select(Mask m, Vec yes, Vec no) { return {vbslq_f32(m.m, yes.v, no.v)}; }
inline bool any(Mask m) { return vmaxvq_u32(m.m) != 0; }
inline Vec exp2_integer(Vec n) {
  return {vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v), vdupq_n_s32(127)), 23))};
}
constexpr bool kScaleUnderflows = false;
inline Vec scale_exponent(Vec x, Vec n) {
  return {vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x.v), vshlq_n_s32(vcvtnq_s32_f32(n.v), 23)))};
}
inline Vec mantissa(Vec x) {
  uint32x4_t bits = vreinterpretq_u32_f32(x.v);
  return {vreinterpretq_f32_u32(vorrq_u32(vandq_u32(bits, vdupq_n_u32(0x007fffffu)), vdupq_n_u32(0x3f800000u)))};
}
inline Vec exponent(Vec x) {
  return {vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_f32(x.v), 23)), vdupq_n_s32(127)))};
}
inline Vec load_bf16(const uint16_t* p) { return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))}; }
inline Vec low_bf16(Vec a) { return {vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(a.v), 16))}; }
inline Vec high_bf16(Vec a) { return {vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a.v), vdupq_n_u32(0xffff0000u)))}; }
inline float sum(Vec a) { return vaddvq_f32(a.v); }
inline float max_lane(Vec a) { return vmaxvq_f32(a.v); }
inline void sums_of_four(Vec a, Vec b, Vec c, Vec d, float* to) {
  vst1q_f32(to, vpaddq_f32(vpaddq_f32(a.v, b.v), vpaddq_f32(c.v, d.v)));
}
inline void transpose(Vec* rows) {
  float32x4_t a = vtrn1q_f32(rows[0].v, rows[1].v), b = vtrn2q_f32(rows[0].v, rows[1].v);
  float32x4_t c = vtrn1q_f32(rows[2].v, rows[3].v), d = vtrn2q_f32(rows[2].v, rows[3].v);
  rows[0].v = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
  rows[1].v = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
  rows[2].v = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
  rows[3].v = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
}

#else  // scalar: four lanes that any compiler can keep in SSE registers
struct Vec {
  static constexpr int width = 4;
  float v[4];
};
#define TREFOIL_LANES for (int i = 0; i < 4; ++i)
inline Vec load(const float* p) { Vec r; TREFOIL_LANES r.v[i] = p[i]; return r; }
inline void store(float* p, Vec a) { TREFOIL_LANES p[i] = a.v[i]; }
constexpr bool kStreams = false;
inline void stream(float* p, Vec a) { store(p, a); }
inline void stream_fence() {}
inline Vec load_n(const float* p, int n) { Vec r; TREFOIL_LANES r.v[i] = i < n ? p[i] : 0.0f; return r; }
inline void store_n(float* p, Vec a, int n) { for (int i = 0; i < n; ++i) p[i] = a.v[i]; }
inline Vec splat(float x) { Vec r; TREFOIL_LANES r.v[i] = x; return r; }
inline Vec operator+(Vec a, Vec b) { TREFOIL_LANES a.v[i] += b.v[i]; return a; }
inline Vec operator-(Vec a, Vec b) { TREFOIL_LANES a.v[i] -= b.v[i]; return a; }
inline Vec operator*(Vec a, Vec b) { TREFOIL_LANES a.v[i] *= b.v[i]; return a; }
inline Vec operator/(Vec a, Vec b) { TREFOIL_LANES a.v[i] /= b.v[i]; return a; }
inline Vec fma(Vec a, Vec b, Vec c) { TREFOIL_LANES c.v[i] += a.v[i] * b.v[i]; return c; }
inline Vec fnma(Vec a, Vec b, Vec c) { TREFOIL_LANES c.v[i] -= a.v[i] * b.v[i]; return c; }
inline Vec max(Vec a, Vec b) { TREFOIL_LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
inline Vec min(Vec a, Vec b) { TREFOIL_LANES a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
inline Vec sqrt(Vec a) { TREFOIL_LANES a.v[i] = ::sqrtf(a.v[i]); return a; }
inline Vec round(Vec a) { TREFOIL_LANES a.v[i] = ::nearbyintf(a.v[i]); return a; }
inline Vec floor(Vec a) { TREFOIL_LANES a.v[i] = ::floorf(a.v[i]); return a; }
struct Mask {
  bool m[4];
};
inline Mask less(Vec a, Vec b) { Mask r; TREFOIL_LANES r.m[i] = a.v[i] < b.v[i]; return r; }
inline Mask less_equal(Vec a, Vec b) { Mask r; TREFOIL_LANES r.m[i] = a.v[i] <= b.v[i]; return r; }
inline Mask equal(Vec a, Vec b) { Mask r; TREFOIL_LANES r.m[i] = a.v[i] == b.v[i]; return r; }
inline Vec select(Mask m, Vec yes, Vec no) { TREFOIL_LANES yes.v[i] = m.m[i] ? yes.v[i] : no.v[i]; return yes; }
inline bool any(Mask m) { return m.m[0] || m.m[1] || m.m[2] || m.m[3]; }
inline Vec exp2_integer(Vec n) {
  TREFOIL_LANES {
    uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23;
    memcpy(&n.v[i], &bits, 4);
  }
  return n;
}
constexpr bool kScaleUnderflows = false;
inline Vec scale_exponent(Vec x, Vec n) {
  TREFOIL_LANES {
    float shifted = n.v[i] + 12582912.0f;  // 1.5 * 2^23: n lands in the low bits, NaN included
    uint32_t bits, steps;
    memcpy(&bits, &x.v[i], 4);
    memcpy(&steps, &shifted, 4);
    bits += steps << 23;
    memcpy(&x.v[i], &bits, 4);
  }
  return x;
}
inline Vec mantissa(Vec x) {
  TREFOIL_LANES {
    uint32_t bits;
    memcpy(&bits, &x.v[i], 4);
    bits = (bits & 0x007fffffu) | 0x3f800000u;
    memcpy(&x.v[i], &bits, 4);
  }
  return x;
}
inline Vec exponent(Vec x) {
  TREFOIL_LANES {
    uint32_t bits;
    memcpy(&bits, &x.v[i], 4);
    x.v[i] = static_cast<float>(static_cast<int32_t>(bits >> 23) - 127);
  }
  return x;
}
inline Vec load_bf16(const uint16_t* p) {
  Vec r;
  TREFOIL_LANES {
    uint32_t bits = static_cast<uint32_t>(p[i]) << 16;
    memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
inline Vec low_bf16(Vec a) {
  TREFOIL_LANES {
    uint32_t bits;
    memcpy(&bits, &a.v[i], 4);
    bits <<= 16;
    memcpy(&a.v[i], &bits, 4);
  }
  return a;
}
inline Vec high_bf16(Vec a) {
  TREFOIL_LANES {
    uint32_t bits;
    memcpy(&bits, &a.v[i], 4);
    bits &= 0xffff0000u;
    memcpy(&a.v[i], &bits, 4);
  }
  return a;
}
inline float sum(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
inline float max_lane(Vec a) {
  float x = a.v[0] > a.v[1] ? a.v[0] : a.v[1], y = a.v[2] > a.v[3] ? a.v[2] : a.v[3];
  return x > y ? x : y;
}
inline void sums_of_four(Vec a, Vec b, Vec c, Vec d, float* to) {
  to[0] = sum(a), to[1] = sum(b), to[2] = sum(c), to[3] = sum(d);
}
inline void transpose(Vec* rows) {
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < i; ++j) {
      float swapped = rows[i].v[j];
      rows[i].v[j] = rows[j].v[i];
      rows[j].v[i] = swapped;
    }
}
#undef TREFOIL_LANES
#endif

// Asks for the cache lines of `count` elements: into the nearest cache (level 3) or the one behind it (2). GCC takes a function that only
// prefetches for one without effects and leaves out calls of it; the empty asm is an effect.
template <int level, class T>
inline void prefetch_row(const T* row, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(row + i, 0, level);
  asm volatile("");
}

}  // namespace trefoil::cpu::TREFOIL_ISA
