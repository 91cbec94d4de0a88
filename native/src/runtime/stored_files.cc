#include "runtime/stored_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace trefoil::runtime {

namespace {

constexpr size_t kTransfer = size_t{1} << 28;  // some systems refuse one of 2 GiB or more

FileError failed(const char* call, int number) {
  return {number, call, std::string("cannot ") + call + " weights: " + std::strerror(number)};
}

FileError ended() { return {EIO, "read", "cannot read weights: the file became shorter while it was read"}; }

void read_fully(FilePlace file, std::byte* to, size_t count) {
  while (count > 0) {
    ssize_t done = pread(file.descriptor, to, std::min(count, kTransfer), static_cast<off_t>(file.position));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) throw failed("read", errno);
    if (done == 0) throw ended();
    to += done;
    count -= static_cast<size_t>(done);
    file.position += static_cast<uint64_t>(done);
  }
}

void write_fully(FilePlace file, const std::byte* from, size_t count) {
  while (count > 0) {
    ssize_t done = pwrite(file.descriptor, from, std::min(count, kTransfer), static_cast<off_t>(file.position));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) throw failed("write", errno);
    from += done;
    count -= static_cast<size_t>(done);
    file.position += static_cast<uint64_t>(done);
  }
}

}  // namespace

StoredMean read_weighted_mean(std::span<const FilePlace> files, std::span<std::byte* const> buffers, std::span<const StoredSource> sources,
                              size_t count, std::byte* target, StoredDtype dtype) {
  return weighted_mean(sources, count, target, dtype, [&](size_t first, size_t elements) {
    for (size_t i = 0; i < sources.size(); ++i) {
      size_t bytes = stored_bytes(sources[i].dtype);
      read_fully({files[i].descriptor, files[i].position + first * bytes}, buffers[i] + first * bytes, elements * bytes);
    }
  });
}

uint64_t write_checked(FilePlace file, std::span<const std::byte> bytes) {
  uint64_t sum = checksum(bytes);
  write_fully(file, bytes.data(), bytes.size());
#if defined(__linux__)
  // What is left for fsync is then little. A hint: its failure is fsync's to report.
  sync_file_range(file.descriptor, static_cast<off64_t>(file.position), static_cast<off64_t>(bytes.size()), SYNC_FILE_RANGE_WRITE);
#endif
  return sum;
}

uint64_t read_checksum(FilePlace file, size_t count, std::vector<std::byte>& scratch) {
  // Asked before room is made for them: they may be more bytes than the machine has.
  struct stat status{};
  if (fstat(file.descriptor, &status) != 0) throw failed("read", errno);
  if (S_ISREG(status.st_mode) && file.position + count > static_cast<uint64_t>(status.st_size)) throw ended();
  if (scratch.size() < count) scratch.resize(count);
  read_fully(file, scratch.data(), count);
  return checksum({scratch.data(), count});
}

}  // namespace trefoil::runtime
