// What every CPU kernel file sees: the launch, checks, the thread pool, per-thread scratch.
// Kernel files are compiled once per ISA, each time inside the namespace TREFOIL_ISA. They may not use std:: templates:
// the linker could keep the AVX-512 copy of a shared template and crash older machines (native/test/symbols.cmake checks).
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "trefoil/backend.h"

namespace trefoil::cpu {

// Throws the error that becomes TrefoilStatus at the ABI edge. Defined outside the per-ISA objects.
[[noreturn]] void fail(TrefoilCode code, const char* format, ...) __attribute__((format(printf, 2, 3)));

class ThreadPool;      // thread_pool.h
struct Bf16Products;   // kernels/bf16_products.h

// Handed to every kernel: how to split work and where to put scratch.
class Context {
 public:
  Context(ThreadPool& pool, const Bf16Products* bf16) : pool_(pool), bf16_(bf16) {}
  int threads() const;
  // How products round their operands to bf16; null: they do not.
  const Bf16Products* bf16_products() const { return bf16_; }

  // Runs body(task) for task in [0, count), each exactly once, on any thread. The split into tasks must not depend on
  // the number of threads: that is what makes results independent of it. Small work: pass count = 1. The last `common` tasks,
  // smaller ones, run when a thread has done its part of the others.
  template <class Body>
  void parallel(int64_t count, const Body& body, int64_t common = 0) {
    parallel_raw(count, [](void* state, int64_t task) { (*static_cast<const Body*>(state))(task); },
                 const_cast<void*>(static_cast<const void*>(&body)), common);
  }

  // 64-byte aligned scratch of the calling thread, valid until the same slot is asked for again by that thread.
  // Slots let one kernel hold several buffers: 0..7.
  void* scratch(int slot, size_t bytes);

 private:
  void parallel_raw(int64_t count, void (*body)(void*, int64_t), void* state, int64_t common);
  ThreadPool& pool_;
  const Bf16Products* bf16_;
};

using KernelFunction = void (*)(Context&, const TrefoilLaunch&);
using WorkspaceFunction = size_t (*)(const TrefoilLaunch&);  // null: none

struct KernelEntry {
  const char* name;
  KernelFunction run;
  WorkspaceFunction workspace;
};

// What one family file exports: a null-terminated list.
using KernelTable = const KernelEntry*;

inline int64_t elements(const TrefoilView& view) {
  int64_t count = 1;
  for (int i = 0; i < view.rank; ++i) count *= view.shape[i];
  return count;
}
inline int64_t last_dimension(const TrefoilView& view) { return view.rank ? view.shape[view.rank - 1] : 1; }
inline int64_t row_count(const TrefoilView& view) {
  int64_t count = 1;
  for (int i = 0; i + 1 < view.rank; ++i) count *= view.shape[i];
  return count;
}

template <class T>
inline T* data(const TrefoilView& view) { return static_cast<T*>(view.data); }

inline float bf16_to_f32(uint16_t bits) {
  uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}
inline uint16_t f32_to_bf16(float value) {  // round to nearest even; NaN stays NaN
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace trefoil::cpu
