// What one JavaScript environment (the main thread or a Worker) holds: its handles, and the way back for finished jobs.
#pragma once
#include <node_api.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "addon/js.h"
#include "runtime/buffer.h"
#include "runtime/device.h"
#include "runtime/file.h"
#include "runtime/program.h"

namespace trefoil::addon {

// Collects finished jobs from executor threads and wakes the JavaScript thread once for all that are waiting.
class Inbox : public runtime::Completions {
 public:
  explicit Inbox(napi_threadsafe_function wake) : wake_(wake) {}
  void complete(std::unique_ptr<runtime::Job> job) override;

  void expect();                                                // JavaScript thread: one more job is under way
  void take(std::vector<std::unique_ptr<runtime::Job>>& jobs);  // JavaScript thread: all that are finished
  // The environment ends: cancels what has not started, waits for what has, and never wakes it again.
  void close();

 private:
  std::mutex mutex_;
  std::condition_variable finished_one_;
  napi_threadsafe_function wake_;
  std::vector<std::unique_ptr<runtime::Job>> finished_;
  size_t under_way_ = 0;
  bool closed_ = false;
};

// Handles are numbers that are never used twice in an environment, across all kinds: a stale one, or one of another kind,
// is not found.
template <class T>
class Table {
 public:
  explicit Table(const char* kind) : kind_(kind) {}

  const T& at(napi_env env, napi_value handle) const {
    auto found = entries_.find(to_integer(env, handle, kind_));
    if (found == entries_.end()) unknown(env, handle);
    return found->second;
  }
  T remove(napi_env env, napi_value handle) {
    auto found = entries_.find(to_integer(env, handle, kind_));
    if (found == entries_.end()) unknown(env, handle);
    T entry = std::move(found->second);
    entries_.erase(found);
    return entry;
  }
  void add(int64_t handle, T entry) { entries_.emplace(handle, std::move(entry)); }
  void clear() { entries_.clear(); }

 private:
  [[noreturn]] void unknown(napi_env env, napi_value handle) const {
    runtime::fail(TREFOIL_INVALID_ARGUMENT, "%s %lld does not exist, or has been released", kind_,
                  static_cast<long long>(to_integer(env, handle, kind_)));
  }
  const char* kind_;
  std::unordered_map<int64_t, T> entries_;
};

// A buffer while JavaScript holds its handle: what `memory().buffers` counts.
class HeldBuffer {
 public:
  explicit HeldBuffer(std::shared_ptr<runtime::Buffer> buffer) : buffer_(std::move(buffer)) { buffer_->device().count_buffer(1); }
  ~HeldBuffer() {
    if (buffer_) buffer_->device().count_buffer(-1);
  }
  HeldBuffer(HeldBuffer&&) = default;
  HeldBuffer& operator=(HeldBuffer&&) = delete;
  const std::shared_ptr<runtime::Buffer>& get() const { return buffer_; }

 private:
  std::shared_ptr<runtime::Buffer> buffer_;
};

class Environment {
 public:
  // Made once per environment, kept as its instance data, closed by its cleanup hook.
  static Environment& create(napi_env env);
  static Environment& of(napi_env env);

  int64_t next_handle() { return next_handle_++; }
  Table<std::shared_ptr<runtime::Device>> devices{"device"};
  Table<HeldBuffer> buffers{"buffer"};
  Table<std::shared_ptr<runtime::Program>> programs{"program"};
  Table<std::unique_ptr<runtime::File>> files{"mapping"};

  const std::shared_ptr<Inbox>& inbox() const { return inbox_; }
  // Enqueues the job; the promise settles when it is done. `targets` receive the job's outputs (null: that output is a buffer).
  napi_value submit(runtime::Device& device, std::unique_ptr<runtime::Job> job, const napi_value* targets, size_t target_count);
  // Enqueues a job that nobody awaits.
  void submit_unawaited(runtime::Device& device, std::unique_ptr<runtime::Job> job);

 private:
  explicit Environment(napi_env env);
  static void cleanup(void* environment);
  static void on_wake(napi_env env, napi_value function, void* context, void* data);
  void settle(std::unique_ptr<runtime::Job> job);
  void fill_targets(const runtime::Job& job);

  napi_env env_;
  napi_threadsafe_function wake_ = nullptr;
  std::shared_ptr<Inbox> inbox_;
  std::vector<std::unique_ptr<runtime::Job>> arrived_;  // kept for its capacity
  size_t pending_ = 0;                                  // while not 0, the process stays alive
  int64_t next_handle_ = 1;
};

}  // namespace trefoil::addon
