// Products of matrices in bf16 precision. Operands rounded to bf16 are exact inputs of a double-precision reference: their products
// are exact in f32, so only the f32 sums are left and the bounds are those of f32, not of bf16's 8 bits.
#include <array>
#include <string_view>

#include "cuda_bf16.h"

using namespace trefoil::test;

namespace {

// Worst error in units of sum |a||b|. A sum of k terms in f32, in any order, is off by at most k 2^-24 of that; tensor cores may
// truncate where they align (2^-23), and the epilogue rounds a few times more.
struct Error {
  double worst = 0;
  void add(float actual, double exact, double magnitude) {
    const double error = std::fabs(actual - exact) / (magnitude + 1e-30);
    if (!(error <= worst)) worst = error;
  }
  void check(const char* what, int64_t k) const {
    const double bound = static_cast<double>(k + 8) * 0x1p-23;
    if (worst <= bound) return;
    char text[160];
    std::snprintf(text, sizeof text, "%s, k = %ld: error %.3g of the terms, bound %.3g", what, static_cast<long>(k), worst, bound);
    wrong_result(text);
  }
};

void check_matmul(Device& device, int64_t batch, int64_t m, int64_t n, int64_t k, bool transpose_a, bool transpose_b, bool bias, uint32_t seed) {
  std::mt19937 generator(seed);
  F32 a = normal(generator, transpose_a ? std::vector<int64_t>{batch, k, m} : std::vector<int64_t>{batch, m, k});
  F32 b = normal(generator, transpose_b ? std::vector<int64_t>{batch, n, k} : std::vector<int64_t>{batch, k, n});
  F32 shift = normal(generator, {n}), c({batch, m, n});
  launch(device, "matmul", {view(a), view(b), bias ? view(shift) : absent(), absent()}, {view(c), absent()}, {double(transpose_a), double(transpose_b), 1, 0});
  const bool streamed = m <= 8;  // few rows are multiplied as they are stored
  auto value = [&](float x) { return streamed ? static_cast<double>(x) : rounded(x); };
  Error error;
  for (int64_t s = 0; s < batch; ++s)
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double exact = bias ? shift[j] : 0, magnitude = std::fabs(exact);
        for (int64_t p = 0; p < k; ++p) {
          const double term = value(a[s * m * k + (transpose_a ? p * m + i : i * k + p)]) * value(b[s * n * k + (transpose_b ? j * k + p : p * n + j)]);
          exact += term, magnitude += std::fabs(term);
        }
        error.add(c[(s * m + i) * n + j], exact, magnitude);
      }
  error.check("matmul in bf16", k);
}

I32 offsets_of(const std::vector<int32_t>& sizes) {
  I32 offsets({static_cast<int64_t>(sizes.size()) + 1});
  for (size_t e = 0; e < sizes.size(); ++e) offsets[e + 1] = offsets[e] + sizes[e];
  return offsets;
}

void check_grouped_matmul(Device& device, const std::vector<int32_t>& sizes, int64_t k, int64_t n, bool transpose, bool gather, uint32_t seed) {
  std::mt19937 generator(seed);
  I32 offsets = offsets_of(sizes);
  const int64_t groups = static_cast<int64_t>(sizes.size()), rows = offsets[sizes.size()], stored = gather ? rows / 2 + 1 : rows;
  F32 x = normal(generator, {stored, k}), w = normal(generator, transpose ? std::vector<int64_t>{groups, n, k} : std::vector<int64_t>{groups, k, n});
  F32 y({rows, n}), upstream = normal(generator, {rows, n}), dw({groups, n, k});
  I32 index({rows});
  for (int32_t& row : index.values) row = static_cast<int32_t>(generator() % static_cast<uint64_t>(stored));
  launch(device, "grouped_matmul", {view(x), view(w), view(offsets), gather ? view(index) : absent()}, {view(y)}, {double(transpose)});
  launch(device, "grouped_matmul_weight_grad", {view(upstream), view(x), view(offsets), absent(), gather ? view(index) : absent()}, {view(dw)});
  std::vector<double> expected(dw.size()), magnitudes(dw.size());
  Error forward, backward;
  for (int64_t e = 0; e < groups; ++e)
    for (int64_t r = offsets[e]; r < offsets[e + 1]; ++r)
      for (int64_t j = 0; j < n; ++j) {
        double exact = 0, magnitude = 0;
        for (int64_t p = 0; p < k; ++p) {
          const double from = rounded(x[(gather ? index[r] : r) * k + p]);
          const double term = from * rounded(w[e * n * k + (transpose ? j * k + p : p * n + j)]);
          exact += term, magnitude += std::fabs(term);
          const double share = from * rounded(upstream[r * n + j]);
          expected[(e * n + j) * k + p] += share, magnitudes[(e * n + j) * k + p] += std::fabs(share);
        }
        forward.add(y[r * n + j], exact, magnitude);
      }
  for (size_t i = 0; i < dw.size(); ++i) backward.add(dw[i], expected[i], magnitudes[i]);
  forward.check("grouped_matmul in bf16", k);
  backward.check("grouped_matmul_weight_grad in bf16", rows);
}

