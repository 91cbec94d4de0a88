// Launches: what a driver would say of them, and what the report says.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "code.h"

namespace fake_cudart {

struct Grid {
  unsigned x, y, z;
  unsigned long long blocks() const { return 1ull * x * y * z; }
};

struct Kernel {
  std::string name;  // mangled
  KernelCode code;
  bool architecture_specific = false;
  size_t allowed_shared = 0;  // dynamic; with what it declares itself 48 KiB, more by cudaFuncSetAttribute
};

struct Launch {
  Kernel* kernel;
  Grid grid, block;
  size_t shared_bytes;
  unsigned cluster;
  bool early;  // may begin before the one before it has ended
  std::vector<uintptr_t> pointers;  // into device memory, found among the arguments
};

unsigned blocks_per_multiprocessor(const KernelCode& code, unsigned threads, size_t shared_bytes);  // 0: none can start

// The error a driver would give, or nothing.
std::string refusal(const Launch& launch);
// Pointers into memory that was freed. Also asked when a recording is replayed.
std::string dangling(const Launch& launch);
void find_pointers(Launch& launch, void** arguments);

void count(const Launch& launch, bool replayed);
void report_wrong(const std::string& what);  // each sort of fault once
void write_report(const std::vector<const Kernel*>& all);  // appends to the file named by TREFOIL_FAKE_CUDART_REPORT

}  // namespace fake_cudart
