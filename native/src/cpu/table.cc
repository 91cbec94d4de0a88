// Compiled once per ISA: gathers the families into the table of that ISA.
#include "families.h"
#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {
#define DECLARE(family) extern const KernelEntry family##_kernels[];
TREFOIL_CPU_FAMILIES(DECLARE)
#undef DECLARE

extern const KernelTable kernel_tables[];
const KernelTable kernel_tables[] = {
#define LIST(family) family##_kernels,
    TREFOIL_CPU_FAMILIES(LIST)
#undef LIST
        nullptr};
}  // namespace trefoil::cpu::TREFOIL_ISA
