// The CPU's products of operands rounded to bf16. Rounded operands are exact inputs of a double-precision reference, as in cuda_bf16_test.cc: only
// the f32 sums are left to differ.
#include "cpu/kernels/bf16_products.h"
#include "cuda_bf16.h"

using namespace trefoil::test;

namespace {

struct Product {
  int64_t batch, m, n, k;
  bool transpose_a = false, transpose_b = false, half_a = false, half_b = false;
  bool rounds = true;  // few rows are multiplied as they are stored
};

void check_product(Device& device, const Product& p, uint32_t seed, int activation = 0, bool epilogue = false) {
  std::mt19937 generator(seed);
  F32 a = normal(generator, p.transpose_a ? std::vector<int64_t>{p.batch, p.k, p.m} : std::vector<int64_t>{p.batch, p.m, p.k});
  F32 b = normal(generator, p.transpose_b ? std::vector<int64_t>{p.batch, p.n, p.k} : std::vector<int64_t>{p.batch, p.k, p.n});
  F32 bias = normal(generator, {p.n}), residual = normal(generator, {p.batch, p.m, p.n}), c(residual.shape), z(residual.shape);
  BF16 half_a(a.shape), half_b(b.shape);
  for (size_t i = 0; i < a.size(); ++i) half_a[i] = to_bf16(a[i]);
  for (size_t i = 0; i < b.size(); ++i) half_b[i] = to_bf16(b[i]);
  std::fill(c.values.begin(), c.values.end(), NAN);
  launch(device, "matmul",
         {p.half_a ? view(half_a) : view(a), p.half_b ? view(half_b) : view(b), epilogue ? view(bias) : absent(), epilogue ? view(residual) : absent()},
         {view(c), epilogue ? view(z) : absent()}, {double(p.transpose_a), double(p.transpose_b), 1, double(activation)});
  const auto value = [&](float x, bool half) { return p.rounds || half ? rounded(x) : static_cast<double>(x); };
  double worst = 0;
  for (int64_t s = 0; s < p.batch; ++s)
    for (int64_t i = 0; i < p.m; ++i)
      for (int64_t j = 0; j < p.n; ++j) {
        double exact = epilogue ? bias[j] : 0, magnitude = std::fabs(exact);
        for (int64_t k = 0; k < p.k; ++k) {
          const double term = value(a[s * p.m * p.k + (p.transpose_a ? k * p.m + i : i * p.k + k)], p.half_a) *
                              value(b[s * p.n * p.k + (p.transpose_b ? j * p.k + k : k * p.n + j)], p.half_b);
          exact += term, magnitude += std::fabs(term);
        }
        const size_t at = static_cast<size_t>((s * p.m + i) * p.n + j);
        if (epilogue) {
          if (std::fabs(z[at] - exact) > sum_slack(p.k) * magnitude) worst = std::max(worst, std::fabs(z[at] - exact) / magnitude);
          exact = (activation == 3 ? exact / (1 + std::exp(-exact)) : exact) + residual[at];
          magnitude += std::fabs(residual[at]);
        }
        const double error = std::fabs(c[at] - exact) / (magnitude + 1e-30);
        if (!(error <= worst)) worst = error;
      }
  // SiLU's slope is at most 1.1.
  const double bound = 1.1 * sum_slack(p.k);
  if (worst <= bound) return;
  char text[200];
  std::snprintf(text, sizeof text, "%ld of %ld x %ld x %ld, tA %d tB %d bf16 %d%d: error %.3g of the terms, bound %.3g", long(p.batch), long(p.m), long(p.n), long(p.k),
                p.transpose_a, p.transpose_b, p.half_a, p.half_b, worst, bound);
  wrong_result(text);
}

}  // namespace

TEST(bf16_products_of_all_forms) {
  with_bf16_products(device, [](Device& other) {
    uint32_t seed = 1;
    // Edges of tiles, one column of them, k odd and even, in one block and in several, cut for threads, packed once and by each task.
    const int64_t sizes[][4] = {{1, 65, 9, 1},     {1, 66, 17, 2},      {1, 70, 33, 3},   {1, 77, 64, 70},  {1, 211, 137, 1031}, {1, 130, 70, 2049},
                                {1, 70, 40, 9001}, {1, 401, 523, 61},   {3, 67, 35, 130}, {1, 1000, 33, 8}, {1, 300, 290, 641}};
    for (const auto& [batch, m, n, k] : sizes)
      for (int form = 0; form < 4; ++form) {
        Product p{batch, m, n, k, (form & 1) != 0, (form & 2) != 0};
        p.half_a = seed % 5 == 0, p.half_b = seed % 3 == 0;
        check_product(other, p, seed++);
      }
    check_product(other, {.batch = 1, .m = 3, .n = 100, .k = 90, .transpose_b = true, .rounds = false}, seed++);
    check_product(other, {.batch = 1, .m = 4, .n = 100, .k = 90, .rounds = false}, seed++);
  });
}

