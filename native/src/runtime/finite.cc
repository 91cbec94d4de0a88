#include "runtime/finite.h"

#include "trefoil/backend.h"

namespace trefoil::runtime {

namespace {

// Not finite: all exponent bits are set. Blocks without a branch inside, so that the compiler vectorises.
template <class Bits>
size_t scan(const Bits* bits, size_t count, Bits exponent) {
  constexpr size_t kBlock = 1024;
  size_t start = 0;
  while (start < count) {
    size_t end = count - start < kBlock ? count : start + kBlock;
    Bits found = 0;
    for (size_t i = start; i < end; ++i) found |= static_cast<Bits>((bits[i] & exponent) == exponent);
    if (found)
      for (size_t i = start; i < end; ++i)
        if ((bits[i] & exponent) == exponent) return i;
    start = end;
  }
  return count;
}

}  // namespace

size_t first_non_finite(const void* data, size_t count, int32_t dtype) {
  if (dtype == TREFOIL_F32) return scan(static_cast<const uint32_t*>(data), count, uint32_t{0x7f800000});
  if (dtype == TREFOIL_BF16) return scan(static_cast<const uint16_t*>(data), count, uint16_t{0x7f80});
  return count;
}

}  // namespace trefoil::runtime
