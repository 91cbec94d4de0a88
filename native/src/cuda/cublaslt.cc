#include "cublaslt.h"

#include <dlfcn.h>

#include "cublaslt_abi.h"

namespace trefoil::cuda {

using namespace cublaslt;

struct Cublaslt::Functions {
  Status (*create)(Handle*);
  Status (*destroy)(Handle);
  size_t (*version)();
  Status (*describe)(Descriptor*, int32_t compute, int32_t scale);
  Status (*forget)(Descriptor);
  Status (*set)(Descriptor, int32_t attribute, const void*, size_t);
  Status (*lay_out)(Layout*, int32_t type, uint64_t rows, uint64_t columns, int64_t leading);
  Status (*forget_layout)(Layout);
  Status (*set_layout)(Layout, int32_t attribute, const void*, size_t);
  Status (*prefer)(Preference*);
  Status (*forget_preference)(Preference);
  Status (*set_preference)(Preference, int32_t attribute, const void*, size_t);
  Status (*choose)(Handle, Descriptor, Layout, Layout, Layout, Layout, Preference, int wanted, Heuristic*, int* found);
  Status (*multiply)(Handle, Descriptor, const void* alpha, const void* a, Layout, const void* b, Layout, const void* beta, const void* c, Layout, void* d, Layout,
                     const Algorithm*, void* workspace, size_t workspace_bytes, platform::Stream);
};

namespace {

// An object of the library that goes with its scope.
class Owned {
 public:
  explicit Owned(Status (*release)(void*)) : release_(release) {}
  ~Owned() {
    if (object) release_(object);
  }
  Owned(const Owned&) = delete;
  void* object = nullptr;

 private:
  Status (*release_)(void*);
};

template <class Function>
bool find(void* library, const char* name, Function& function, std::string& reason) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (!function) reason = std::string("it has no ") + name;
  return function;
}

}  // namespace

std::unique_ptr<Cublaslt> Cublaslt::open(const char* path, std::string& reason) {
  if (!path) {  // a newer one may be there that the driver is too old for
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"})
      if (auto found = open(name, reason)) return found;
    return nullptr;
  }
  // Never unloaded: recordings may outlive the device that they were made on, and hold its kernels.
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!library) {
    const char* error = dlerror();
    reason = error ? error : "it was not found";
    return nullptr;
  }
  std::unique_ptr<Cublaslt> made(new Cublaslt);
  auto functions = std::make_unique<Functions>();
  Functions& f = *functions;
  if (!find(library, "cublasLtCreate", f.create, reason) || !find(library, "cublasLtDestroy", f.destroy, reason) ||
      !find(library, "cublasLtGetVersion", f.version, reason) || !find(library, "cublasLtMatmulDescCreate", f.describe, reason) ||
      !find(library, "cublasLtMatmulDescDestroy", f.forget, reason) || !find(library, "cublasLtMatmulDescSetAttribute", f.set, reason) ||
      !find(library, "cublasLtMatrixLayoutCreate", f.lay_out, reason) || !find(library, "cublasLtMatrixLayoutDestroy", f.forget_layout, reason) ||
      !find(library, "cublasLtMatrixLayoutSetAttribute", f.set_layout, reason) || !find(library, "cublasLtMatmulPreferenceCreate", f.prefer, reason) ||
      !find(library, "cublasLtMatmulPreferenceDestroy", f.forget_preference, reason) ||
      !find(library, "cublasLtMatmulPreferenceSetAttribute", f.set_preference, reason) ||
      !find(library, "cublasLtMatmulAlgoGetHeuristic", f.choose, reason) || !find(library, "cublasLtMatmul", f.multiply, reason))
    return nullptr;
  if (const size_t version = f.version(); version < 120000 || version >= 140000) {
    reason = "its version is " + std::to_string(version) + "; 12 or 13 is needed";
    return nullptr;
  }
  if (const Status status = f.create(&made->handle_); status != kSuccess) {
    reason = "cublasLtCreate reports status " + std::to_string(status);
    made->handle_ = nullptr;
    return nullptr;
  }
  made->functions_ = std::move(functions);
  return made;
}

Cublaslt::~Cublaslt() {
  if (handle_) functions_->destroy(handle_);
}

std::string Cublaslt::version() const {
  const size_t version = functions_->version();
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
}

// The library's matrices go column by column: rows of ours are its columns, and c transposed is b transposed times a transposed.
bool Cublaslt::multiply(platform::Stream stream, const Operand& a, const Operand& b, int64_t m, int64_t n, int64_t k, int count, float alpha,
                        const void* residual, void* c, bool half, void* workspace) const {
  const Functions& f = *functions_;
  bool good = true;
  const auto check = [&](Status status) { good = good && status == kSuccess; };
  Owned product(f.forget), preference(f.forget_preference), left(f.forget_layout), right(f.forget_layout), result(f.forget_layout);
  check(f.describe(&product.object, kCompute32F, kReal32F));
  check(f.prefer(&preference.object));
  const auto lay_out = [&](Owned& layout, int32_t type, int64_t rows, int64_t columns, int64_t leading, int64_t step) {
    check(f.lay_out(&layout.object, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), leading));
    if (!good || count == 1) return;
    const int32_t batch = count;
    check(f.set_layout(layout.object, kBatchCount, &batch, sizeof batch));
    check(f.set_layout(layout.object, kBatchStep, &step, sizeof step));
  };
  lay_out(left, kRealBf16, b.by_depth ? k : n, b.by_depth ? n : k, b.stride, b.step);
  lay_out(right, kRealBf16, a.by_depth ? k : m, a.by_depth ? m : k, a.stride, a.step);
  lay_out(result, half ? kRealBf16 : kReal32F, n, m, n, m * n);
  if (!good) return false;
  const int32_t of_b = b.by_depth ? kTransposed : kPlain, of_a = a.by_depth ? kPlain : kTransposed;
  check(f.set(product.object, kTransposeA, &of_b, sizeof of_b));
  check(f.set(product.object, kTransposeB, &of_a, sizeof of_a));
  const uint64_t most = kWorkspaceBytes;
  check(f.set_preference(preference.object, kMostWorkspace, &most, sizeof most));
  const uint32_t operands = 16, element = half ? 2 : 4, results = n * element % 16 == 0 ? 16 : element;
  for (int32_t attribute : {kAlignmentA, kAlignmentB}) check(f.set_preference(preference.object, attribute, &operands, sizeof operands));
  for (int32_t attribute : {kAlignmentC, kAlignmentD}) check(f.set_preference(preference.object, attribute, &results, sizeof results));
  check(f.set_preference(preference.object, kReductionSchemes, &kOrderedReductions, sizeof kOrderedReductions));
  Heuristic chosen{};
  int found = 0;
  if (good) check(f.choose(handle_, product.object, left.object, right.object, result.object, result.object, preference.object, 1, &chosen, &found));
  if (!good || found == 0 || chosen.state != kSuccess) return false;
  const float beta = residual ? 1 : 0;
  return f.multiply(handle_, product.object, &alpha, b.data, left.object, a.data, right.object, &beta, residual ? residual : c, result.object, c, result.object,
                    &chosen.algorithm, workspace, kWorkspaceBytes, stream) == kSuccess;
}

}  // namespace trefoil::cuda
