// Memory that an op asks for before it runs.
#pragma once
#include "kernel.h"

namespace trefoil::cuda {

// Parts of an op's workspace, one after another. Without memory it only counts: the same code measures and runs.
class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(const TrefoilLaunch& launch) : base_(static_cast<char*>(launch.workspace)), running_(true) {}
  template <class T>
  T* take(int64_t count) {
    T* result = running_ ? reinterpret_cast<T*>(base_ + bytes_) : nullptr;
    bytes_ += (static_cast<size_t>(count) * sizeof(T) + 127) / 128 * 128;
    if (bytes_ > peak_) peak_ = bytes_;
    return result;
  }
  size_t mark() const { return bytes_; }
  void release_to(size_t mark) { bytes_ = mark; }
  size_t peak() const { return peak_; }
  bool running() const { return running_; }

 private:
  char* base_ = nullptr;
  size_t bytes_ = 0, peak_ = 0;
  bool running_ = false;
};

// The table's entry of an op that is written once, as body(context, workspace, launch). Measured, it must launch nothing.
template <void (*body)(const Context&, Workspace&, const TrefoilLaunch&)>
constexpr KernelEntry with_workspace(const char* name) {
  return {name,
          [](const Context& context, const TrefoilLaunch& launch) {
            Workspace workspace(launch);
            body(context, workspace, launch);
          },
          [](const Context& context, const TrefoilLaunch& launch) {
            Workspace workspace;
            body(context, workspace, launch);
            return workspace.peak();
          }};
}

}  // namespace trefoil::cuda
