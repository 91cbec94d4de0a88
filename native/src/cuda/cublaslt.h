// Products of matrices by cuBLASLt, opened at run time where the machine has it. Of its C interface only what is called here is
// declared: enumerators and structures of cuBLAS 12 and 13, which are part of its ABI.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "platform.h"

namespace trefoil::cuda {

class Cublaslt {
 public:
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what its documentation recommends for Hopper

  // The library at `path`, or (null) of the names that CUDA installs. Null with the loader's reason where there is none that fits.
  static std::unique_ptr<Cublaslt> open(const char* path, std::string& reason);
  ~Cublaslt();
  Cublaslt(const Cublaslt&) = delete;
  Cublaslt& operator=(const Cublaslt&) = delete;

  std::string version() const;  // such as "13.1.0"

  // A matrix in memory: `rows` of `stride` bf16 elements, one after another, the next of a batch `step` elements on.
  struct Operand {
    const void* data;
    int64_t stride, step;
    bool by_depth;  // rows run along k; else the number of rows is k
  };
  // c [count][m, n] of f32, or (half) bf16, = alpha a b + residual, which is stored as c is, may be c, or null. False: the library has no
  // algorithm for it, and nothing was launched.
  bool multiply(platform::Stream stream, const Operand& a, const Operand& b, int64_t m, int64_t n, int64_t k, int count, float alpha, const void* residual,
                void* c, bool half, void* workspace) const;

 private:
  struct Functions;
  Cublaslt() = default;
  std::unique_ptr<Functions> functions_;
  void* handle_ = nullptr;
};

}  // namespace trefoil::cuda