// With each tile that products by wgmma have, by few blocks and by more than there are tiles.
void for_each_wgmma_tile(Device& device, const std::function<void(Device&)>& body) {
  for (auto [tile, multiprocessors] : {std::pair{"128", "3"}, {"256", "2"}, {"256x2", "5"}, {"1", "132"}}) {
    const Variable wgmma("TREFOIL_CUDA_WGMMA", tile), blocks("TREFOIL_EMULATED_MULTIPROCESSORS", multiprocessors);
    for_each_bf16_device(device, body);
  }
}

}  // namespace

TEST(cuda_bf16_matmul) {
  for_each_bf16_device(device, [](Device& other) {
    uint32_t seed = 1;
    // One row, an edge in every direction, k cut into parts, k that fills half a chunk, more tiles than a band, whole tiles.
    const int64_t sizes[][4] = {{1, 1, 40, 70}, {1, 8, 33, 64}, {2, 9, 17, 1}, {1, 70, 65, 33}, {2, 67, 130, 40}, {1, 40, 24, 2100}, {1, 40, 24, 500}, {1, 600, 9, 16}, {1, 64, 64, 64}};
    for (auto& size : sizes)
      for (int form = 0; form < 4; ++form) check_matmul(other, size[0], size[1], size[2], size[3], form & 1, form & 2, form == 2, seed++);
  });
}

// 66 products of two by one tiles of 128 x 128: enough for the large tile.
TEST(cuda_bf16_matmul_large_tiles) {
  for_each_bf16_device(device, [](Device& other) {
    for (int form = 0; form < 4; ++form) check_matmul(other, 33, 130, 70, 40, form & 1, form & 2, false, 100 + static_cast<uint32_t>(form));
  });
}

// Few rows: k in 2 to 8 parts that are added up within a cluster, or (without) in global memory. One tile and several, edges in every direction, a
// last part that is shorter, a batch.
TEST(cuda_bf16_matmul_in_clusters) {
  for (const char* clusters : {"1", "0"}) {
    const Variable wanted("TREFOIL_CUDA_CLUSTERS", clusters);
    for_each_bf16_device(device, [](Device& other) {
      uint32_t seed = 400;
      const int64_t sizes[][4] = {{1, 64, 128, 512}, {1, 9, 130, 800}, {1, 33, 40, 1100}, {2, 20, 257, 1300}, {1, 12, 9, 1800}, {1, 64, 136, 2056}, {1, 17, 24, 4000}};
      for (auto& size : sizes)
        for (int form = 0; form < 4; ++form) check_matmul(other, size[0], size[1], size[2], size[3], form & 1, form & 2, form == 2, seed++);
    });
  }
}

