// What the arithmetic units of device 0 do at most, measured: the ceilings of cuda_bench.
#pragma once

struct Peaks {
  double fma_f32;   // operations per second; a fused multiply-add is two
  double mma_bf16;  // of mma.sync m16n8k16 with f32 sums: Hopper's wgmma goes higher
  double wgmma_bf16;  // of wgmma m64n128k16 from shared memory; 0: not measured
};

// wgmma: measures that too, on a device of compute capability 9.0. Throws std::runtime_error where CUDA reports an error.
Peaks measure_peaks(bool wgmma);
