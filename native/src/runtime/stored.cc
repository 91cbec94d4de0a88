#include "runtime/stored.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "runtime/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace trefoil::runtime {

namespace {

constexpr size_t kBlock = 1024;           // elements: what is decoded of a few sources stays in the first-level cache
constexpr size_t kStretch = 16 * kBlock;  // what `before` prepares at a time: a few sources of it stay in the second-level cache
constexpr size_t kLanes = 8;              // sums side by side

// Inlined into the two functions at the end, of which one is compiled with wider vectors: the results are the same.
#define TREFOIL_INLINE inline __attribute__((always_inline))

TREFOIL_INLINE float f16_to_f32(uint16_t half) {
  uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  // 2^112 moves the exponent, subnormals included; what was all ones there stays so.
  float moved = std::bit_cast<float>(magnitude) * 0x1p112f;
  uint32_t bits = magnitude >= 0x0f800000 ? magnitude | 0x7f800000 : std::bit_cast<uint32_t>(moved);
  return std::bit_cast<float>(bits | static_cast<uint32_t>(half & 0x8000) << 16);
}

TREFOIL_INLINE uint16_t f32_to_f16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7e00;
  if (magnitude >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);
  // Below 2^-14 the unit is 2^-24, the spacing of floats at 0.5: the addition rounds.
  if (magnitude < 0x38800000)
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000));
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

TREFOIL_INLINE uint16_t f32_to_bf16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

using Half [[gnu::aligned(1), gnu::may_alias]] = uint16_t;

void decode_f16(const Half* halves, size_t count, float* values) {
  for (size_t k = 0; k < count; ++k) values[k] = f16_to_f32(halves[k]);
}

#if defined(__x86_64__)
__attribute__((target("avx2,f16c"))) void decode_f16_wide(const Half* halves, size_t count, float* values) {
  size_t k = 0;
  for (; k + 8 <= count; k += 8)
    _mm256_storeu_ps(values + k, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + k))));
  decode_f16(halves + k, count - k, values + k);
}
#endif

// Returns whether a finite value became infinite.
TREFOIL_INLINE bool encode(const float* values, size_t count, StoredDtype dtype, std::byte* target) {
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

// Vectors that compilers split where the machine's are shorter. None crosses a call, which GCC warns of: all is inlined.
#pragma GCC diagnostic ignored "-Wpsabi"
constexpr size_t kWidth = 4;
using Floats [[gnu::vector_size(kWidth * sizeof(float)), gnu::aligned(1), gnu::may_alias]] = float;  // anywhere
using Doubles [[gnu::vector_size(kWidth * sizeof(double)), gnu::may_alias]] = double;
// Where Doubles may stand on the heap: a container would align them as the narrow function does, which may be less than the wide one needs.
struct alignas(kWidth * sizeof(double)) Sum {
  double lanes[kWidth] = {};
};

// One block of every source, and the sums over all blocks so far: of each source, then of the mean. Lanes stay apart to the end.
struct MeanState {
  explicit MeanState(std::span<const StoredSource> sources)
      : room(sources.size() * kBlock), values(sources.size()), sums(kLanes / kWidth, std::vector<Sum>(sources.size() + 1)) {
    for (const StoredSource& source : sources) weights.push_back(source.weight);
  }
  std::vector<double> weights;
  std::vector<float> room;
  std::vector<const std::byte*> values;  // floats: in place, or decoded into `room`
  std::vector<std::vector<Sum>> sums;
  std::array<float, kBlock> mean;
};

// The first `whole` elements of a block. Count: of sources, so that what is held of a few stays in registers; 0 is any number.
template <size_t Count>
TREFOIL_INLINE void add_lanes(size_t whole, MeanState& state) {
  constexpr size_t kRoom = Count ? Count : 1;
  const size_t count = Count ? Count : state.values.size();
  double own_weights[kRoom];
  const std::byte* own_values[kRoom];
  Doubles own_sums[kRoom + 1];
  if (Count) {
    std::copy_n(state.weights.data(), kRoom, own_weights);
    std::copy_n(state.values.data(), kRoom, own_values);
  }
  const double* weights = Count ? own_weights : state.weights.data();
  const std::byte* const* values = Count ? own_values : state.values.data();
  for (size_t part = 0; part < kLanes / kWidth; ++part) {
    Doubles* all_sums = reinterpret_cast<Doubles*>(state.sums[part].data());
    Doubles* sums = Count ? own_sums : all_sums;
    if (Count) std::copy_n(all_sums, kRoom + 1, own_sums);
    for (size_t k = part * kWidth; k < whole; k += kLanes) {
      const auto at = [&](size_t i) {
        return __builtin_convertvector(*reinterpret_cast<const Floats*>(values[i] + k * sizeof(float)), Doubles);
      };
      const Doubles start = at(0);
      Doubles mean = start;
      for (size_t i = 1; i < count; ++i) mean += weights[i] * (at(i) - start);
      for (size_t i = 0; i < count; ++i) {
        Doubles difference = at(i) - mean;
        sums[i] += difference * difference;
      }
      sums[count] += mean * mean;
      *reinterpret_cast<Floats*>(&state.mean[k]) = __builtin_convertvector(mean, Floats);
    }
    if (Count) std::copy_n(own_sums, kRoom + 1, all_sums);
  }
}

// The rest of a block that is no whole number of lanes.
void add_rest(size_t whole, size_t block, MeanState& state) {
  const size_t count = state.values.size();
  for (size_t k = whole; k < block; ++k) {
    const auto at = [&](size_t i) {
      float value;
      std::memcpy(&value, state.values[i] + k * sizeof(float), sizeof value);
      return static_cast<double>(value);
    };
    double mean = at(0);
    for (size_t i = 1; i < count; ++i) mean += state.weights[i] * (at(i) - at(0));
    for (size_t i = 0; i < count; ++i) state.sums[0][i].lanes[0] += (at(i) - mean) * (at(i) - mean);
    state.sums[0][count].lanes[0] += mean * mean;
    state.mean[k] = static_cast<float>(mean);
  }
}

// Elements [first, first + block) of all sources, into `target` and the sums. Returns whether a finite mean became infinite.
TREFOIL_INLINE bool add_block(std::span<const StoredSource> sources, size_t first, size_t block, std::byte* target, StoredDtype dtype,
                              void (*decode_halves)(const Half*, size_t, float*), MeanState& state) {
  for (size_t i = 0; i < sources.size(); ++i) {
    const std::byte* data = sources[i].data + first * stored_bytes(sources[i].dtype);
    const Half* halves = reinterpret_cast<const Half*>(data);
    float* room = state.room.data() + i * kBlock;
    if (sources[i].dtype == StoredDtype::bf16)
      for (size_t k = 0; k < block; ++k) room[k] = std::bit_cast<float>(static_cast<uint32_t>(halves[k]) << 16);
    else if (sources[i].dtype == StoredDtype::f16)
      decode_halves(halves, block, room);
    state.values[i] = sources[i].dtype == StoredDtype::f32 ? data : reinterpret_cast<const std::byte*>(room);
  }
  const size_t whole = block - block % kLanes;
  switch (sources.size()) {
    case 1: add_lanes<1>(whole, state); break;
    case 2: add_lanes<2>(whole, state); break;
    case 3: add_lanes<3>(whole, state); break;
    case 4: add_lanes<4>(whole, state); break;
    default: add_lanes<0>(whole, state);
  }
  add_rest(whole, block, state);
  return target && encode(state.mean.data(), block, dtype, target + first * stored_bytes(dtype));
}

using AddBlock = bool (*)(std::span<const StoredSource>, size_t, size_t, std::byte*, StoredDtype, MeanState&);

bool add_block_plain(std::span<const StoredSource> sources, size_t first, size_t block, std::byte* target, StoredDtype dtype,
                     MeanState& state) {
  return add_block(sources, first, block, target, dtype, decode_f16, state);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) bool add_block_wide(std::span<const StoredSource> sources, size_t first, size_t block, std::byte* target,
                                                    StoredDtype dtype, MeanState& state) {
  return add_block(sources, first, block, target, dtype, decode_f16_wide, state);
}
const AddBlock add_block_best = __builtin_cpu_supports("avx2") ? add_block_wide : add_block_plain;
#else
const AddBlock add_block_best = add_block_plain;
#endif

}  // namespace