// Which block of a cluster finishes an element, and when, changes nothing: the same bits in each order, and in a second launch.
TEST(cuda_bf16_matmul_in_clusters_has_one_order) {
  std::vector<float> first;
  for_each_bf16_device(device, [&](Device& other) {
    std::mt19937 generator(5);
    F32 a = normal(generator, {50, 2304}), b = normal(generator, {140, 2304}), bias = normal(generator, {140}), residual = normal(generator, {50, 140});
    for (int run = 0; run < 2; ++run) {
      F32 c({50, 140}), z({50, 140});
      launch(other, "matmul", {view(a), view(b), view(bias), view(residual)}, {view(c), view(z)}, {0, 1, 0.5, 3});
      for (size_t i = 0; i < c.size(); ++i) CHECK(std::fabs(z[i] / (1 + std::exp(-z[i])) + residual[i] - c[i]) <= 1e-5f * (std::fabs(z[i]) + std::fabs(residual[i])));
      c.values.insert(c.values.end(), z.values.begin(), z.values.end());
      // Rows that are alike are finished by different blocks.
      F32 alike({50, 2304}), product({50, 140});
      for (size_t i = 0; i < alike.size(); ++i) alike[i] = a[i % 2304];
      launch(other, "matmul", {view(alike), view(b), absent(), absent()}, {view(product), absent()}, {0, 1, 1, 0});
      for (size_t i = 0; i < product.size(); ++i) CHECK(product[i] == product[i % 140]);
      if (first.empty()) first = c.values;
      CHECK(std::memcmp(first.data(), c.values.data(), first.size() * sizeof(float)) == 0);
    }
  });
}

// Hopper's own products: whole tiles and edges in every direction, fewer and more steps of k than stages, several tiles, odd columns, a
// batch, a bias, k cut into parts of which the last is empty; each operand along k and across it.
TEST(cuda_bf16_matmul_by_wgmma) {
  if (!tries_wgmma(device)) return;
  const Variable choice("TREFOIL_MATMUL", "own");
  for_each_wgmma_tile(device, [](Device& other) {
    uint32_t seed = 500;
    const int64_t sizes[][4] = {{1, 128, 128, 64}, {1, 128, 256, 576}, {1, 9, 17, 1}, {1, 70, 65, 33}, {1, 130, 261, 72}, {2, 67, 130, 40}, {3, 129, 7, 200}, {2, 40, 24, 2100}};
    for (auto& size : sizes)
      for (int form = 0; form < 4; ++form) check_matmul(other, size[0], size[1], size[2], size[3], form & 1, form & 2, size[2] == 65 || size[0] == 2, seed++);
  });
}

// A step of k that is part of one: what lies past it is the next product's, or the next group's, which is not a number here.
TEST(cuda_bf16_products_by_wgmma_read_nothing_of_the_next) {
  if (!tries_wgmma(device)) return;
  const Variable choice("TREFOIL_MATMUL", "own");
  for_each_wgmma_tile(device, [](Device& other) {
    std::mt19937 generator(1);
    for (bool transpose_a : {false, true}) {
      F32 a = normal(generator, transpose_a ? std::vector<int64_t>{2, 40, 16} : std::vector<int64_t>{2, 16, 40}), b = normal(generator, {2, 40, 24}), c({2, 16, 24});
      std::fill(b.values.begin() + 40 * 24, b.values.end(), kNaN);
      if (transpose_a) std::fill(a.values.begin() + 40 * 16, a.values.end(), kNaN);
      launch(other, "matmul", {view(a), view(b), absent(), absent()}, {view(c), absent()}, {double(transpose_a), 0, 1, 0});
      for (size_t i = 0; i < c.size(); ++i) CHECK(std::isfinite(c[i]) == (i < 16 * 24));
    }
    for (int32_t rows : {1, 63, 64, 70, 400}) {
      I32 offsets = offsets_of({rows, 50, 20});
      F32 a = normal(generator, {rows + 70, 24}), b = normal(generator, {rows + 70, 200}), dw({3, 24, 200});
      for (int64_t r = rows; r < rows + 50; ++r) a[r * 24] = b[r * 200] = b[r * 200 + 150] = kNaN;
      launch(other, "grouped_matmul_weight_grad", {view(a), view(b), view(offsets), absent(), absent()}, {view(dw)});
      for (size_t i = 0; i < dw.size(); ++i) CHECK(std::isnan(dw[i]) == (i / (24 * 200) == 1 && (i / 200 % 24 == 0 || i % 200 == 0 || i % 200 == 150)));
    }
  });
}

