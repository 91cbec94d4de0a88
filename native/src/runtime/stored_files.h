// Stored weights between files and memory, with the sums that merging needs taken while the bytes are in the cache. All throw
// FileError. Descriptors are the caller's, and stay open as long as a call takes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/stored.h"

namespace trefoil::runtime {

// What the system refused: errno and the call, for an error as Node's own are.
struct FileError : Error {
  int number;
  const char* call;
  FileError(int number, const char* call, const std::string& message) : Error(TREFOIL_INVALID_ARGUMENT, message), number(number), call(call) {}
};

// A place in an open file.
struct FilePlace {
  int descriptor;
  uint64_t position;
};

// weighted_mean of sources that lie in files; their bytes are left in `buffers`, which the sources point to.
StoredMean read_weighted_mean(std::span<const FilePlace> files, std::span<std::byte* const> buffers, std::span<const StoredSource> sources,
                              size_t count, std::byte* target, StoredDtype dtype);

// Writes `bytes` and has the system begin to move them to the disk. Returns their checksum.
uint64_t write_checked(FilePlace file, std::span<const std::byte> bytes);

// The checksum of `count` bytes of a file.
uint64_t read_checksum(FilePlace file, size_t count, std::vector<std::byte>& scratch);

}  // namespace trefoil::runtime
