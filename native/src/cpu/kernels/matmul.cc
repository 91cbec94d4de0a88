#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

extern const KernelEntry matmul_kernels[];
const KernelEntry matmul_kernels[] = {{nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
