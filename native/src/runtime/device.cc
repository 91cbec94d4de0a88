#include "runtime/device.h"

#include <map>
#include <new>
#include <thread>
#include <tuple>

#include "runtime/registry.h"

namespace trefoil::runtime {

namespace {

constexpr std::align_val_t kHostAlignment{64};

using Key = std::tuple<std::string, int32_t, int32_t, std::string, std::string>;

// Never destroyed, as the registry of backends.
struct OpenDevices {
  std::mutex mutex;
  std::map<Key, std::weak_ptr<Device>> devices;
};
OpenDevices& open_devices() {
  static OpenDevices& instance = *new OpenDevices;
  return instance;
}

void check(int32_t code, const TrefoilStatus& status) {
  if (code != TREFOIL_OK) throw Error(static_cast<TrefoilCode>(code), status.message);
}

// Closing joins the executor thread, which may itself be the last to let go of the device.
void close(Device* device) {
  if (device->executor().is_this_thread())
    std::thread([device] { delete device; }).detach();
  else
    delete device;
}

struct TrimArena : Job {
  Device& device;
  void (Device::*trim)();
  TrimArena(Device& device, void (Device::*trim)()) : Job(nullptr), device(device), trim(trim) {}
  void execute() override { (device.*trim)(); }
};

}  // namespace

Block::Block(Device& device, size_t bytes) : device_(&device), bytes_(bytes) {
  data_ = device.backend().allocate(device.handle(), bytes);
  if (!data_)
    fail(TREFOIL_OUT_OF_MEMORY, "device \"%s\" cannot allocate %zu bytes; %zu are in use", device.backend().name, bytes,
         device.memory().live);
  device.count(static_cast<ptrdiff_t>(bytes));
}

Block& Block::operator=(Block&& other) noexcept {
  if (this == &other) return *this;
  reset();
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

void Block::reset() {
  if (!data_) return;
  device_->backend().release(device_->handle(), data_);
  device_->count(-static_cast<ptrdiff_t>(bytes_));
  data_ = nullptr;
  bytes_ = 0;
}

HostBlock::HostBlock(Device& device, size_t bytes) : device_(&device), bytes_(bytes) {
  data_ = static_cast<std::byte*>(::operator new(bytes, kHostAlignment, std::nothrow));
  if (!data_)
    fail(TREFOIL_OUT_OF_MEMORY, "cannot allocate %zu bytes of host memory to stage data for device \"%s\"", bytes, device.backend().name);
  device.count(static_cast<ptrdiff_t>(bytes));
}

HostBlock& HostBlock::operator=(HostBlock&& other) noexcept {
  if (this == &other) return *this;
  reset();
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

void HostBlock::reset() {
  if (!data_) return;
  ::operator delete(data_, kHostAlignment);
  device_->count(-static_cast<ptrdiff_t>(bytes_));
  data_ = nullptr;
  bytes_ = 0;
}

std::shared_ptr<Device> Device::open(const DeviceOptions& options) {
  const TrefoilBackend* backend = find_backend(options.backend, options.library);
  OpenDevices& all = open_devices();
  std::lock_guard lock(all.mutex);
  std::weak_ptr<Device>& slot = all.devices[Key{options.backend, options.index, options.threads, options.isa, options.precision}];
  if (std::shared_ptr<Device> device = slot.lock()) return device;

  TrefoilStatus status{};
  int32_t count = backend->device_count(&status);
  if (count == 0) fail(TREFOIL_DEVICE_UNAVAILABLE, "backend \"%s\" has no device: %s", backend->name, status.message);
  if (options.index < 0 || options.index >= count)
    fail(TREFOIL_INVALID_ARGUMENT, "device index %d: backend \"%s\" has devices 0 to %d", options.index, backend->name, count - 1);
  TrefoilDeviceOptions raw{options.index, options.threads, options.isa.empty() ? nullptr : options.isa.c_str(),
                           options.precision.empty() ? nullptr : options.precision.c_str()};
  TrefoilDevice* handle = backend->open_device(&raw, &status);
  if (!handle) throw Error(static_cast<TrefoilCode>(status.code), status.message);
  std::shared_ptr<Device> device;
  try {
    device = std::shared_ptr<Device>(new Device(backend, handle), close);
  } catch (...) {
    backend->close_device(handle);
    throw;
  }
  slot = device;
  return device;
}

Device::~Device() {
  executor_.stop();
  arena_.reset();
  backend_->close_device(handle_);
}

TrefoilDeviceInfo Device::info() const {
  TrefoilDeviceInfo info{};
  backend_->device_info(handle_, &info);
  return info;
}

std::vector<std::string> Device::ops() const {
  std::vector<std::string> names;
  for (int32_t op = 0; const char* name = backend_->op_name(op); ++op) names.emplace_back(name);
  return names;
}

void Device::count(ptrdiff_t bytes) {
  size_t live = live_.fetch_add(static_cast<size_t>(bytes)) + static_cast<size_t>(bytes);
  size_t peak = peak_.load();
  while (bytes > 0 && live > peak && !peak_.compare_exchange_weak(peak, live)) {
  }
}

void Device::copy_in(void* to, const void* host, size_t bytes) {
  TrefoilStatus status{};
  if (bytes) check(backend_->copy_in(handle_, to, host, bytes, &status), status);
}
void Device::copy_out(void* host, const void* from, size_t bytes) {
  TrefoilStatus status{};
  if (bytes) check(backend_->copy_out(handle_, host, from, bytes, &status), status);
}
void Device::copy(void* to, const void* from, size_t bytes) {
  TrefoilStatus status{};
  if (bytes && to != from) check(backend_->copy(handle_, to, from, bytes, &status), status);
}
void Device::synchronize() {
  TrefoilStatus status{};
  check(backend_->synchronize(handle_, &status), status);
}

std::byte* Device::arena(size_t bytes, bool first_time) {
  if (first_time) {
    std::lock_guard lock(arena_mutex_);
    arena_sizes_.insert(bytes);
  }
  if (arena_.bytes() < bytes) {
    arena_.reset();  // first, so that the old and the new never stand side by side
    arena_ = Block(*this, bytes);
  }
  return arena_.data();
}

void Device::release_arena(size_t bytes) {
  {
    std::lock_guard lock(arena_mutex_);
    arena_sizes_.erase(arena_sizes_.find(bytes));
    if (!arena_sizes_.empty() && *arena_sizes_.rbegin() >= bytes) return;
  }
  if (!executor_.run_if_idle([this] { trim_arena(); }))
    executor_.submit(std::make_unique<TrimArena>(*this, &Device::trim_arena));
}

void Device::trim_arena() {
  size_t wanted;
  {
    std::lock_guard lock(arena_mutex_);
    wanted = arena_sizes_.empty() ? 0 : *arena_sizes_.rbegin();
  }
  if (arena_.bytes() > wanted) arena_.reset();  // the next run allocates what it needs
}

void Device::defer_error(std::exception_ptr error) {
  std::lock_guard lock(deferred_mutex_);
  if (!deferred_) deferred_ = std::move(error);
  has_deferred_ = true;
}

void Device::rethrow_deferred() {
  if (!has_deferred_.load(std::memory_order_relaxed)) return;
  std::exception_ptr error;
  {
    std::lock_guard lock(deferred_mutex_);
    error = std::exchange(deferred_, nullptr);
    has_deferred_ = false;
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace trefoil::runtime
