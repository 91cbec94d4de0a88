// The kernel families: each is one file kernels/<family>.cu (with headers of its own where it is large) that exports
// `const KernelEntry <family>_kernels[]` in namespace trefoil::cuda, ending in {nullptr, nullptr, nullptr}.
#pragma once
#define TREFOIL_CUDA_VECTOR_FAMILIES(X) \
  X(elementwise)                        \
  X(softmax)                            \
  X(norm)                               \
  X(swiglu)                             \
  X(rope)                               \
  X(resample2)                          \
  X(random)                             \
  X(optimizer)                          \
  X(reduce)                             \
  X(indexing)                           \
  X(movement)                           \
  X(transpose)                          \
  X(group_norm)                         \
  X(sampling)                           \
  X(masked_diffusion)

// Families that need products of matrices or tiles in shared memory.
#define TREFOIL_CUDA_TILE_FAMILIES(X) \
  X(attention)                        \
  X(conv2d)                           \
  X(cross_entropy)                    \
  X(grouped_matmul)                   \
  X(matmul)                           \
  X(moe)                              \
  X(vq)

#define TREFOIL_CUDA_FAMILIES(X)  \
  TREFOIL_CUDA_VECTOR_FAMILIES(X) \
  TREFOIL_CUDA_TILE_FAMILIES(X)
