// How an operand of a product lies in memory. Plain data: the same for every instruction set.
#pragma once
#include <cstdint>

namespace trefoil::cpu {

// A row-major matrix in memory, f32 or bf16, perhaps read through a list of rows.
struct Matrix {
  const void* data = nullptr;
  int64_t stride = 0;              // elements from one stored row to the next
  bool transposed = false;         // the operand is the transpose of what is stored
  bool bf16 = false;
  const int32_t* rows = nullptr;   // stored row r is data[rows[r]]; for b only where it is not transposed
};

}  // namespace trefoil::cpu
