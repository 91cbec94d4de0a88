#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

extern const KernelEntry indexing_kernels[];
const KernelEntry indexing_kernels[] = {{nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
