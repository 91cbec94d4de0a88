#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

extern const KernelEntry reduce_kernels[];
const KernelEntry reduce_kernels[] = {{nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
