// C = A B by wgmma, for sm_90a: tiles of 128 x 128, a producer thread that has the copy engine (TMA) fill a ring of stages, and two warp
// groups of 64 x 128 that multiply. Both operands lie along k. It has never run (no GPU was at hand, and the emulator knows neither
// instruction), so it is used only where TREFOIL_CUDA_WGMMA=1.
#include <cuda.h>

#include <cstdlib>
#include <cstring>

#include "kernels/gemm_wgmma.h"

namespace trefoil::cuda {

namespace {

constexpr int kSide = 128, kDepth = 64, kStages = 5, kThreads = 384;  // warp group 0 produces, 1 and 2 multiply
constexpr uint32_t kTileBytes = kSide * kDepth * sizeof(bf16), kStageBytes = 2 * kTileBytes;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define TREFOIL_WGMMA 1
#endif

#if defined(TREFOIL_WGMMA)

__device__ __forceinline__ uint32_t shared_address(const void* pointer) { return static_cast<uint32_t>(__cvta_generic_to_shared(pointer)); }

__device__ __forceinline__ void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
__device__ __forceinline__ void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
// Until the phase of this parity has ended.
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}\n" ::"r"(shared_address(barrier)), "r"(parity) : "memory");
}
// A box of the tensor at (k, row) to shared memory; its bytes count at the barrier.
__device__ __forceinline__ void copy_box(void* to, const CUtensorMap* map, int k, int row, uint64_t* barrier) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)), "l"(map),
               "r"(shared_address(barrier)), "r"(k), "r"(row) : "memory");
}

// Rows of 128 bytes, swizzled by 128 bytes: eight rows are 1024 bytes apart from the next eight.
__device__ __forceinline__ uint64_t describe(const void* tile) {
  return static_cast<uint64_t>((shared_address(tile) & 0x3ffffu) >> 4) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

// d[64 x 128] = (or, where `add`, +=) a[64 x 16] b[128 x 16] transposed.
__device__ __forceinline__ void multiply_group(float (&d)[64], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, p, 1, 1, 0, 0;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
        "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
        "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
        "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "l"(a), "l"(b), "r"(add));
}

#endif

__global__ void __launch_bounds__(kThreads, 1) gemm_wgmma_kernel(const __grid_constant__ CUtensorMap a_map, const __grid_constant__ CUtensorMap b_map, Product p) {
#if defined(TREFOIL_WGMMA)
  __shared__ uint64_t full[kStages], empty[kStages];
  unsigned char* stages = dynamic_shared<unsigned char>();
  stages += (1024 - shared_address(stages) % 1024) % 1024;  // the swizzle goes by address
  Tile tile;
  if (!locate<kSide, kSide, kDepth>(p, tile)) return;
  const int steps = (p.k + kDepth - 1) / kDepth, group = static_cast<int>(threadIdx.x) / 128;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(&full[stage], 1);
      barrier_init(&empty[stage], 8);  // every warp that reads
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) {
      for (int step = 0; step < steps; ++step) {
        const int stage = step % kStages;
        if (step >= kStages) barrier_wait(&empty[stage], static_cast<uint32_t>(step / kStages - 1) & 1u);
        barrier_expect(&full[stage], kStageBytes);  // what lies outside of the tensor counts too: it arrives as zeros
        copy_box(stages + stage * kStageBytes, &a_map, step * kDepth, tile.row, &full[stage]);
        copy_box(stages + stage * kStageBytes + kTileBytes, &b_map, step * kDepth, tile.column, &full[stage]);
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int warp_row = (group - 1) * 64;
    float sums[64];
#pragma unroll
    for (float& sum : sums) sum = 0;
    for (int step = 0; step < steps; ++step) {
      const int stage = step % kStages;
      barrier_wait(&full[stage], static_cast<uint32_t>(step / kStages) & 1u);
      const uint64_t a = describe(stages + stage * kStageBytes + warp_row * kDepth * 2), b = describe(stages + stage * kStageBytes + kTileBytes);
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
      for (int k = 0; k < kDepth / 16; ++k) multiply_group(sums, a + 2 * k, b + 2 * k, step > 0 || k > 0);  // 16 of k are 32 bytes
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");  // the step before is done with its stage
      if (step > 0 && lane_index() == 0) barrier_arrive(&empty[(step - 1) % kStages]);
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    const int lane = lane_index(), row = tile.row + warp_row + warp_index() % 4 * 16 + lane / 4, column = tile.column + lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (row + 8 * half >= tile.row_end) continue;
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        const int first = column + 8 * j;
        const int64_t at = static_cast<int64_t>(row + 8 * half) * p.n + first;
        if (p.n % 2 == 0) {
          if (first < p.n)
            p.c.store2(at, make_float2(finish(p.epilogue, sums[4 * j + 2 * half], first, at, at),
                                       finish(p.epilogue, sums[4 * j + 2 * half + 1], first + 1, at + 1, at + 1)));
        } else {
          if (first < p.n) p.c.store(at, finish(p.epilogue, sums[4 * j + 2 * half], first, at, at));
          if (first + 1 < p.n) p.c.store(at + 1, finish(p.epilogue, sums[4 * j + 2 * half + 1], first + 1, at + 1, at + 1));
        }
      }
    }
  }
#endif
}

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function, by its version; null where the driver has none. Its library is not linked: the runtime opens it.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
#else
  const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
  return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(function) : nullptr;
}

// Boxes of 128 rows by 64 of k, swizzled by 128 bytes; zeros outside of [rows, k].
bool encode(Encode function, CUtensorMap& map, const Rows<bf16>& rows, int count, int k) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(k), static_cast<cuuint64_t>(count)}, strides[1] = {static_cast<cuuint64_t>(rows.stride) * sizeof(bf16)};
  const cuuint32_t box[2] = {kDepth, kSide}, steps[2] = {1, 1};
  return function(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<bf16*>(rows.data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool wanted() {
  const char* value = std::getenv("TREFOIL_CUDA_WGMMA");
  return value && std::strcmp(value, "1") == 0;
}

}  // namespace

bool gemm_wgmma(const Context& context, const Rows<bf16>& a, const Rows<bf16>& b, const Product& p) {
  static const bool enabled = wanted();
  if (!enabled || context.capability != 90 || p.schedule != Schedule::batch || p.count != 1 || p.splits != 1 || p.placement.columns != 0 || a.index || b.index || p.k == 0)
    return false;
  static const Encode function = find_encode();
  CUtensorMap a_map, b_map;
  if (!function || !encode(function, a_map, a, p.m, p.k) || !encode(function, b_map, b, p.n, p.k)) return false;
  const auto blocks = static_cast<unsigned>(ceil_divide(p.m, kSide) * ceil_divide(p.n, kSide));
  launch(context, {blocks, kThreads, kStages * kStageBytes + 1024}, gemm_wgmma_kernel, a_map, b_map, p);
  return true;
}

}  // namespace trefoil::cuda
