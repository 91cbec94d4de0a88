// The engine as a library of its own: a bench opens two versions of it and measures them in turns.
#include "trefoil/backend.h"

extern "C" const TrefoilBackend* trefoil_cpu_backend(void);
extern "C" __attribute__((visibility("default"))) const TrefoilBackend* trefoil_engine_library(void) { return trefoil_cpu_backend(); }
