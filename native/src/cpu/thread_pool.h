// A persistent pool that spins for microseconds, then sleeps. One job at a time; the caller works too.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace trefoil::cpu {

class ThreadPool {
 public:
  // threads counts the caller. Where the system refuses a thread, the pool is smaller; threads() tells.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs body(state, task) for every task in [0, count); returns when all are done. The first exception is rethrown here.
  // Each thread starts on a run of neighbouring tasks of its own, the same in every job of as many tasks, so that what it wrote
  // is still in its cache; then come the last `common` tasks, which are nobody's, then what other threads have not begun.
  // Called from inside a task, or while another thread runs a job, it runs its tasks on the calling thread alone.
  void run(int64_t count, void (*body)(void*, int64_t), void* state, int64_t common = 0);

 private:
  // Tasks that are handed out in order.
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void work(int self);
  void drain(int self) noexcept;
  void drain(Share& share) noexcept;
  bool enter(uint64_t seen);
  void wake(int64_t wanted);

  // state_: bit 0, the door: the job takes workers; bits 1..31: how many are inside; bits 32..63: the number of the job.
  // A worker reads the job's fields only between entering (which succeeds only while the door is open) and leaving, and
  // run() changes them only while the door is closed and nobody is inside. So a worker that comes late finds the door
  // closed, or the next job's open; either is safe, and nobody waits for a worker that never came.
  static constexpr uint64_t kOpen = 1;
  static constexpr uint64_t kWorker = 2;
  static constexpr int kJobShift = 32;
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) void (*body_)(void*, int64_t) = nullptr;
  void* argument_ = nullptr;
  std::exception_ptr error_;
  std::mutex error_mutex_;

  std::atomic_flag taken_;  // a job is running
  std::atomic<bool> stop_{false};
  std::atomic<int> sleepers_{0};
  std::mutex sleep_mutex_;
  std::condition_variable wake_;
  std::vector<Share> shares_;  // one of each thread, the caller's first, and the common one
  std::vector<std::thread> workers_;
};

// Cores this process may use: affinity mask, then the cgroup quota, rounded up.
int usable_cores();

}  // namespace trefoil::cpu
