// What each op takes and gives: docs/ops.md as a table that programs are checked against before a kernel sees them.
#pragma once
#include <string>

#include "trefoil/backend.h"

namespace trefoil::runtime {

// Why the launch does not fit the op: "weight is f32 [5], not f32 [D] with D = 7". Empty where it does, or where nothing is known of an
// op by that name. Looks at counts, dtypes, shapes and those attributes that lead to addresses; data pointers only tell whether an
// operand is there. `stores_bf16`: the operands marked † in docs/ops.md may be bf16.
std::string misfit(const std::string& op, const TrefoilLaunch& launch, bool stores_bf16);

}  // namespace trefoil::runtime
