// Division by a number that is known when a kernel is launched, without the subroutine that 64 bits take otherwise: loads around it can be
// under way at once.
#pragma once
#include "language.h"

namespace trefoil::cuda {

struct Divided {
  int64_t quotient, remainder;
};

struct Divisor {
  int64_t value;
  uint64_t inverse;  // of 2^64, rounded down

  Divisor() : Divisor(1) {}
  explicit Divisor(int64_t divisor) : value(divisor > 0 ? divisor : 1), inverse(~uint64_t{0} / static_cast<uint64_t>(value)) {}

  // n >= 0. The product's upper half is the quotient or one less.
  __device__ __forceinline__ Divided divide(int64_t n) const {
    const auto quotient = static_cast<int64_t>(__umul64hi(static_cast<uint64_t>(n), inverse));
    const int64_t remainder = n - quotient * value;
    return remainder < value ? Divided{quotient, remainder} : Divided{quotient + 1, remainder - value};
  }
};

}  // namespace trefoil::cuda
