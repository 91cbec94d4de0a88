#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

extern const KernelEntry grouped_matmul_kernels[];
const KernelEntry grouped_matmul_kernels[] = {{nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
