// A file mapped into memory, for reads at any position.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace trefoil::runtime {

// Every read first asks for the size: a file that has been truncated since is an error here, where touching the lost pages
// would end the process with SIGBUS.
class File {
 public:
  explicit File(const std::string& path);  // throws TREFOIL_INVALID_ARGUMENT with the path and the system's reason
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  uint64_t bytes() const { return bytes_; }  // when it was opened
  // Copies bytes [offset, offset + count); throws if the range is outside the file.
  void read(uint64_t offset, void* to, size_t count) const;

 private:
  std::string path_;
  int descriptor_;
  uint64_t bytes_ = 0;
  const char* map_ = nullptr;  // null for an empty file
};

}  // namespace trefoil::runtime