StoredDtype stored_dtype(const std::string& name) {
  if (name == "F32") return StoredDtype::f32;
  if (name == "F16") return StoredDtype::f16;
  if (name == "BF16") return StoredDtype::bf16;
  fail(TREFOIL_INVALID_ARGUMENT, "\"%s\" is none of F32, F16 and BF16", name.c_str());
}

size_t stored_bytes(StoredDtype dtype) { return dtype == StoredDtype::f32 ? 4 : 2; }

StoredMean weighted_mean(std::span<const StoredSource> sources, size_t count, std::byte* target, StoredDtype dtype,
                         const std::function<void(size_t first, size_t count)>& before) {
  StoredMean result;
  MeanState state(sources);
  for (size_t stretch = 0; stretch < count; stretch += kStretch) {
    size_t end = std::min(count, stretch + kStretch);
    if (before) before(stretch, end - stretch);
    for (size_t first = stretch; first < end; first += kBlock)
      if (add_block_best(sources, first, std::min(kBlock, end - first), target, dtype, state)) result.overflow = true;
  }
  const auto total = [&](size_t i) {
    double sum = 0;
    for (const std::vector<Sum>& part : state.sums)
      for (double lane : part[i].lanes) sum += lane;
    return sum;
  };
  for (size_t i = 0; i < sources.size(); ++i) result.squared_distances.push_back(total(i));
  result.squared_norm = total(sources.size());
  return result;
}

uint64_t checksum(std::span<const std::byte> bytes) {
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;  // the golden ratio: multiplying by an odd number is invertible
  std::array<uint64_t, 8> sums{1, 2, 3, 4, 5, 6, 7, 8};  // eight chains, so that multiplications overlap
  size_t at = 0;
  for (; at + sizeof sums <= bytes.size(); at += sizeof sums) {
    std::array<uint64_t, 8> words;
    std::memcpy(words.data(), bytes.data() + at, sizeof words);
    for (size_t i = 0; i < 8; ++i) sums[i] = (std::rotl(sums[i], 29) ^ words[i]) * kOdd;
  }
  uint64_t total = bytes.size();
  for (; at < bytes.size(); ++at) total = (std::rotl(total, 29) ^ static_cast<uint64_t>(bytes[at])) * kOdd;
  for (uint64_t sum : sums) total = (std::rotl(total, 29) ^ sum) * kOdd;
  return total;
}

}  // namespace trefoil::runtime
