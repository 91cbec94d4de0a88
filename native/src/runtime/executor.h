// The thread of a device: runs jobs one by one, in the order they were submitted.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace trefoil::runtime {

class Job;

// Where finished jobs go: an environment of the addon, or a test. Shared with every job that is under way.
class Completions {
 public:
  virtual ~Completions() = default;
  // Called on the executor thread. The job's `error` says how it went.
  virtual void complete(std::unique_ptr<Job> job) = 0;

  // Set when nobody waits for the results any more: jobs that have not started are skipped, runs stop between instructions.
  std::atomic<bool> cancelled{false};
};

class Job {
 public:
  explicit Job(std::shared_ptr<Completions> completions) : completions(std::move(completions)) {}
  virtual ~Job() = default;
  virtual void execute() = 0;  // on the executor thread; what it throws becomes `error`
  // Once complete: the bytes that the host gets as output `index`.
  virtual std::span<const std::byte> output(size_t index) const { return {}; }

  std::shared_ptr<Completions> completions;
  std::exception_ptr error;
  std::shared_ptr<void> awaited;  // what the submitter keeps with the job: the addon's promise, and the arrays it will fill
};

class Executor {
 public:
  Executor();
  ~Executor() { stop(); }
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  void submit(std::unique_ptr<Job> job);  // the caller holds the device until this returns
  void stop();  // runs what is queued, then ends the thread

  // Calls body on this thread in the executor's place, if it has nothing to do; else returns false.
  // For short work that would otherwise need a copy.
  template <class Body>
  bool run_if_idle(const Body& body) {
    if (!borrow()) return false;
    struct Return {
      Executor& executor;
      ~Return() { executor.give_back(); }
    } guard{*this};
    body();
    return true;
  }

  bool is_this_thread() const { return std::this_thread::get_id() == thread_.get_id(); }

 private:
  void work();
  bool borrow();
  void give_back();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Job>> queue_;
  std::atomic<bool> pending_{false};  // queue_ is not empty, or stop_: read without the lock while spinning
  bool sleeping_ = false;
  bool busy_ = false;  // a job runs, or the turn is borrowed
  bool stop_ = false;
  std::thread thread_;  // last: starts when the rest stands
};

}  // namespace trefoil::runtime
