// The emulated products of warp groups (wgmma).
#include <cstring>
#include <utility>
#include <vector>

#include "emulation/asynchronous_parts.h"

namespace trefoil::cuda::emulation {

namespace {

float from_bf16(const unsigned char* at) {
  uint16_t half;
  std::memcpy(&half, at, 2);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

constexpr uint32_t kPoison = 0x7fb0a11d;  // a signalling NaN: what registers read as while a product that writes them is under way

bool poisoned(const float* registers, int count) {
  for (int i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, registers + i, 4);
    if (bits != kPoison) return false;
  }
  return true;
}

// Reads rows [0, rows) x 16 of k as the descriptor says, K-major or (across) MN-major; null, or what is wrong with it.
const char* read_operand(const Block& block, uint64_t descriptor, int rows, bool across, float* to) {
  const uint32_t start = static_cast<uint32_t>(descriptor & 0x3fff) << 4, leading = static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4;
  const uint32_t stride = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
  const uint32_t base_offset = descriptor >> 49 & 7, swizzle = static_cast<uint32_t>(descriptor >> 62);
  if ((descriptor >> 14 & 3) || (descriptor >> 30 & 3) || (descriptor >> 46 & 7) || (descriptor >> 52 & 0x3ff)) return "bits that are reserved are set";
  if (swizzle != 1) return "only the 128-byte swizzle is emulated";
  // The pattern starts at a multiple of 1024 bytes, else the base offset would have to say where.
  if (base_offset != (start >> 7 & 7)) return "the base offset is not that of the pattern's start";
  if (base_offset != 0) return "a base offset other than 0 is not emulated";
  if (!across && (start & 127) + 32 > 128) return "16 of k go beyond a row of 128 bytes";
  if (across && (start & 127) != 0) return "it does not start with a row of 128 bytes";
  for (int row = 0; row < rows; ++row)
    for (int k = 0; k < 16; ++k) {
      // An atom of the swizzle is eight rows of 128 bytes: rows of the operand along k, or rows of k along 64 rows of the operand.
      const int line = across ? k : row, within = across ? row % 64 : k;
      const uint32_t plain = start + static_cast<uint32_t>(line / 8) * stride + static_cast<uint32_t>(line % 8) * 128 + static_cast<uint32_t>(within) * 2 +
                             (across ? static_cast<uint32_t>(row / 64) * leading : 0);
      const unsigned char* memory = at_address(block, swizzled(plain), 2);
      if (!memory) return "it reaches beyond shared memory";
      to[row * 16 + k] = from_bf16(memory);
    }
  return nullptr;
}

Sums* find_sums(Thread& lane, float* registers) {
  for (Sums& sums : lane.sums)
    if (sums.registers == registers) return &sums;
  return nullptr;
}

// A warp's sixteen rows of one product.
void finish_product(Block& block, Warp& warp, const Multiplication& product) {
  const size_t number = static_cast<size_t>(&warp - block.warps.data());
  float a[64 * 16], b[256 * 16];
  if (product.a_in_registers) {
    for (size_t lane = 0; lane < 32; ++lane)
      for (size_t i = 0; i < 8; ++i) {
        const size_t row = 16 * (number % 4) + lane / 4 + 8 * (i / 2 % 2), k = 2 * (lane % 4) + i % 2 + 8 * (i / 4);
        a[row * 16 + k] = from_bf16(reinterpret_cast<const unsigned char*>(product.left[lane]) + 2 * i);
      }
  } else if (const char* wrong = read_operand(block, product.a, 64, product.a_across, a)) {
    return halt("wgmma: descriptor of a: %s", wrong);
  }
  if (const char* wrong = read_operand(block, product.b, product.n, product.b_across, b)) return halt("wgmma: descriptor of b: %s", wrong);
  for (size_t lane = 0; lane < 32; ++lane) {
    Thread& thread = block.threads[number * 32 + lane];
    Sums& sums = *find_sums(thread, product.registers[lane]);
    for (size_t i = 0; i < static_cast<size_t>(product.n) / 2; ++i) {
      const size_t row = 16 * (number % 4) + lane / 4 + 8 * (i / 2 % 2), column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
      float sum = product.add ? sums.values[i] : 0;
      for (size_t k = 0; k < 16; ++k) sum += a[row * 16 + k] * b[column * 16 + k];
      sums.values[i] = sum;
    }
    if (--sums.products) continue;
    std::memcpy(sums.registers, sums.values, static_cast<size_t>(sums.count) * 4);
    thread.sums.erase(thread.sums.begin() + (&sums - thread.sums.data()));
  }
}

}  // namespace

bool finish_warp(Block& block, bool backward) {
  for (size_t i = 0; i < block.warps.size(); ++i) {
    const size_t number = backward ? block.warps.size() - 1 - i : i;
    Warp& warp = block.warps[number];
    Thread* const lanes = &block.threads[number * 32];
    if (lanes[0].state != Thread::at_products) continue;
    while (warp.groups.size() > static_cast<size_t>(lanes[0].newest)) {
      for (size_t product = 0; product < warp.groups.front(); ++product) finish_product(block, warp, warp.products[product]);
      warp.products.erase(warp.products.begin(), warp.products.begin() + static_cast<std::ptrdiff_t>(warp.groups.front()));
      warp.groups.erase(warp.groups.begin());
    }
    for (size_t lane = 0; lane < 32; ++lane) lanes[lane].state = Thread::ready;
    return true;
  }
  return false;
}

void wgmma_fence() {
  for_warp("wgmma.fence", 0, [](const auto&) {});
  thread().fenced = true;
}

void wgmma(float* d, int n, uint64_t a, const uint32_t* a_registers, uint64_t b, bool add, bool a_across, bool b_across) {
  Thread& self = thread();
  const int count = n / 2;
  if (!self.fenced) stop("wgmma.mma_async without wgmma.fence since the last group was committed");
  Sums* sums = find_sums(self, d);
  if (sums && (sums->count != count || !poisoned(d, count))) stop("wgmma: registers of a product that is under way have been written");
  if (!sums) {
    sums = &self.sums.emplace_back(Sums{d, count, 0, {}});
    std::memcpy(sums->values, d, static_cast<size_t>(count) * 4);
    for (int i = 0; i < count; ++i) std::memcpy(d + i, &kPoison, 4);
  }
  ++sums->products;
  struct Given {
    uint64_t a, b;
    float* registers;
    const uint32_t* left;
    bool add;
  };
  for_warp("wgmma.mma_async", Given{a, b, d, a_registers, add}, [&](const auto& lanes) {
    Block& block = *self.block;
    const size_t number = static_cast<size_t>(self.number) / 32;
    if (lanes.self != 0) return;
    Multiplication product{a, b, n, add, a_across, b_across, a_registers != nullptr, {}, {}};
    for (int lane = 0; lane < 32; ++lane) {
      const Given given = lanes[lane];
      product.registers[lane] = given.registers;
      product.left[lane] = given.left;
      if (given.a != a || given.b != b || given.add != add) stop("wgmma: lanes of a warp give different descriptors");
    }
    // The four warps of a group issue the same products in the same order.
    if (block.warps.size() < number / 4 * 4 + 4) stop("wgmma: the warp group has fewer than four warps");
    std::vector<Multiplication>& issued = block.asynchronous.issued[number / 4];
    if (self.warp->issued == issued.size()) issued.push_back(product);
    const Multiplication& same = issued[self.warp->issued++];
    if (same.a != a || same.b != b || same.add != add || same.n != n || same.a_in_registers != product.a_in_registers) stop("wgmma: warps of a warp group give different descriptors");
    if (!block.launch->backward && block.number / 2 % 2) return finish_product(block, *self.warp, product);
    self.warp->products.push_back(product);
    ++self.warp->uncommitted;
  });
}

void wgmma_commit() {
  thread().fenced = false;
  for_warp("wgmma.commit_group", 0, [](const auto& lanes) {
    if (lanes.self == 0) thread().warp->groups.push_back(std::exchange(thread().warp->uncommitted, 0));
  });
}

void wgmma_wait(int newest) {
  Thread& self = thread();
  for_warp("wgmma.wait_group", newest, [](const auto&) {});
  // Lane 0 comes to the commit before it comes here.
  if (self.warp->groups.size() <= static_cast<size_t>(newest)) return;
  self.newest = newest;
  self.state = Thread::at_products;
  suspend_thread();
}

}  // namespace trefoil::cuda::emulation