TEST(cuda_bf16_matmul_by_cublaslt) {
  if (!emulated(device)) return;  // on a device, the other tests use the library if it is there
  const Variable path("TREFOIL_CUBLASLT", TREFOIL_TEST_FAKE_CUBLASLT), choice("TREFOIL_MATMUL", "cublaslt");
  auto check = [](Device& other) {
    uint32_t seed = 400;
    for (auto& size : {std::array<int64_t, 4>{1, 32, 40, 70}, {2, 67, 33, 40}})
      for (int form = 0; form < 4; ++form) check_matmul(other, size[0], size[1], size[2], size[3], form & 1, form & 2, form == 2, seed++);
    // A residual alone, which the library adds.
    std::mt19937 generator(seed);
    F32 a = normal(generator, {2, 40, 64}), b = normal(generator, {2, 64, 36}), residual = normal(generator, {2, 40, 36}), product({2, 40, 36}), sum({2, 40, 36});
    launch(other, "matmul", {view(a), view(b), absent(), absent()}, {view(product), absent()}, {0, 0, 1, 0});
    launch(other, "matmul", {view(a), view(b), absent(), view(residual)}, {view(sum), absent()}, {0, 0, 1, 0});
    for (size_t i = 0; i < sum.size(); ++i) CHECK(sum[i] == product[i] + residual[i]);
    // The losses' gradient of w, to which the rows past the first 2048 are added: that of all is the sum of either part's.
    const int64_t width = 40, classes = 64;
    F32 w = normal(generator, {classes, width}), dw[3] = {F32({classes, width}), F32({classes, width}), F32({classes, width})};
    const F32 rows = normal(generator, {2090, width});
    for (int part = 0; part < 3; ++part) {
      const int64_t first = part == 2 ? 2048 : 0, count = part == 0 ? 2090 : part == 1 ? 2048 : 42;
      F32 x({count, width}), weights({count});
      I32 targets({count});
      std::copy_n(rows.values.begin() + first * width, count * width, x.values.begin());
      for (int64_t t = 0; t < count; ++t) targets[t] = static_cast<int32_t>((first + t) % classes), weights[t] = 1;
      launch(other, "linear_cross_entropy", {view(x), view(w), view(targets), view(weights)}, {absent(), absent(), absent(), view(dw[part])});
    }
    for (size_t i = 0; i < dw[0].size(); ++i) CHECK(std::fabs(dw[0][i] - (dw[1][i] + dw[2][i])) < 1e-3f);  // of 2090 terms of about 1 in f32
  };
  for_each_bf16_device(device, [&](Device& other) {
    TrefoilDeviceInfo info{};
    other.backend->device_info(other.handle, &info);
    CHECK(std::strcmp(info.isa, "sm_0 bf16, cuBLASLt 13.1.2") == 0);
    check(other);
  });
  const Variable none("TREFOIL_FAKE_CUBLASLT_NONE", "1");
  for_each_bf16_device(device, check);
}

// gpu.sh runs these tests with TREFOIL_MATMUL and TREFOIL_CUDA_WGMMA set: no test may leave others without.
TEST_ONCE(cuda_bf16_variables_come_back) {
  const Variable outer("TREFOIL_MATMUL", "own");
  {
    const Variable inner("TREFOIL_MATMUL", "cublaslt");
    CHECK(std::string_view(std::getenv("TREFOIL_MATMUL")) == "cublaslt");
  }
  CHECK(std::getenv("TREFOIL_MATMUL") && std::string_view(std::getenv("TREFOIL_MATMUL")) == "own");
}

