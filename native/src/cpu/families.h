// The kernel families: each is one file kernels/<family>.cc (with headers of its own where it is large) that exports
// `const KernelEntry <family>_kernels[]` in namespace trefoil::cpu::TREFOIL_ISA, ending in {nullptr, nullptr, nullptr}.
#pragma once
#define TREFOIL_CPU_FAMILIES(X) \
  X(elementwise)                \
  X(reduce)                     \
  X(movement)                   \
  X(indexing)                   \
  X(matmul)                     \
  X(grouped_matmul)             \
  X(cross_entropy)              \
  X(softmax)                    \
  X(norm)                       \
  X(rope)                       \
  X(conv2d)                     \
  X(resample2)                  \
  X(group_norm)                 \
  X(vq)                         \
  X(masked_diffusion)           \
  X(attention)                  \
  X(swiglu)                     \
  X(moe)                        \
  X(optimizer)                  \
  X(random)                     \
  X(sampling)
