#include "vector_math_probe.h"

#include "vector_math.h"

namespace trefoil::cpu::TREFOIL_ISA {

template <Vec (*function)(Vec)>
static void apply(const float* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += Vec::width) store(y + i, function(load(x + i)));
}

extern const VectorProbe vector_probes[];
const VectorProbe vector_probes[] = {{"exp", apply<exp>},   {"exp2", apply<exp2>}, {"log", apply<log>}, {"sigmoid", apply<sigmoid>},
                                     {"tanh", apply<tanh>}, {"erf", apply<erf>},   {"sin", apply<sin>}, {"cos", apply<cos>},
                                     {nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
