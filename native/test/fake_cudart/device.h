// The device that is played, by TREFOIL_FAKE_DEVICE: datasheets and the CUDA programming guide's table of technical specifications.
#pragma once
#include <cstddef>

namespace fake_cudart {

struct Device {
  const char* key;
  const char* name;
  int capability;  // 10 * major + minor
  int multiprocessors;
  size_t memory;
  size_t shared_per_block;           // at most, where a kernel asks for it; 1 KiB of each block is the system's
  size_t shared_per_multiprocessor;
  unsigned threads_per_multiprocessor, blocks_per_multiprocessor;
};
inline constexpr unsigned kRegistersPerMultiprocessor = 65536;
inline constexpr size_t kReservedShared = 1024;  // of each block

const Device& device();  // ends the process where the environment names none that is known

}  // namespace fake_cudart
