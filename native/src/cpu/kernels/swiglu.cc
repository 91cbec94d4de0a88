#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

extern const KernelEntry swiglu_kernels[];
const KernelEntry swiglu_kernels[] = {{nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
