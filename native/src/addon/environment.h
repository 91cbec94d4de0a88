// What one JavaScript environment (the main thread or a Worker) holds: its handles, and the way back for finished jobs.
#pragma once
#include <napi.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "addon/js.h"
#include "runtime/buffer.h"
#include "runtime/device.h"
#include "runtime/file.h"
#include "runtime/program.h"

namespace trefoil::addon {

class Environment;
void settle_arrived(Napi::Env env, Napi::Function function, Environment* environment, void* data);
using Wake = Napi::TypedThreadSafeFunction<Environment, void, settle_arrived>;

// Collects finished jobs from executor threads and wakes the JavaScript thread once for all that are waiting.
class Inbox : public runtime::Completions {
 public:
  explicit Inbox(Wake wake) : wake_(wake) {}
  void complete(std::unique_ptr<runtime::Job> job) override;

  void expect();                                                // JavaScript thread: one more job is under way
  void take(std::vector<std::unique_ptr<runtime::Job>>& jobs);  // JavaScript thread: all that are finished
  // The environment ends: cancels what has not started, waits for what has, and never wakes it again.
  void close();

 private:
  std::mutex mutex_;
  std::condition_variable finished_one_;
  Wake wake_;
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

  const T& at(Napi::Value handle) const {
    auto found = entries_.find(to_integer(handle, kind_));
    if (found == entries_.end()) unknown(handle);
    return found->second;
  }
  T remove(Napi::Value handle) {
    auto found = entries_.find(to_integer(handle, kind_));
    if (found == entries_.end()) unknown(handle);
    T entry = std::move(found->second);
    entries_.erase(found);
    return entry;
  }
  void add(int64_t handle, T entry) { entries_.emplace(handle, std::move(entry)); }
  void clear() { entries_.clear(); }

 private:
  [[noreturn]] void unknown(Napi::Value handle) const {
    runtime::fail(TREFOIL_INVALID_ARGUMENT, "%s %lld does not exist, or has been released", kind_,
                  static_cast<long long>(to_integer(handle, kind_)));
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
  // Made once per environment, kept as its instance data, closed by a cleanup hook.
  static void create(Napi::Env env);

  Table<std::shared_ptr<runtime::Device>> devices{"device"};
  Table<HeldBuffer> buffers{"buffer"};
  Table<std::shared_ptr<runtime::Program>> programs{"program"};
  Table<std::unique_ptr<runtime::File>> files{"mapping"};

  // Adds the entry to one of the tables and returns its handle.
  template <class T>
  Napi::Value keep(Table<T>& table, std::type_identity_t<T> entry) {
    table.add(next_handle_, std::move(entry));
    return Napi::Number::New(env_, static_cast<double>(next_handle_++));
  }

  const std::shared_ptr<Inbox>& inbox() const { return inbox_; }
  // Enqueues the job; the promise settles when it is done. `targets` receive the job's outputs (empty: that output is a buffer).
  Napi::Value submit(runtime::Device& device, std::unique_ptr<runtime::Job> job, std::span<const Napi::Value> targets);
  // Enqueues a job that nobody awaits.
  void submit_unawaited(runtime::Device& device, std::unique_ptr<runtime::Job> job);

 private:
  explicit Environment(Napi::Env env);
  void close();
  friend void settle_arrived(Napi::Env env, Napi::Function function, Environment* environment, void* data);
  void settle(std::unique_ptr<runtime::Job> job);
  // Runs a short job at once on this thread, and settles it; false where it has to take its turn.
  bool run_here(runtime::Device& device, std::unique_ptr<runtime::Job>& job);

  Napi::Env env_;
  Wake wake_;
  std::shared_ptr<Inbox> inbox_;
  std::vector<std::unique_ptr<runtime::Job>> arrived_;  // kept for its capacity
  size_t pending_ = 0;                                  // while not 0, the process stays alive
  static constexpr int kRunsHere = 16;
  int runs_here_ = 0;  // since the event loop last delivered a job
  int64_t next_handle_ = 1;
};

}  // namespace trefoil::addon
