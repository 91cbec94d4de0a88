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
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs body(state, task) for every task in [0, count); returns when all are done. The first exception is rethrown here.
  void run(int64_t count, void (*body)(void*, int64_t), void* state);

 private:
  void work();
  void drain();

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> busy_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<bool> stop_{false};
  int64_t count_ = 0;
  void (*body_)(void*, int64_t) = nullptr;
  void* state_ = nullptr;
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

// Cores this process may use: affinity mask, then the cgroup quota, rounded up.
int usable_cores();

}  // namespace trefoil::cpu
