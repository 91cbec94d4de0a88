// Widths of rows about every boundary at which kernels share a row out differently: vectors of four and (bf16) eight, a warp or a block to a
// row, a row in registers or read again (on GPUs: plan_rows in src/cuda/rows.h).
#pragma once
#include <functional>

#include "cuda_bf16.h"

namespace trefoil::test {

// Few rows: enough that a GPU of one multiprocessor takes several with the same threads.
struct RowShape {
  int64_t rows, n;
};
inline std::vector<RowShape> row_shapes() {
  std::vector<RowShape> shapes;
  for (int64_t n = 1; n <= 128; ++n) shapes.push_back({n % 32 == 0 ? 70 : 5, n});
  for (int64_t n : {132, 136, 199, 200, 252, 255, 256, 257, 260, 264, 499, 500, 504, 508, 511, 512, 513, 516, 520}) shapes.push_back({9, n});
  for (int64_t n : {1024, 1028, 1030, 2047, 2048, 2049, 2052, 4096, 8192, 8196, 8200, 8201, 12288, 16384, 16388}) shapes.push_back({3, n});
  for (int64_t n : {32768, 32772}) shapes.push_back({1, n});
  return shapes;
}

// body(device) with the device under test; where it is the emulator's, one of its own that has one multiprocessor.
inline void with_few_teams(Device& device, const std::function<void(Device&)>& body) {
  if (!emulated(device)) return body(device);
  const Variable multiprocessors("TREFOIL_EMULATED_MULTIPROCESSORS", "1");
  const TrefoilDeviceOptions options{device.isa == "emulated" ? 0 : 1, 0, nullptr, "f32"};
  with_device(device, options, body);
}

}  // namespace trefoil::test
