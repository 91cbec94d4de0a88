#include "kernel.h"

namespace trefoil::cpu::TREFOIL_ISA {

extern const KernelEntry sampling_kernels[];
const KernelEntry sampling_kernels[] = {{nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
