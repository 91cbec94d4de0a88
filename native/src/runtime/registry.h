// Which backends this process has: "cpu" is linked in, others are shared libraries opened once and kept.
#pragma once
#include <string>

#include "trefoil/backend.h"

namespace trefoil::runtime {

// The backend `name`. `library` is an absolute path, needed the first time a backend other than "cpu" is asked for.
// Throws TREFOIL_DEVICE_UNAVAILABLE with the path and the loader's reason.
const TrefoilBackend* find_backend(const std::string& name, const std::string& library);

// Adds a backend made in this process: what the C++ tests run on.
void register_backend(const TrefoilBackend* backend);

}  // namespace trefoil::runtime
