// Vectors at the end of a row. Full ones take the plain path: masked stores are slow on AVX2.
#pragma once
#include "simd.h"

namespace trefoil::cpu::TREFOIL_ISA {

// Lanes that [at, count) still fills: width, or fewer at the end.
inline int lanes_left(int64_t count, int64_t at) { return count - at < Vec::width ? static_cast<int>(count - at) : Vec::width; }
inline Vec load_part(const float* p, int lanes) { return lanes == Vec::width ? load(p) : load_n(p, lanes); }
inline void store_part(float* p, Vec a, int lanes) {
  if (lanes == Vec::width)
    store(p, a);
  else
    store_n(p, a, lanes);
}

}  // namespace trefoil::cpu::TREFOIL_ISA