// Rounded where the CPU has instructions for it.
TEST(bf16_products_of_few_rows) {
  with_bf16_products(device, [](Device& other) {
    uint32_t seed = 50;
    for (int64_t m : {4, 5, 7, 12})  // no ISA packs so few
      for (int64_t n : {6, 9, 100})
        for (int64_t k : {1, 2, 33, 90, 1031, 2050}) {
          Product p{1, m, n, k, seed % 2 == 1, true};
          p.half_a = seed % 5 == 0, p.half_b = seed % 3 == 0;
          p.rounds = multiplies_pairs(other) && other.isa == "avx512" && m >= (p.half_b ? 4 : 8) && n > 8;
          check_product(other, p, seed++);
        }
    if (multiplies_pairs(other) && other.isa == "avx512") check_product(other, {.batch = 1, .m = 64, .n = 130, .k = 700, .transpose_b = true}, seed++);
  });
}

TEST(bf16_products_epilogues) {
  with_bf16_products(device, [](Device& other) {
    uint32_t seed = 100;
    for (int activation : {0, 3})
      for (int form = 0; form < 4; ++form) {
        check_product(other, {1, 90, 70, 500, (form & 1) != 0, (form & 2) != 0}, seed++, activation, true);
        check_product(other, {1, 80, 66, 5000, (form & 1) != 0, (form & 2) != 0}, seed++, activation, true);
      }
  });
}

TEST(bf16_products_of_groups) {
  with_bf16_products(device, [](Device& other) {
    std::mt19937 generator(7);
    const int64_t k = 130, n = 75;
    for (bool transpose : {false, true}) {
      const I32 offsets({5}, {0, 70, 70, 400, 481});
      I32 given = offsets, index({481});
      for (int32_t& row : index.values) row = static_cast<int32_t>(generator() % 200);
      F32 x = normal(generator, {200, k}), w = normal(generator, transpose ? std::vector<int64_t>{4, n, k} : std::vector<int64_t>{4, k, n}), y({481, n});
      F32 upstream = normal(generator, {481, n}), dw({4, n, k});
      launch(other, "grouped_matmul", {view(x), view(w), view(given), view(index)}, {view(y)}, {double(transpose)});
      launch(other, "grouped_matmul_weight_grad", {view(upstream), view(x), view(given), absent(), view(index)}, {view(dw)});
      std::vector<double> sums(dw.size()), sizes(dw.size());
      for (int64_t e = 0; e < 4; ++e)
        for (int64_t r = offsets[e]; r < offsets[e + 1]; ++r)
          for (int64_t j = 0; j < n; ++j) {
            double exact = 0, magnitude = 0;
            for (int64_t p = 0; p < k; ++p) {
              const double from = rounded(x[static_cast<size_t>(index[r] * k + p)]);
              const double term = from * rounded(w[static_cast<size_t>(e * n * k + (transpose ? j * k + p : p * n + j))]);
              exact += term, magnitude += std::fabs(term);
              const size_t at = static_cast<size_t>((e * n + j) * k + p);
              const double share = from * rounded(upstream[static_cast<size_t>(r * n + j)]);
              sums[at] += share, sizes[at] += std::fabs(share);
            }
            CHECK(std::fabs(y[static_cast<size_t>(r * n + j)] - exact) <= sum_slack(k) * magnitude);
          }
      for (size_t i = 0; i < dw.size(); ++i) CHECK(std::fabs(dw[i] - sums[i]) <= sum_slack(481) * sizes[i]);
    }
  });
}

TEST(bf16_products_of_numbers_that_are_none) {
  with_bf16_products(device, [](Device& other) {
    const int64_t m = 70, n = 40, k = 37;
    const float largest = 3.4e38f;  // past what bf16 holds
    F32 a({m, k}), b({k, n}), c({m, n});
    std::fill(b.values.begin(), b.values.end(), 1.0f);
    a[0 * k + 5] = NAN, a[1 * k + 36] = INFINITY, a[2 * k] = -INFINITY, a[3 * k + 2] = largest;
    launch(other, "matmul", {view(a), view(b), absent(), absent()}, {view(c), absent()}, {0, 0, 1, 0});
    for (int64_t j = 0; j < n; ++j) {
      CHECK(std::isnan(c[static_cast<size_t>(j)]));
      CHECK(c[static_cast<size_t>(n + j)] == INFINITY);
      CHECK(c[static_cast<size_t>(2 * n + j)] == -INFINITY);
      CHECK(c[static_cast<size_t>(3 * n + j)] == INFINITY);
      CHECK(c[static_cast<size_t>(4 * n + j)] == 0);
    }
  });
}

