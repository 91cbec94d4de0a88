// What the machine code of a library says of its kernels: what nvcc puts into a program's fat binaries, read as a driver would.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace fake_cudart {

struct Parameter {
  size_t offset, bytes;  // in the kernel's parameter space
};

struct KernelCode {
  int registers = 0;         // of a thread
  unsigned max_threads = 0;  // of a block, by __launch_bounds__; 0: not said
  size_t shared_bytes = 0;   // declared by the kernel itself
  std::vector<Parameter> parameters;
};

struct Module {
  bool architecture_specific = false;  // compiled for sm_90a rather than sm_90
  std::unordered_map<std::string, KernelCode> kernels;  // by mangled name
};

// The machine code that a device of this compute capability (10 * major + minor) would load: the newest of the same major version that is not
// newer than the device. Throws std::runtime_error where there is none, or where the format is another than that of CUDA 12 and 13.
Module read_module(const void* fat_binary, int capability);

}  // namespace fake_cudart
