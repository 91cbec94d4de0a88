#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

extern const KernelEntry moe_kernels[];
const KernelEntry moe_kernels[] = {{nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
