#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

extern const KernelEntry norm_kernels[];
const KernelEntry norm_kernels[] = {{nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
