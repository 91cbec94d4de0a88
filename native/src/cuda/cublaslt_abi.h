// The part of cuBLASLt's C ABI that is used, as its documentation describes it: names are ours, values are cuBLAS's.
#pragma once
#include <cstddef>
#include <cstdint>

namespace trefoil::cuda::cublaslt {

using Status = int32_t;  // cublasStatus_t
constexpr Status kSuccess = 0;
constexpr int32_t kCompute32F = 68;                 // CUBLAS_COMPUTE_32F
constexpr int32_t kReal32F = 0, kRealBf16 = 14;     // cudaDataType_t
constexpr int32_t kPlain = 0, kTransposed = 1;      // cublasOperation_t
constexpr int32_t kTransposeA = 3, kTransposeB = 4;  // cublasLtMatmulDescAttributes_t
constexpr int32_t kBatchCount = 5, kBatchStep = 6;   // cublasLtMatrixLayoutAttribute_t: int32_t, int64_t
// cublasLtMatmulPreferenceAttributes_t: uint64_t, then uint32_t each.
constexpr int32_t kMostWorkspace = 1, kReductionSchemes = 3, kAlignmentA = 5, kAlignmentB = 6, kAlignmentC = 7, kAlignmentD = 8;
// cublasLtReductionScheme_t without INPLACE (1), whose sums have no order, and OUTPUT_TYPE (4), which rounds parts of a sum to bf16.
constexpr uint32_t kOrderedReductions = 2;

struct Algorithm {
  uint64_t data[8];
};
struct Heuristic {  // cublasLtMatmulHeuristicResult_t
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(Heuristic) == 96);

// Opaque objects, behind pointers that the library makes.
using Handle = void*;
using Descriptor = void*;
using Layout = void*;
using Preference = void*;

}  // namespace trefoil::cuda::cublaslt
