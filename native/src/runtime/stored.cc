#include "runtime/stored.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "runtime/error.h"

namespace trefoil::runtime {

namespace {

constexpr size_t kBlock = 1024;  // elements: what is decoded of a few sources stays in the first-level cache
constexpr size_t kLanes = 8;     // sums side by side, which the compiler makes vectors of

float f16_to_f32(uint16_t half) {
  uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  // 2^112 moves the exponent, subnormals included; what was all ones there stays so.
  float moved = std::bit_cast<float>(magnitude) * 0x1p112f;
  uint32_t bits = magnitude >= 0x0f800000 ? magnitude | 0x7f800000 : std::bit_cast<uint32_t>(moved);
  return std::bit_cast<float>(bits | static_cast<uint32_t>(half & 0x8000) << 16);
}

uint16_t f32_to_f16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7e00;
  if (magnitude >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);
  // Below 2^-14 the unit is 2^-24, the spacing of floats at 0.5: the addition rounds.
  if (magnitude < 0x38800000)
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000));
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

uint16_t f32_to_bf16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void decode(const StoredSource& source, size_t first, size_t count, float* values) {
  const std::byte* data = source.data + first * stored_bytes(source.dtype);
  if (source.dtype == StoredDtype::f32) {
    std::memcpy(values, data, count * sizeof(float));
    return;
  }
  std::array<uint16_t, kBlock> halves;
  std::memcpy(halves.data(), data, count * sizeof(uint16_t));
  if (source.dtype == StoredDtype::bf16)
    for (size_t k = 0; k < count; ++k) values[k] = std::bit_cast<float>(static_cast<uint32_t>(halves[k]) << 16);
  else
    for (size_t k = 0; k < count; ++k) values[k] = f16_to_f32(halves[k]);
}

// Returns whether a finite value became infinite.
bool encode(const float* values, size_t count, StoredDtype dtype, std::byte* target) {
  if (dtype == StoredDtype::f32) {
    std::memcpy(target, values, count * sizeof(float));
    return false;
  }
  std::array<uint16_t, kBlock> halves;
  if (dtype == StoredDtype::bf16)
    for (size_t k = 0; k < count; ++k) halves[k] = f32_to_bf16(values[k]);
  else
    for (size_t k = 0; k < count; ++k) halves[k] = f32_to_f16(values[k]);
  std::memcpy(target, halves.data(), count * sizeof(uint16_t));
  const uint16_t infinity = dtype == StoredDtype::bf16 ? 0x7f80 : 0x7c00;
  bool overflow = false;
  for (size_t k = 0; k < count; ++k) overflow |= (halves[k] & 0x7fff) == infinity && std::isfinite(values[k]);
  return overflow;
}

// Σ (values - mean)², or Σ mean² without values.
double squared_sum(const float* values, const double* mean, size_t count) {
  std::array<double, kLanes> sums{};
  size_t whole = count - count % kLanes;
  for (size_t k = 0; k < whole; k += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane) {
      double difference = values ? values[k + lane] - mean[k + lane] : mean[k + lane];
      sums[lane] += difference * difference;
    }
  double total = 0;
  for (double sum : sums) total += sum;
  for (size_t k = whole; k < count; ++k) {
    double difference = values ? values[k] - mean[k] : mean[k];
    total += difference * difference;
  }
  return total;
}

}  // namespace

StoredDtype stored_dtype(const std::string& name) {
  if (name == "F32") return StoredDtype::f32;
  if (name == "F16") return StoredDtype::f16;
  if (name == "BF16") return StoredDtype::bf16;
  fail(TREFOIL_INVALID_ARGUMENT, "\"%s\" is none of F32, F16 and BF16", name.c_str());
}

size_t stored_bytes(StoredDtype dtype) { return dtype == StoredDtype::f32 ? 4 : 2; }

StoredMean weighted_mean(std::span<const StoredSource> sources, size_t count, std::byte* target, StoredDtype dtype) {
  StoredMean result;
  result.squared_distances.resize(sources.size());
  std::vector<float> values(sources.size() * kBlock);
  std::array<double, kBlock> mean;
  std::array<float, kBlock> rounded;
  for (size_t first = 0; first < count; first += kBlock) {
    size_t block = std::min(kBlock, count - first);
    for (size_t i = 0; i < sources.size(); ++i) decode(sources[i], first, block, &values[i * kBlock]);
    for (size_t k = 0; k < block; ++k) mean[k] = values[k];
    for (size_t i = 1; i < sources.size(); ++i) {
      const float* source = &values[i * kBlock];
      double weight = sources[i].weight;
      for (size_t k = 0; k < block; ++k) mean[k] += weight * (static_cast<double>(source[k]) - static_cast<double>(values[k]));
    }
    for (size_t i = 0; i < sources.size(); ++i)
      result.squared_distances[i] += squared_sum(&values[i * kBlock], mean.data(), block);
    result.squared_norm += squared_sum(nullptr, mean.data(), block);
    if (!target) continue;
    for (size_t k = 0; k < block; ++k) rounded[k] = static_cast<float>(mean[k]);
    if (encode(rounded.data(), block, dtype, target + first * stored_bytes(dtype))) result.overflow = true;
  }
  return result;
}

uint64_t checksum(std::span<const std::byte> bytes) {
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;  // the golden ratio: multiplying by an odd number is invertible
  std::array<uint64_t, 4> sums{1, 2, 3, 4};      // four chains, so that multiplications overlap
  size_t at = 0;
  for (; at + 32 <= bytes.size(); at += 32) {
    std::array<uint64_t, 4> words;
    std::memcpy(words.data(), bytes.data() + at, 32);
    for (size_t i = 0; i < 4; ++i) sums[i] = (std::rotl(sums[i], 29) ^ words[i]) * kOdd;
  }
  uint64_t total = bytes.size();
  for (; at < bytes.size(); ++at) total = (std::rotl(total, 29) ^ static_cast<uint64_t>(bytes[at])) * kOdd;
  for (uint64_t sum : sums) total = (std::rotl(total, 29) ^ sum) * kOdd;
  return total;
}

}  // namespace trefoil::runtime
