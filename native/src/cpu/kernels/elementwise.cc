#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

extern const KernelEntry elementwise_kernels[];
const KernelEntry elementwise_kernels[] = {{nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
