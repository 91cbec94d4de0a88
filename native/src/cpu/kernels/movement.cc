#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

extern const KernelEntry movement_kernels[];
const KernelEntry movement_kernels[] = {{nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
