#include "runtime/executor.h"

#include <system_error>

#include "runtime/error.h"
#include "runtime/spin.h"

#if defined(__linux__)
#include <pthread.h>
#endif

namespace trefoil::runtime {

namespace {
// A loop of `await run()` comes back within this time, and then costs no wake-up.
constexpr std::chrono::microseconds kIdleSpin{30};
}  // namespace

Executor::Executor() try : thread_([this] { work(); }) {
} catch (const std::system_error& error) {
  fail(TREFOIL_OUT_OF_MEMORY, "the device's thread cannot be started, %s: memory or the number of threads is limited",
       error.code().message().c_str());
}

void Executor::stop() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    pending_.store(true, std::memory_order_relaxed);
  }
  wake_.notify_one();
  thread_.join();
}

void Executor::submit(std::unique_ptr<Job> job) {
  bool notify;
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(job));
    pending_.store(true, std::memory_order_relaxed);
    notify = sleeping_;
  }
  if (notify) wake_.notify_one();
}

bool Executor::borrow() {
  std::lock_guard lock(mutex_);
  if (busy_ || !queue_.empty()) return false;
  busy_ = true;
  return true;
}

void Executor::give_back() {
  bool notify;
  {
    std::lock_guard lock(mutex_);
    busy_ = false;
    notify = sleeping_ && (!queue_.empty() || stop_);
  }
  if (notify) wake_.notify_one();
}

void Executor::work() {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), "trefoil-device");
#endif
  for (;;) {
    spin_until([this] { return pending_.load(std::memory_order_relaxed); }, kIdleSpin);
    std::unique_ptr<Job> job;
    {
      std::unique_lock lock(mutex_);
      sleeping_ = true;
      wake_.wait(lock, [this] { return !busy_ && (!queue_.empty() || stop_); });
      sleeping_ = false;
      if (queue_.empty()) return;
      job = std::move(queue_.front());
      queue_.pop_front();
      pending_.store(!queue_.empty() || stop_, std::memory_order_relaxed);
      busy_ = true;
    }
    std::shared_ptr<Completions> completions = job->completions;
    if (!completions || !completions->cancelled.load(std::memory_order_relaxed)) {
      try {
        job->execute();
      } catch (...) {
        job->error = std::current_exception();
      }
    }
    {
      std::lock_guard lock(mutex_);
      busy_ = false;
    }
    if (completions) completions->complete(std::move(job));
  }
}

}  // namespace trefoil::runtime
