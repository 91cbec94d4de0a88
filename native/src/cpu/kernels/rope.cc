#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

extern const KernelEntry rope_kernels[];
const KernelEntry rope_kernels[] = {{nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
