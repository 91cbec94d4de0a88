// What the arithmetic units of device 0 do at most, measured: the ceilings of cuda_bench.
#pragma once

struct Peaks {
  double fma_f32;   // operations per second; a fused multiply-add is two
  double mma_bf16;  // of mma.sync m16n8k16 with f32 sums: Hopper's wgmma goes higher
};

// Throws std::runtime_error where CUDA reports an error.
Peaks measure_peaks();