TEST(cuda_bf16_cublaslt_absent) {
  if (device.backend->flags & TREFOIL_BACKEND_HOST_MEMORY) return;
  const TrefoilDeviceOptions options{0, 0, nullptr, "bf16"};
  TrefoilStatus status{};
  {
    const Variable path("TREFOIL_CUBLASLT", "/nowhere/libcublasLt.so.13"), choice("TREFOIL_MATMUL", "cublaslt");
    CHECK(!device.backend->open_device(&options, &status) && status.code == TREFOIL_DEVICE_UNAVAILABLE);
    CHECK(std::strstr(status.message, "/nowhere/libcublasLt.so.13") && std::strstr(status.message, "TREFOIL_CUBLASLT"));
  }
  {
    const Variable choice("TREFOIL_MATMUL", "mkl");
    CHECK(!device.backend->open_device(&options, &status) && status.code == TREFOIL_INVALID_ARGUMENT);
  }
  const Variable path("TREFOIL_CUBLASLT", "/nowhere/libcublasLt.so.13"), choice("TREFOIL_MATMUL", "auto");
  TrefoilDevice* handle = device.backend->open_device(&options, &status);
  CHECK(handle);
  TrefoilDeviceInfo info{};
  device.backend->device_info(handle, &info);
  device.backend->close_device(handle);
  CHECK(std::strstr(info.isa, "own products"));
}

TEST(cuda_bf16_grouped_matmul) {
  for_each_bf16_device(device, [](Device& other) {
    uint32_t seed = 200;
    for (const std::vector<int32_t>& sizes : {std::vector<int32_t>{3, 0, 70, 1}, {0, 0}, {1}, {0, 65, 0, 130, 2}})
      for (int form = 0; form < 4; ++form) check_grouped_matmul(other, sizes, 37, 50, form & 1, form & 2, seed++);
  });
}

// Groups that are empty, small, and larger than a tile of 128 rows, gathered or not: a tile's rows past its group's end are another group's.
TEST(cuda_bf16_grouped_matmul_by_wgmma) {
  if (!tries_wgmma(device)) return;
  const Variable choice("TREFOIL_MATMUL", "own");
  for_each_wgmma_tile(device, [](Device& other) {
    uint32_t seed = 600;
    for (const std::vector<int32_t>& sizes : {std::vector<int32_t>{3, 0, 70, 1}, {0, 0}, {1}, {0, 65, 0, 130, 2}})
      for (bool gather : {false, true}) {
        check_grouped_matmul(other, sizes, 72, 135, true, gather, seed++);
        check_grouped_matmul(other, sizes, 128, 135, false, gather, seed++);
      }
  });
}

// Results of f32 and bf16, through the copy engine (rows of multiples of 16 bytes) and past it: batches, parts of k, groups of rows that are empty, of
// one row, end within a tile's half; scaled, with a bias, a residual that is C itself, an activation; by one block for all tiles up to one for each, the
// same bit for bit.
TEST(cuda_bf16_results_by_wgmma_do_not_depend_on_blocks) {
  if (!tries_wgmma(device)) return;
  const Variable choice("TREFOIL_MATMUL", "own");
  struct Case {
    int64_t batch, m, n, k;
    bool half, epilogue;
  };
  const Case cases[] = {{2, 200, 328, 72, false, false}, {2, 200, 328, 72, true, false}, {1, 40, 24, 520, true, false}, {1, 130, 264, 40, true, true}, {1, 130, 262, 40, false, true}, {1, 70, 261, 40, false, false}};
  const std::vector<int32_t> sizes{0, 1, 130, 64, 0, 200, 2};
  for (const char* tile : {"128", "256", "256x2"}) {
    const Variable wgmma("TREFOIL_CUDA_WGMMA", tile);
    std::vector<std::vector<double>> first;
    for (const char* blocks : {"1", "2", "5", "132"}) {
      const Variable multiprocessors("TREFOIL_EMULATED_MULTIPROCESSORS", blocks);
      for_each_bf16_device(device, [&](Device& other) {
        std::vector<std::vector<double>> results;
        const auto keep = [&](const Stored& c) {
          std::vector<double>& values = results.emplace_back();
          for (size_t i = 0; i < c.size(); ++i) values.push_back(c[i]);
        };
        std::mt19937 generator(7);
        for (auto [batch, m, n, k, half, epilogue] : cases) {
          Stored a(generator, {batch, m, k}), b(generator, {batch, k, n}), c(generator, {batch, m, n});
          F32 shift = normal(generator, {n}), z({batch, m, n});
          const double alpha = 0.5;
          Doubles exact(c.size()), terms(c.size());
          const TrefoilView operands[] = {a.as(true), b.as(true)}, to = c.as(half);
          for (int64_t i = 0; i < batch * m * n; ++i) {
            const int64_t s = i / (m * n), row = i / n % m, column = i % n;
            for (int64_t p = 0; p < k; ++p) {
              const double term = alpha * a[s * m * k + row * k + p] * b[s * k * n + p * n + column];
              exact[i] += term, terms[i] += std::fabs(term);
            }
            if (epilogue) exact[i] = std::max(exact[i] + shift[column], 0.0) + c[i], terms[i] += std::fabs(shift[column]) + std::fabs(c[i]);
          }
          if (epilogue) launch(other, "matmul", {operands[0], operands[1], view(shift), to}, {to, view(z)}, {0, 0, alpha, 1});
          else launch(other, "matmul", {operands[0], operands[1], absent(), absent()}, {to, absent()}, {0, 0, alpha, 0});
          c.check(exact, terms, static_cast<double>(k + 8) * 0x1p-23, "matmul by wgmma");
          keep(c);
        }
        I32 offsets = offsets_of(sizes);
        const int64_t groups = static_cast<int64_t>(sizes.size()), rows = offsets[sizes.size()], k = 72, n = 264;
        Stored x(generator, {rows, k}), w(generator, {groups, k, n}), y({rows, n});
        const TrefoilView from = x.as(true), weights = w.as(true);
        for (bool half : {false, true}) {
          launch(other, "grouped_matmul", {from, weights, view(offsets), absent()}, {y.as(half)}, {0});
          Doubles exact(y.size()), terms(y.size());
          for (int64_t e = 0; e < groups; ++e)
            for (int64_t r = offsets[e]; r < offsets[e + 1]; ++r)
              for (int64_t j = 0; j < n; ++j)
                for (int64_t p = 0; p < k; ++p) {
                  const double term = x[r * k + p] * w[(e * k + p) * n + j];
                  exact[r * n + j] += term, terms[r * n + j] += std::fabs(term);
                }
          y.check(exact, terms, static_cast<double>(k + 8) * 0x1p-23, "grouped_matmul by wgmma");
          keep(y);
        }
        if (first.empty()) first = results;
        CHECK(results == first);
      });
    }
  }
}

