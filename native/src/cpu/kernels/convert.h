// Blocks of any dtype to f32 and back. Plain loops: the compiler vectorises them at every ISA.
#pragma once
#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

inline int64_t element_bytes(int32_t dtype) {
  switch (dtype) {
    case TREFOIL_F32:
    case TREFOIL_I32: return 4;
    case TREFOIL_BF16: return 2;
    case TREFOIL_U8: return 1;
    default: fail(TREFOIL_INVALID_ARGUMENT, "unknown dtype %d", dtype);
  }
}

// Truncates towards zero; what i32 cannot hold goes to its nearest end, NaN to 0.
inline int32_t truncate_to_i32(float x) {
  if (x >= 2147483648.0f) return INT32_MAX;
  if (x <= -2147483648.0f) return INT32_MIN;
  return x == x ? static_cast<int32_t>(x) : 0;
}

// to[0, n) = f32 of elements [offset, offset + n) of base.
inline void widen(int32_t dtype, const void* base, int64_t offset, float* __restrict to, int64_t n) {
  if (dtype == TREFOIL_F32) {
    memcpy(to, static_cast<const float*>(base) + offset, static_cast<size_t>(n) * 4);
  } else if (dtype == TREFOIL_BF16) {
    const uint16_t* __restrict from = static_cast<const uint16_t*>(base) + offset;
    for (int64_t i = 0; i < n; ++i) {
      uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
      memcpy(to + i, &bits, 4);
    }
  } else if (dtype == TREFOIL_I32) {
    const int32_t* __restrict from = static_cast<const int32_t*>(base) + offset;
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(from[i]);
  } else {
    const uint8_t* __restrict from = static_cast<const uint8_t*>(base) + offset;
    for (int64_t i = 0; i < n; ++i) to[i] = from[i];
  }
}

// Elements [offset, offset + n) of base = from[0, n), rounded to nearest even (bf16) or truncated (i32, u8).
inline void narrow(int32_t dtype, const float* __restrict from, void* base, int64_t offset, int64_t n) {
  if (dtype == TREFOIL_F32) {
    memcpy(static_cast<float*>(base) + offset, from, static_cast<size_t>(n) * 4);
  } else if (dtype == TREFOIL_BF16) {
    uint16_t* __restrict to = static_cast<uint16_t*>(base) + offset;
    for (int64_t i = 0; i < n; ++i) {
      uint32_t bits;
      memcpy(&bits, from + i, 4);
      uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
      uint32_t kept = (bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : rounded;
      to[i] = static_cast<uint16_t>(kept >> 16);
    }
  } else if (dtype == TREFOIL_I32) {
    int32_t* __restrict to = static_cast<int32_t*>(base) + offset;
    for (int64_t i = 0; i < n; ++i) to[i] = truncate_to_i32(from[i]);
  } else {
    uint8_t* __restrict to = static_cast<uint8_t*>(base) + offset;
    for (int64_t i = 0; i < n; ++i) {
      int32_t value = truncate_to_i32(from[i]);
      to[i] = static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
    }
  }
}

}  // namespace trefoil::cpu::TREFOIL_ISA
