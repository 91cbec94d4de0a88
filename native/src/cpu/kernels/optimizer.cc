#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

extern const KernelEntry optimizer_kernels[];
const KernelEntry optimizer_kernels[] = {{nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
