// A shared library that says it speaks another version of the backend ABI.
#include "trefoil/backend.h"

extern "C" __attribute__((visibility("default"))) const TrefoilBackend* trefoil_backend(void) {
  static const TrefoilBackend backend = [] {
    TrefoilBackend table{};
    table.abi_version = 999;
    return table;
  }();
  return &backend;
}
