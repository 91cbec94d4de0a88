// A device: a backend's handle, its executor thread, its memory counters, and the one arena its programs share.
#pragma once
#include <atomic>
#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "runtime/error.h"
#include "runtime/executor.h"
#include "trefoil/backend.h"

namespace trefoil::runtime {

class Device;

// Device memory, counted while it is held.
class Block {
 public:
  Block() = default;
  Block(Device& device, size_t bytes);  // zeroed; throws TREFOIL_OUT_OF_MEMORY
  ~Block() { reset(); }
  Block(Block&& other) noexcept { *this = std::move(other); }
  Block& operator=(Block&& other) noexcept;
  void reset();

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  Device* device_ = nullptr;  // outlives the block: whoever owns one also holds the device
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Host memory on its way to or from a device, 64-byte aligned and counted as the device's.
class HostBlock {
 public:
  HostBlock() = default;
  HostBlock(Device& device, size_t bytes);  // uninitialised; throws TREFOIL_OUT_OF_MEMORY
  ~HostBlock() { reset(); }
  HostBlock(HostBlock&& other) noexcept { *this = std::move(other); }
  HostBlock& operator=(HostBlock&& other) noexcept;
  void reset();

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  Device* device_ = nullptr;  // as in Block
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

struct DeviceOptions {
  std::string backend = "cpu";
  int32_t index = 0;
  int32_t threads = 0;  // 0: the backend decides
  std::string isa;      // empty: the backend decides
  std::string precision;  // empty: the backend decides
  std::string library;  // absolute path, for a backend that is not linked in
};

struct MemoryUse {
  size_t live, peak, buffers;
};

class Device {
 public:
  // The device of these options: opened once in the process, shared by all who hold it.
  static std::shared_ptr<Device> open(const DeviceOptions& options);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const TrefoilBackend& backend() const { return *backend_; }
  TrefoilDevice* handle() const { return handle_; }
  Executor& executor() { return executor_; }
  bool host_memory() const { return backend_->flags & TREFOIL_BACKEND_HOST_MEMORY; }
  TrefoilDeviceInfo info() const;
  std::vector<std::string> ops() const;

  MemoryUse memory() const { return {live_.load(), peak_.load(), buffers_.load()}; }
  void reset_peak() { peak_.store(live_.load()); }
  void count_buffer(int change) { buffers_.fetch_add(static_cast<size_t>(change)); }

  // Each throws what the backend reports.
  void copy_in(void* to, const void* host, size_t bytes);
  void copy_out(void* host, const void* from, size_t bytes);
  void copy(void* to, const void* from, size_t bytes);
  void synchronize();

  // Runs happen one after another and keep nothing in the arena, so all programs of a device share one block, as large as
  // the largest program that has run and still exists. arena() is for the executor thread; a program calls release_arena
  // once when it goes.
  std::byte* arena(size_t bytes, bool first_time);
  void release_arena(size_t bytes);

  // An error of work that nobody awaits (a staged write): the next run, read or synchronize reports it.
  void defer_error(std::exception_ptr error);
  void rethrow_deferred();

 private:
  friend class Block;
  friend class HostBlock;
  Device(const TrefoilBackend* backend, TrefoilDevice* handle) : backend_(backend), handle_(handle) {}
  void count(ptrdiff_t bytes);
  void trim_arena();

  const TrefoilBackend* backend_;
  TrefoilDevice* handle_;
  std::atomic<size_t> live_{0}, peak_{0}, buffers_{0};
  std::mutex deferred_mutex_;
  std::exception_ptr deferred_;
  std::atomic<bool> has_deferred_{false};
  std::mutex arena_mutex_;
  std::multiset<size_t> arena_sizes_;
  Block arena_;  // touched in the executor's turn only
  Executor executor_;
};

}  // namespace trefoil::runtime
