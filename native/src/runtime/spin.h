// Waiting for microseconds without a system call.
#pragma once
#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace trefoil::runtime {

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Polls until ready() or until the time is up; the last answer of ready(). A pause lasts 10 to 140 cycles depending on
// the core, so the limit is a time and not a count.
template <class Ready>
bool spin_until(const Ready& ready, std::chrono::nanoseconds limit) {
  if (ready()) return true;
  auto end = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < 16; ++i) {
      relax();
      if (ready()) return true;
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

}  // namespace trefoil::runtime