TEST(bf16_products_thread_independent) {
  if (!(device.backend->flags & TREFOIL_BACKEND_HOST_MEMORY)) return;
  check_thread_independent(
      device,
      [](Device& other) {
        std::mt19937 generator(3);
        std::vector<F32> results;
        const int64_t sizes[][3] = {{300, 200, 500}, {70, 90, 9000}, {900, 40, 1500}};
        for (const auto& [m, n, k] : sizes) {
          F32 a = normal(generator, {m, k}), b = normal(generator, {n, k}), c({m, n});
          launch(other, "matmul", {view(a), view(b), absent(), absent()}, {view(c), absent()}, {0, 1, 1, 0});
          results.push_back(c);
        }
        return results;
      },
      "bf16-products");
}

TEST_ONCE(bf16_products_refuse_bf16_activations) {
  TrefoilStatus status{};
  const TrefoilDeviceOptions options{0, 1, nullptr, "bf16"};
  CHECK(trefoil_cpu_backend()->open_device(&options, &status) == nullptr);
  CHECK(status.code == TREFOIL_INVALID_ARGUMENT && std::strstr(status.message, "\"bf16-products\""));
}

// The tables of an instruction set that has both ways to multiply, where this CPU has it.
#if defined(TREFOIL_HAVE_AVX512) || defined(TREFOIL_HAVE_NEON)
#if defined(TREFOIL_HAVE_AVX512)
#define TREFOIL_LEVEL avx512
#define TREFOIL_LEVEL_BF16 avx512bf16
constexpr int kRows = 12, kColumns = 32;  // of a tile
#else
#define TREFOIL_LEVEL neon
#define TREFOIL_LEVEL_BF16 neonbf16
constexpr int kRows = 8, kColumns = 12;
#endif
namespace trefoil::cpu {
namespace TREFOIL_LEVEL {
extern const Bf16Products bf16_products;
}
namespace TREFOIL_LEVEL_BF16 {
extern const Bf16Products bf16_products;
}
}  // namespace trefoil::cpu

// A CPU with the instructions takes them: here both ways to multiply meet.
TEST_ONCE(bf16_products_by_instructions_and_without) {
  using namespace trefoil::cpu;
  const Bf16Products *plain = &TREFOIL_LEVEL::bf16_products, *hardware = &TREFOIL_LEVEL_BF16::bf16_products;
  TrefoilStatus status{};
  const TrefoilDeviceOptions options{0, 1, nullptr, "bf16-products"};
  Device device{trefoil_cpu_backend(), trefoil_cpu_backend()->open_device(&options, &status), "", 1};
  const bool both = multiplies_pairs(device);
  trefoil_cpu_backend()->close_device(device.handle);
  if (!both) return;
  std::mt19937 generator(9);
  const int64_t rows = 31, columns = kColumns + 7, depth = 75, steps = pairs(depth);
  F32 stored = normal(generator, {80, 80});
  BF16 half(stored.shape);
  for (size_t i = 0; i < half.size(); ++i) half[i] = to_bf16(stored[i]);
  for (int form = 0; form < 4; ++form) {
    const bool is_half = form & 2;
    const Matrix matrix{is_half ? static_cast<const void*>(half.values.data()) : stored.values.data(), 80, (form & 1) != 0, is_half, nullptr};
    std::vector<float> a[2], b[2], c[2];
    for (int way = 0; way < 2; ++way) {
      const Bf16Products& products = way ? *hardware : *plain;
      a[way].assign(4096, 0.0f), b[way].assign(2 * kColumns * steps, 0.0f), c[way].assign(kRows * kColumns, 0.0f);
      products.pack_a(matrix, 2, rows, 3, depth, a[way].data());
      products.pack_b(matrix, 3, depth, 0, columns, b[way].data());
      for (int second = 0; second < 2; ++second)
        products.kernel(matrix.transposed, kRows)(steps, a[way].data(), matrix.transposed ? kRows : steps, b[way].data() + second * kColumns * steps, c[way].data(), kColumns, second,
                                                  second ? 7 : kColumns);
    }
    CHECK(std::memcmp(a[0].data(), a[1].data(), a[0].size() * 4) == 0);
    CHECK(std::memcmp(b[0].data(), b[1].data(), b[0].size() * 4) == 0);
    double largest = 0;
    for (size_t i = 0; i < c[0].size(); ++i) {
      CHECK(std::fabs(c[0][i] - c[1][i]) <= 1e-5);
      largest = std::max(largest, std::fabs(double(c[0][i])));
    }
    CHECK(largest > 1);
  }
}
#endif
