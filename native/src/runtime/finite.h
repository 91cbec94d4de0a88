#pragma once
#include <cstddef>
#include <cstdint>

namespace trefoil::runtime {

// Position of the first NaN or infinity among `count` elements of f32 or bf16; `count` if all are finite.
size_t first_non_finite(const void* data, size_t count, int32_t dtype);

}  // namespace trefoil::runtime
