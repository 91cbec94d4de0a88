#include "cpu/thread_pool.h"

#include <atomic>
#include <map>
#include <mutex>
#include <stdexcept>

#include "harness.h"

using trefoil::cpu::ThreadPool;

namespace {

template <class Body>
void run(ThreadPool& pool, int64_t count, const Body& body, int64_t common = 0) {
  pool.run(count, [](void* state, int64_t task) { (*static_cast<const Body*>(state))(task); }, const_cast<Body*>(&body), common);
}

}  // namespace

TEST_ONCE(pool_runs_each_task_once) {
  for (int threads : {1, 2, 3, 9}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (int64_t count : {0, 1, 2, 7, 1000})
      for (int64_t common : {int64_t{0}, count / 3, count}) {
        std::vector<std::atomic<int>> hits(static_cast<size_t>(count));
        run(pool, count, [&](int64_t task) { hits[static_cast<size_t>(task)]++; }, common);
        for (auto& hit : hits) CHECK(hit == 1);
      }
  }
}

TEST_ONCE(pool_starts_each_thread_on_tasks_of_its_own) {
  ThreadPool pool(2);
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> arrived{0};
    std::mutex mutex;
    std::map<std::thread::id, int64_t> first;
    run(pool, 10, [&](int64_t task) {
      std::unique_lock lock(mutex);
      if (!first.emplace(std::this_thread::get_id(), task).second) return;
      lock.unlock();
      ++arrived;
      while (arrived < 2) std::this_thread::yield();  // so that both take part
    }, 2);
    CHECK(first.size() == 2);
    CHECK(first[std::this_thread::get_id()] == 0);
    for (auto [thread, task] : first) CHECK(thread == std::this_thread::get_id() || task == 4);
  }
}

// Jobs back to back, on more threads than cores, each with state of its own that is gone when run() returns: a worker
// that is late must never touch the next job's tasks with this job's state, nor the other way round.
TEST_ONCE(pool_alternating_jobs) {
  ThreadPool pool(6);
  int64_t total = 0;
  for (int64_t job = 0; job < 20000; ++job) {
    int64_t count = 2 + job % 5;
    std::vector<int64_t> seen(static_cast<size_t>(count), -1);  // on purpose not atomic: each task has its own slot
    run(pool, count, [&, job](int64_t task) { seen[static_cast<size_t>(task)] = job * 10 + task; });
    for (int64_t task = 0; task < count; ++task) CHECK(seen[static_cast<size_t>(task)] == job * 10 + task);
    total += count;
  }
  CHECK(total == 80000);
}

TEST_ONCE(pool_wakes_sleeping_workers) {
  ThreadPool pool(3);
  for (int round = 0; round < 30; ++round) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));  // longer than the spin
    // Both tasks wait for each other: passes only if another thread really takes part.
    std::atomic<int> arrived{0};
    run(pool, 2, [&](int64_t) {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();
    });
    CHECK(arrived == 2);
  }
}

TEST_ONCE(pool_rethrows_the_first_exception_and_lives_on) {
  for (int threads : {1, 4}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 100; ++round) {
      std::string caught;
      try {
        run(pool, 64, [](int64_t task) {
          if (task == 5) throw std::runtime_error("task 5");
        });
      } catch (const std::runtime_error& error) {
        caught = error.what();
      }
      CHECK(caught == "task 5");
      std::atomic<int> hits{0};
      run(pool, 64, [&](int64_t) { ++hits; });
      CHECK(hits == 64);
    }
  }
}

TEST_ONCE(pool_nested_and_concurrent_jobs_run) {
  ThreadPool pool(4);
  std::atomic<int> hits{0};
  run(pool, 8, [&](int64_t) { run(pool, 8, [&](int64_t) { ++hits; }); });
  CHECK(hits == 64);
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i)
    callers.emplace_back([&] {
      for (int round = 0; round < 500; ++round) run(pool, 5, [&](int64_t) { ++hits; });
    });
  for (auto& caller : callers) caller.join();
  CHECK(hits == 64 + 3 * 500 * 5);
}

TEST_ONCE(pool_ends_while_idle_spinning_or_never_used) {
  for (int round = 0; round < 50; ++round) {
    ThreadPool unused(4);
    ThreadPool fresh(4);
    run(fresh, 4, [](int64_t) {});
    if (round % 2) std::this_thread::sleep_for(std::chrono::microseconds(150));
  }
}
