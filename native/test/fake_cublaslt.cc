// A stand-in for cuBLASLt over host memory, for the emulator: what the library's documentation says of the calls that are made. Matrices
// go column by column, operands are bf16, sums f32. TREFOIL_FAKE_CUBLASLT_NONE in the environment: no algorithm is ever found.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "cublaslt_abi.h"

using namespace trefoil::cuda::cublaslt;

namespace {

constexpr Status kInvalidValue = 7;

struct FakeLayout {
  int32_t type, batch = 1;
  uint64_t rows, columns;
  int64_t leading, step = 0;
};
struct FakeDescriptor {
  int32_t transpose[2] = {kPlain, kPlain};
};
struct FakePreference {
  uint64_t workspace = 0;
  uint32_t reductions = 0x7, alignments[4] = {256, 256, 256, 256};
};

template <class T>
Status assign(T& to, const void* from, size_t bytes) {
  if (bytes != sizeof to) return kInvalidValue;
  std::memcpy(&to, from, bytes);
  return kSuccess;
}
float widen(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}
uint16_t narrow(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace

extern "C" {

Status cublasLtCreate(Handle* handle) { return *handle = new int, kSuccess; }
Status cublasLtDestroy(Handle handle) { return delete static_cast<int*>(handle), kSuccess; }
size_t cublasLtGetVersion() { return 130102; }
Status cublasLtMatmulDescCreate(Descriptor* descriptor, int32_t compute, int32_t scale) {
  *descriptor = new FakeDescriptor;
  return compute == kCompute32F && scale == kReal32F ? kSuccess : kInvalidValue;
}
Status cublasLtMatmulDescDestroy(Descriptor descriptor) { return delete static_cast<FakeDescriptor*>(descriptor), kSuccess; }
Status cublasLtMatmulDescSetAttribute(Descriptor descriptor, int32_t attribute, const void* value, size_t bytes) {
  if (attribute != kTransposeA && attribute != kTransposeB) return kInvalidValue;
  return assign(static_cast<FakeDescriptor*>(descriptor)->transpose[attribute - kTransposeA], value, bytes);
}
Status cublasLtMatrixLayoutCreate(Layout* layout, int32_t type, uint64_t rows, uint64_t columns, int64_t leading) {
  *layout = new FakeLayout{type, 1, rows, columns, leading};
  return leading >= static_cast<int64_t>(rows) ? kSuccess : kInvalidValue;
}
Status cublasLtMatrixLayoutDestroy(Layout layout) { return delete static_cast<FakeLayout*>(layout), kSuccess; }
Status cublasLtMatrixLayoutSetAttribute(Layout layout, int32_t attribute, const void* value, size_t bytes) {
  auto* to = static_cast<FakeLayout*>(layout);
  return attribute == kBatchCount ? assign(to->batch, value, bytes) : attribute == kBatchStep ? assign(to->step, value, bytes) : kInvalidValue;
}
Status cublasLtMatmulPreferenceCreate(Preference* preference) { return *preference = new FakePreference, kSuccess; }
Status cublasLtMatmulPreferenceDestroy(Preference preference) { return delete static_cast<FakePreference*>(preference), kSuccess; }
Status cublasLtMatmulPreferenceSetAttribute(Preference preference, int32_t attribute, const void* value, size_t bytes) {
  auto* to = static_cast<FakePreference*>(preference);
  if (attribute == kMostWorkspace) return assign(to->workspace, value, bytes);
  if (attribute == kReductionSchemes) return assign(to->reductions, value, bytes);
  return attribute >= kAlignmentA && attribute <= kAlignmentD ? assign(to->alignments[attribute - kAlignmentA], value, bytes) : kInvalidValue;
}
Status cublasLtMatmulAlgoGetHeuristic(Handle, Descriptor, Layout, Layout, Layout, Layout, Preference, int wanted, Heuristic* results, int* found) {
  *found = wanted > 0 && !std::getenv("TREFOIL_FAKE_CUBLASLT_NONE");
  if (*found) results[0].algorithm.data[0] = 42;
  return kSuccess;
}
Status cublasLtMatmul(Handle, Descriptor descriptor, const void* alpha, const void* a, Layout a_layout, const void* b, Layout b_layout, const void* beta,
                      const void* c, Layout c_layout, void* d, Layout d_layout, const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void*) {
  const auto &left = *static_cast<FakeLayout*>(a_layout), &right = *static_cast<FakeLayout*>(b_layout), &result = *static_cast<FakeLayout*>(d_layout);
  const auto& operation = *static_cast<FakeDescriptor*>(descriptor);
  float scale, keep;
  std::memcpy(&scale, alpha, 4);
  std::memcpy(&keep, beta, 4);
  if (algorithm->data[0] != 42 || (keep != 0 && c_layout != d_layout) || left.type != kRealBf16 || right.type != kRealBf16 || (result.type != kReal32F && result.type != kRealBf16) || !workspace || workspace_bytes == 0)
    return kInvalidValue;
  const bool turn_left = operation.transpose[0] == kTransposed, turn_right = operation.transpose[1] == kTransposed;
  const uint64_t depth = turn_left ? left.rows : left.columns;
  if ((turn_left ? left.columns : left.rows) != result.rows || (turn_right ? right.rows : right.columns) != result.columns ||
      (turn_right ? right.columns : right.rows) != depth)
    return kInvalidValue;
  for (int32_t batch = 0; batch < result.batch; ++batch) {
    const auto *x = static_cast<const uint16_t*>(a) + batch * left.step, *y = static_cast<const uint16_t*>(b) + batch * right.step;
    for (uint64_t i = 0; i < result.rows; ++i)
      for (uint64_t j = 0; j < result.columns; ++j) {
        float sum = 0;
        for (uint64_t p = 0; p < depth; ++p) {
          const uint64_t at_x = turn_left ? i * static_cast<uint64_t>(left.leading) + p : p * static_cast<uint64_t>(left.leading) + i;
          const uint64_t at_y = turn_right ? p * static_cast<uint64_t>(right.leading) + j : j * static_cast<uint64_t>(right.leading) + p;
          sum += widen(x[at_x]) * widen(y[at_y]);
        }
        const uint64_t at = static_cast<uint64_t>(batch * result.step) + j * static_cast<uint64_t>(result.leading) + i;
        sum *= scale;
        if (keep != 0) sum += keep * (result.type == kRealBf16 ? widen(static_cast<const uint16_t*>(c)[at]) : static_cast<const float*>(c)[at]);
        if (result.type == kRealBf16) static_cast<uint16_t*>(d)[at] = narrow(sum);
        else static_cast<float*>(d)[at] = sum;
      }
  }
  return kSuccess;
}

}  // extern "C"
