// The clock of the benches, and what they say of several times.
#pragma once
#include <algorithm>
#include <chrono>
#include <ctime>
#include <vector>

// With one thread on the CPU the processor time of that thread, which other processes disturb less; else the time on the wall.
inline bool thread_clock = false;
inline double seconds() {
  if (!thread_clock) return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

inline double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2), values.end());
  return values[values.size() / 2];
}
