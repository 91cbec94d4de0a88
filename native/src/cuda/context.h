// Handed to every op: where to launch, and what the device has.
#pragma once
#include <cstdint>

#include "error_record.h"
#include "platform.h"

namespace trefoil::cuda {

enum class Precision { f32, bf16 };
class Cublaslt;
// Of products by wgmma: by the sizes of the product, or, to compare them, always the same.
enum class WgmmaTile { by_size, narrow, wide, pair };

// While launches are recorded.
struct Recording {
  bool after_kernel = false;  // the last thing in it is a kernel, which one that is launched early may follow
};

struct Context {
  platform::Stream stream;
  Recording* recording;  // null: launches run
  ErrorRecord* errors;  // device memory: see error_record.h
  // f32: products of matrices in f32 (no TF32). bf16: their operands are rounded to bf16 while tiles are loaded, sums are f32.
  Precision precision;
  int multiprocessors;
  size_t shared_limit;  // bytes of shared memory that a block may ask for
  int capability;       // 10 * major + minor: 80, 90, …; 0 emulated
  const Cublaslt* cublaslt;  // for products in bf16; null: our own kernels
  bool wgmma;                // our own kernels use Hopper's products of warp groups where they can
  WgmmaTile wgmma_tile;
  bool clusters;             // blocks of a cluster read each other's shared memory: products of few rows
  bool early;                // launches may begin before the ones before them have ended: see launch.h
  bool one_pass_gradient;    // with them, attention's dq, dk and dv are made in one pass

  // What is recorded now is no kernel of ours: no launch may begin before it has ended.
  void note_other() const {
    if (recording) recording->after_kernel = false;
  }

  // Blocks for a grid-stride loop over `count` items of `per_block` each: enough to fill the device, no more.
  unsigned grid(int64_t count, int64_t per_block, int blocks_per_multiprocessor = 8) const {
    const int64_t wanted = (count + per_block - 1) / per_block, most = int64_t{multiprocessors} * blocks_per_multiprocessor;
    return static_cast<unsigned>(wanted < 1 ? 1 : wanted < most ? wanted : most);
  }
};

}  // namespace trefoil::cuda
