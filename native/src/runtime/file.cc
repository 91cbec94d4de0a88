#include "runtime/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "runtime/error.h"

namespace trefoil::runtime {

File::File(const std::string& path) : path_(path), descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (descriptor_ < 0) fail(TREFOIL_INVALID_ARGUMENT, "cannot open %s: %s", path.c_str(), std::strerror(errno));
  struct stat status{};
  int error = fstat(descriptor_, &status) == 0 ? 0 : errno;
  if (error != 0 || !S_ISREG(status.st_mode)) {
    close(descriptor_);
    fail(TREFOIL_INVALID_ARGUMENT, "cannot read %s: %s", path.c_str(), error ? std::strerror(error) : "it is not a regular file");
  }
  bytes_ = static_cast<uint64_t>(status.st_size);
  if (bytes_ == 0) return;
  void* map = mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, descriptor_, 0);
  if (map == MAP_FAILED) {
    error = errno;
    close(descriptor_);
    fail(TREFOIL_INVALID_ARGUMENT, "cannot map %s: %s", path.c_str(), std::strerror(error));
  }
  map_ = static_cast<const char*>(map);
}

File::~File() {
  if (map_) munmap(const_cast<char*>(map_), bytes_);
  close(descriptor_);
}

void File::read(uint64_t offset, void* to, size_t count) const {
  if (offset > bytes_ || count > bytes_ - offset)
    fail(TREFOIL_INVALID_ARGUMENT, "%s: bytes %llu to %llu are outside the file of %llu bytes", path_.c_str(),
         static_cast<unsigned long long>(offset), static_cast<unsigned long long>(offset) + count,
         static_cast<unsigned long long>(bytes_));
  struct stat status{};
  if (fstat(descriptor_, &status) != 0) fail(TREFOIL_INVALID_ARGUMENT, "cannot read %s: %s", path_.c_str(), std::strerror(errno));
  if (static_cast<uint64_t>(status.st_size) < offset + count)
    fail(TREFOIL_INVALID_ARGUMENT, "%s ends at byte %llu; it had %llu when it was opened", path_.c_str(),
         static_cast<unsigned long long>(status.st_size), static_cast<unsigned long long>(bytes_));
  if (count > 0) std::memcpy(to, map_ + offset, count);
}

}  // namespace trefoil::runtime