TEST(cuda_bf16_conv2d) {
  for_each_bf16_device(device, [](Device& other) {
    struct Shape {
      int64_t size, channels, out_channels, kernel, stride, padding;
    };
    uint32_t seed = 300;
    for (auto [size, channels, out_channels, kernel, stride, padding] : {Shape{7, 3, 5, 3, 1, 1}, Shape{8, 16, 9, 3, 2, 1}, Shape{5, 8, 12, 1, 1, 0}, Shape{9, 8, 8, 5, 3, 2}}) {
      std::mt19937 generator(seed++);
      const int64_t out = (size + 2 * padding - kernel) / stride + 1;
      F32 x = normal(generator, {2, size, size, channels}), w = normal(generator, {out_channels, kernel, kernel, channels});
      F32 y({2, out, out, out_channels}), dy = normal(generator, y.shape), dx(x.shape), dw(w.shape);
      const std::vector<double> attributes{double(stride), double(padding)};
      launch(other, "conv2d", {view(x), view(w), absent()}, {view(y)}, attributes);
      launch(other, "conv2d_input_grad", {view(dy), view(w)}, {view(dx)}, attributes);
      launch(other, "conv2d_weight_grad", {view(dy), view(x)}, {view(dw)}, attributes);
      // Weights of channels that do not fill chunks of eight have their gradient in f32.
      const bool half = channels % 8 == 0;
      std::vector<double> sums[3] = {std::vector<double>(y.size()), std::vector<double>(x.size()), std::vector<double>(w.size())};
      std::vector<double> magnitudes[3] = {sums[0], sums[1], sums[2]};
      auto add = [&](int which, size_t at, double term) { sums[which][at] += term, magnitudes[which][at] += std::fabs(term); };
      for (int64_t image = 0; image < 2; ++image)
        for (int64_t u = 0; u < out; ++u)
          for (int64_t v = 0; v < out; ++v)
            for (int64_t o = 0; o < out_channels; ++o)
              for (int64_t i = 0; i < kernel; ++i)
                for (int64_t j = 0; j < kernel; ++j) {
                  const int64_t row = u * stride - padding + i, column = v * stride - padding + j;
                  if (row < 0 || row >= size || column < 0 || column >= size) continue;
                  for (int64_t c = 0; c < channels; ++c) {
                    const size_t at_x = static_cast<size_t>(((image * size + row) * size + column) * channels + c);
                    const size_t at_w = static_cast<size_t>(((o * kernel + i) * kernel + j) * channels + c);
                    const size_t at_y = static_cast<size_t>(((image * out + u) * out + v) * out_channels + o);
                    add(0, at_y, rounded(x[at_x]) * rounded(w[at_w]));
                    add(1, at_x, rounded(dy[at_y]) * rounded(w[at_w]));
                    add(2, at_w, half ? rounded(dy[at_y]) * rounded(x[at_x]) : double(dy[at_y]) * x[at_x]);
                  }
                }
      const F32* results[3] = {&y, &dx, &dw};
      const int64_t terms[3] = {kernel * kernel * channels, kernel * kernel * out_channels, 2 * out * out};
      const char* names[3] = {"conv2d in bf16", "conv2d_input_grad in bf16", "conv2d_weight_grad in bf16"};
      for (int which = 0; which < 3; ++which) {
        Error error;
        for (size_t i = 0; i < sums[which].size(); ++i) error.add((*results[which])[i], sums[which][i], magnitudes[which][i]);
        error.check(names[which], terms[which]);
      }
    }
  });
}

