// Arithmetic over weights as checkpoints store them, a chunk at a time: what merging models needs, without the engine's programs.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace trefoil::runtime {

enum class StoredDtype { f32, f16, bf16 };

// "F32", "F16" or "BF16", as in a safetensors header.
StoredDtype stored_dtype(const std::string& name);
size_t stored_bytes(StoredDtype dtype);

struct StoredSource {
  const std::byte* data;  // aligned or not
  StoredDtype dtype;
  double weight;
};

struct StoredMean {
  double squared_norm = 0;                // of the mean
  std::vector<double> squared_distances;  // of each source from it
  bool overflow = false;                  // a finite mean that the target's dtype cannot hold
};

// target[k] = Σ weight_i source_i[k] in double precision, as the first source plus weighted differences, so that equal sources give exactly
// themselves; then rounded to f32, and from there to `dtype`. No target: only the sums. Not finite: some value is not, as squares of
// floats do not overflow a double. The order of summation is fixed. `before` is called for each stretch of elements before the sources'
// bytes of it are looked at: it may fill them.
StoredMean weighted_mean(std::span<const StoredSource> sources, size_t count, std::byte* target, StoredDtype dtype,
                         const std::function<void(size_t first, size_t count)>& before = nullptr);

// A sum over 64-bit words in which every step is invertible: one word that differs always changes it.
uint64_t checksum(std::span<const std::byte> bytes);

}  // namespace trefoil::runtime
