#include "thread_pool.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <system_error>
#include <utility>

#include "runtime/spin.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace trefoil::cpu {

namespace {
// Long enough to bridge two kernels of one step, short enough not to burn an idle machine.
constexpr std::chrono::microseconds kIdleSpin{25};
constexpr std::chrono::microseconds kFinishSpin{20};
}  // namespace

ThreadPool::ThreadPool(int threads) : shares_(static_cast<size_t>(std::max(threads, 1)) + 1) {
  workers_.reserve(static_cast<size_t>(std::max(threads - 1, 0)));
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (const std::system_error&) {
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(sleep_mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::drain(Share& share) noexcept {
  while (share.next.load(std::memory_order_relaxed) < share.end) {
    int64_t task = share.next.fetch_add(1, std::memory_order_relaxed);
    if (task >= share.end) return;
    try {
      body_(argument_, task);
    } catch (...) {
      std::lock_guard lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
      for (Share& rest : shares_) rest.next.store(rest.end, std::memory_order_relaxed);  // not worth running
    }
  }
}

void ThreadPool::drain(int self) noexcept {
  const int count = threads();
  drain(shares_[self]);
  drain(shares_.back());
  for (int other = 1; other < count; ++other) drain(shares_[(self + other) % count]);
}

bool ThreadPool::enter(uint64_t seen) {
  uint64_t state = state_.load(std::memory_order_relaxed);
  while ((state & kOpen) && state >> kJobShift != seen)
    if (state_.compare_exchange_weak(state, state + kWorker, std::memory_order_acquire, std::memory_order_relaxed)) return true;
  return false;
}

void ThreadPool::work(int self) {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), "trefoil-worker");
#endif
  uint64_t seen = 0;  // the last job this worker was in: it has no task left for it
  auto ready = [&] {
    if (stop_.load(std::memory_order_relaxed)) return true;
    uint64_t state = state_.load();
    return (state & kOpen) && state >> kJobShift != seen;
  };
  for (;;) {
    if (!runtime::spin_until(ready, kIdleSpin)) {
      std::unique_lock lock(sleep_mutex_);
      sleepers_.fetch_add(1);  // before the door is looked at again: run() opens it, then looks for sleepers
      wake_.wait(lock, ready);
      sleepers_.fetch_sub(1);
    }
    if (stop_.load(std::memory_order_relaxed)) return;
    if (!enter(seen)) continue;
    seen = state_.load(std::memory_order_relaxed) >> kJobShift;
    drain(self);
    state_.fetch_sub(kWorker, std::memory_order_release);
  }
}

void ThreadPool::wake(int64_t wanted) {
  int64_t sleeping = sleepers_.load();
  wanted -= static_cast<int64_t>(workers_.size()) - sleeping;  // those awake come by themselves
  if (sleeping == 0 || wanted <= 0) return;
  { std::lock_guard lock(sleep_mutex_); }  // whoever has counted itself now waits, or has seen the door open
  if (wanted >= sleeping) {
    wake_.notify_all();
  } else {
    for (int64_t i = 0; i < wanted; ++i) wake_.notify_one();
  }
}

void ThreadPool::run(int64_t count, void (*body)(void*, int64_t), void* argument, int64_t common) {
  if (count <= 0) return;
  if (workers_.empty() || count == 1 || taken_.test_and_set(std::memory_order_acquire)) {
    for (int64_t task = 0; task < count; ++task) body(argument, task);
    return;
  }
  body_ = body;
  argument_ = argument;
  const int64_t own = count - common, n = threads();
  for (int64_t i = 0; i < n; ++i) {
    shares_[i].next.store(i * own / n, std::memory_order_relaxed);
    shares_[i].end = (i + 1) * own / n;
  }
  shares_.back().next.store(own, std::memory_order_relaxed);
  shares_.back().end = count;
  uint64_t job = ((state_.load(std::memory_order_relaxed) >> kJobShift) + 1) << kJobShift;
  state_.store(job | kOpen);
  wake(count - 1);
  drain(0);
  state_.fetch_and(~kOpen, std::memory_order_acquire);
  auto everyone_left = [&] { return state_.load(std::memory_order_acquire) == job; };
  if (!runtime::spin_until(everyone_left, kFinishSpin))
    while (!everyone_left()) std::this_thread::yield();  // a worker may have lost its core
  std::exception_ptr error = std::exchange(error_, nullptr);
  taken_.clear(std::memory_order_release);
  if (error) std::rethrow_exception(error);
}

int usable_cores() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
  long long quota = 0, period = 0;
  if (FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    if (std::fscanf(file, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0) {
      int allowed = static_cast<int>((quota + period - 1) / period);
      if (allowed < cores) cores = allowed;
    }
    std::fclose(file);
  }
#endif
  return cores > 0 ? cores : 1;
}

}  // namespace trefoil::cpu
