// Compiled once per ISA: the functions of vector_math.h applied to arrays.
#pragma once
#include <cstdint>

namespace trefoil::cpu {
// count is a multiple of 16, every ISA's vector width divides it.
struct VectorProbe {
  const char* name;
  void (*apply)(const float* x, float* y, int64_t count);
};
}  // namespace trefoil::cpu
