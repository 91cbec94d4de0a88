// Tensor core and asynchronous copy instructions behind functions, with the fragment layouts of the PTX ISA; the emulated form
// computes the same from the layouts' definition.
#pragma once
#include "language.h"

namespace trefoil::cuda {

// d[16 x 8] += a[16 x 16] b[16 x 8] in f32, a and b bf16 (PTX: mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32).
// With g = lane / 4 and t = lane % 4, pairs of neighbours in one word:
//   a0 = A[g][2t, 2t+1], a1 = A[g+8][2t, ..], a2 = A[g][2t+8, ..], a3 = A[g+8][2t+8, ..]
//   b0 = B[2t, 2t+1][g], b1 = B[2t+8, ..][g];  d0, d1 = D[g][2t, 2t+1], d2, d3 = D[g+8][2t, 2t+1]
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(TREFOIL_CUDA_EMULATED)
  struct Fragments {
    uint32_t a[4], b[2];
  } mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  emulation::collective(0xffffffffu, "mma_bf16", mine, [&](const auto& lanes) {
    const auto part = [](uint32_t word, int odd) { return __uint_as_float((odd ? word >> 16 : word & 0xffffu) << 16); };
    const int group = lanes.self / 4, pair = lanes.self % 4;
    for (int i = 0; i < 4; ++i) {
      const int column = 2 * pair + i % 2, upper = i / 2;
      float total = d[i];
      for (int k = 0; k < 16; ++k) {
        const float x = part(lanes[group * 4 + k % 8 / 2].a[upper + k / 8 * 2], k % 2);
        const float y = part(lanes[column * 4 + k % 8 / 2].b[k / 8], k % 2);
        total += x * y;
      }
      d[i] = total;
    }
    return 0;
  });
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

#if defined(TREFOIL_CUDA_EMULATED)
namespace emulation {
// Matrix m of 8 x 8 16-bit elements has its rows at the addresses that lanes 8m..8m+7 give; lane l gets elements
// [l / 4][2 (l % 4), +1] of it, or of its transpose.
template <int matrices, bool transposed>
inline void load_matrices(uint32_t* words, const void* row, const char* name) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) stop("%s: a row's address is not a multiple of 16", name);
  collective(0xffffffffu, name, row, [&](const Lanes<const void*>& lanes) {
    for (int m = 0; m < matrices; ++m) {
      uint32_t word = 0;
      for (int i = 0; i < 2; ++i) {
        int r = lanes.self / 4, c = lanes.self % 4 * 2 + i;
        if (transposed) {
          const int kept = r;
          r = c;
          c = kept;
        }
        word |= static_cast<uint32_t>(static_cast<const uint16_t*>(lanes[8 * m + r])[c]) << 16 * i;
      }
      words[m] = word;
    }
    return 0;
  });
}
}  // namespace emulation
#endif

// Four 8 x 8 matrices of bf16 from shared memory (PTX: ldmatrix.sync.aligned.m8n8.x4.shared.b16). `row`: 16-byte aligned; lanes
// 8m..8m+7 give the rows of matrix m; lane l gets elements [l / 4][2 (l % 4), +1] of every matrix.
__device__ __forceinline__ void load_matrix_x4(uint32_t (&words)[4], const void* row) {
#if defined(TREFOIL_CUDA_EMULATED)
  emulation::load_matrices<4, false>(words, row, "load_matrix_x4");
#else
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(address) : "memory");
#endif
}
// The same, each matrix transposed.
__device__ __forceinline__ void load_matrix_x4_transposed(uint32_t (&words)[4], const void* row) {
#if defined(TREFOIL_CUDA_EMULATED)
  emulation::load_matrices<4, true>(words, row, "load_matrix_x4_transposed");
#else
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(address) : "memory");
#endif
}
// Two matrices: lanes 0..15 give the rows.
__device__ __forceinline__ void load_matrix_x2(uint32_t (&words)[2], const void* row) {
#if defined(TREFOIL_CUDA_EMULATED)
  emulation::load_matrices<2, false>(words, row, "load_matrix_x2");
#else
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(words[0]), "=r"(words[1]) : "r"(address) : "memory");
#endif
}
__device__ __forceinline__ void load_matrix_x2_transposed(uint32_t (&words)[2], const void* row) {
#if defined(TREFOIL_CUDA_EMULATED)
  emulation::load_matrices<2, true>(words, row, "load_matrix_x2_transposed");
#else
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(words[0]), "=r"(words[1]) : "r"(address) : "memory");
#endif
}

// 16 bytes from global to shared memory, both 16-byte aligned, past the registers (PTX: cp.async.cg.shared.global). Not `valid`: zeros
// are written and nothing is read. They have arrived once copy_async_wait has returned and the block has passed a barrier.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool valid = true) {
#if defined(TREFOIL_CUDA_EMULATED)
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || (valid && reinterpret_cast<uintptr_t>(global) % 16 != 0))
    emulation::stop("copy_async_16: an address is not a multiple of 16");
  // Written when it is waited for: a read before that sees what the device might still have there.
  emulation::thread().pending_copies.push_back([=] {
    if (valid)
      std::memcpy(shared, global, 16);
    else
      std::memset(shared, 0, 16);
  });
#else
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(bytes) : "memory");
#endif
}
// Ends a group of copies.
__device__ __forceinline__ void copy_async_commit() {
#if defined(TREFOIL_CUDA_EMULATED)
  emulation::Thread& self = emulation::thread();
  self.committed_groups.push_back(self.pending_copies.size());
  for (auto& copy : self.pending_copies) self.committed_copies.push_back(std::move(copy));
  self.pending_copies.clear();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most the `newest` last groups of this thread are still under way.
template <int newest>
__device__ __forceinline__ void copy_async_wait() {
#if defined(TREFOIL_CUDA_EMULATED)
  emulation::Thread& self = emulation::thread();
  while (self.committed_groups.size() > newest) {
    const auto end = self.committed_copies.begin() + static_cast<std::ptrdiff_t>(self.committed_groups.front());
    for (auto copy = self.committed_copies.begin(); copy != end; ++copy) (*copy)();
    self.committed_copies.erase(self.committed_copies.begin(), end);
    self.committed_groups.erase(self.committed_groups.begin());
  }
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(newest) : "memory");
#endif
}

}  // namespace trefoil::cuda
