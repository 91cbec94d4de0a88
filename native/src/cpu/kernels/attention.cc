#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

extern const KernelEntry attention_kernels[];
const KernelEntry attention_kernels[] = {{nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