TEST(cuda_bf16_linear_cross_entropy) {
  for_each_bf16_device(device, [](Device& other) {
    for (int64_t classes : {96, 97}) {
      std::mt19937 generator(static_cast<uint32_t>(classes));
      const int64_t rows = 70, width = 33;
      F32 x = normal(generator, {rows, width}), w = normal(generator, {classes, width}, 0.2f), weights = normal(generator, {rows});
      I32 targets({rows});
      for (int32_t& target : targets.values) target = static_cast<int32_t>(generator() % static_cast<uint64_t>(classes + 1)) - 1;
      F32 loss(std::vector<int64_t>{}), nll({rows}), dx({rows, width}), dw({classes, width});
      launch(other, "linear_cross_entropy", {view(x), view(w), view(targets), view(weights)}, {view(loss), view(nll), view(dx), view(dw)});
      std::vector<double> expected_nll(rows), expected_dx(dx.size()), expected_dw(dw.size()), most_dx(dx.size()), most_dw(dw.size());
      for (int64_t t = 0; t < rows; ++t) {
        if (targets[t] < 0) continue;
        std::vector<double> logits(classes);
        double total = 0;
        for (int64_t v = 0; v < classes; ++v) {
          for (int64_t d = 0; d < width; ++d) logits[v] += rounded(x[t * width + d]) * rounded(w[v * width + d]);
          total += std::exp(logits[v]);
        }
        expected_nll[t] = std::log(total) - logits[targets[t]];
        for (int64_t v = 0; v < classes; ++v) {
          const double slope = weights[t] * (std::exp(logits[v]) / total - (v == targets[t] ? 1 : 0));
          for (int64_t d = 0; d < width; ++d) {
            const double to_x = slope * rounded(w[v * width + d]), to_w = slope * rounded(x[t * width + d]);
            expected_dx[t * width + d] += to_x, most_dx[t * width + d] += std::fabs(to_x);
            expected_dw[v * width + d] += to_w, most_dw[v * width + d] += std::fabs(to_w);
          }
        }
      }
      check_close(nll, expected_nll, 2e-6, 2e-6, "nll in bf16");
      // The logits' gradient is rounded to bf16, of 8 significant bits: 2^-8 of every term at most, and a little for f32.
      constexpr double bound = 0x1p-8 * 1.01;
      for (size_t i = 0; i < dx.size(); ++i) CHECK(std::fabs(dx[i] - expected_dx[i]) <= bound * most_dx[i]);
      for (size_t i = 0; i < dw.size(); ++i) CHECK(std::fabs(dw[i] - expected_dw[i]) <= bound * most_dw[i]);
    }
  });
}
