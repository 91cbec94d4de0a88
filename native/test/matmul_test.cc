#include <cstring>

#include "harness.h"

using namespace trefoil::test;

namespace {

float widen(uint16_t bits) {
  uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

BF16 narrow(F32& array) {  // also rounds array itself, so that both hold the same numbers
  BF16 result(array.shape);
  for (size_t i = 0; i < array.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &array[i], 4);
    result[i] = static_cast<uint16_t>((bits + 0x8000u) >> 16);
    array[i] = widen(result[i]);
  }
  return result;
}

double activate(double z, int activation) {
  switch (activation) {
    case 1: return z > 0 ? z : 0;
    case 2: return 0.5 * z * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (z + 0.044715 * z * z * z)));
    case 3: return z / (1 + std::exp(-z));
    default: return z;
  }
}

struct Case {
  int64_t m = 1, n = 1, k = 1, batch = 0;  // batch 0: rank 2
  bool transpose_a = false, transpose_b = false, shared_b = false, shared_residual = false;
  float alpha = 1;
  int activation = 0;
  bool bias = false, residual = false, preactivation = false, bf16_a = false, bf16_b = false;
};

// Against a double-precision product. Error is measured in units of sum |a||b|: at most twice that of a plain float loop,
// plus the few roundings of the epilogue.
void check_case(Device& device, const Case& c, uint32_t seed) {
  std::mt19937 generator(seed);
  const int64_t batch = c.batch ? c.batch : 1;
  auto dims = [&](bool lead, int64_t rows, int64_t columns) {
    return lead && c.batch ? std::vector<int64_t>{c.batch, rows, columns} : std::vector<int64_t>{rows, columns};
  };
  F32 a = normal(generator, c.transpose_a ? dims(true, c.k, c.m) : dims(true, c.m, c.k));
  F32 b = normal(generator, c.transpose_b ? dims(!c.shared_b, c.n, c.k) : dims(!c.shared_b, c.k, c.n));
  F32 bias = normal(generator, {c.n}), residual = normal(generator, dims(!c.shared_residual, c.m, c.n));
  BF16 half_a = c.bf16_a ? narrow(a) : BF16(), half_b = c.bf16_b ? narrow(b) : BF16();
  F32 out(dims(true, c.m, c.n)), before(dims(true, c.m, c.n));
  std::fill(out.values.begin(), out.values.end(), NAN);
  launch(device, "matmul",
         {c.bf16_a ? view(half_a) : view(a), c.bf16_b ? view(half_b) : view(b), c.bias ? view(bias) : absent(),
          c.residual ? view(residual) : absent()},
         {view(out), c.preactivation ? view(before) : absent()},
         {double(c.transpose_a), double(c.transpose_b), c.alpha, double(c.activation)});

  double plain_error = 0, worst = 0, worst_before = 0;
  for (int64_t s = 0; s < batch; ++s)
    for (int64_t i = 0; i < c.m; ++i)
      for (int64_t j = 0; j < c.n; ++j) {
        double exact = 0, magnitude = 0;
        float plain = 0;
        for (int64_t k = 0; k < c.k; ++k) {
          float x = a[s * c.m * c.k + (c.transpose_a ? k * c.m + i : i * c.k + k)];
          float y = b[(c.shared_b ? 0 : s * c.n * c.k) + (c.transpose_b ? j * c.k + k : k * c.n + j)];
          exact += double(x) * y;
          magnitude += std::fabs(double(x) * y);
          plain += x * y;
        }
        double unit = std::fabs(c.alpha) * magnitude + std::fabs(bias[j]) + 1e-30;
        plain_error = std::max(plain_error, std::fabs(plain - exact) * std::fabs(c.alpha) / unit);
        double z = c.alpha * exact + (c.bias ? bias[j] : 0);
        size_t at = (s * c.m + i) * c.n + j, residual_at = c.shared_residual ? i * c.n + j : at;
        double expected = activate(z, c.activation) + (c.residual ? residual[residual_at] : 0);
        // The residual's own rounding is not the product's.
        double error = std::fabs(out[at] - expected) / (unit + (c.residual ? std::fabs(residual[residual_at]) : 0));
        if (!(error <= worst)) worst = error;
        if (c.preactivation && !(std::fabs(before[at] - z) / unit <= worst_before)) worst_before = std::fabs(before[at] - z) / unit;
      }
  // Activations have slopes up to 1.13 and cost a few roundings of their own.
  double bound = 2 * plain_error + (c.activation ? 6 : 2) * 6e-8;
  if (!(worst <= bound) || !(worst_before <= bound)) {
    char text[300];
    std::snprintf(text, sizeof text, "m %ld n %ld k %ld batch %ld tA %d tB %d act %d bias %d res %d bf16 %d%d: error %.3g, preactivation %.3g, bound %.3g",
                  long(c.m), long(c.n), long(c.k), long(c.batch), c.transpose_a, c.transpose_b, c.activation, c.bias, c.residual, c.bf16_a,
                  c.bf16_b, worst, worst_before, bound);
    wrong_result(text);
  }
}

}  // namespace

TEST(matmul_small_sizes) {
  uint32_t seed = 1;
  for (int64_t m : {1, 2, 3, 5, 6, 7, 11, 12, 13, 17, 25, 70})
    for (int64_t n : {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 70})
      for (int64_t k : {1, 3, 16, 17, 70})
        for (int form = 0; form < 4; ++form) {
          Case c;
          c.m = m, c.n = n, c.k = k, c.transpose_a = form & 1, c.transpose_b = form & 2;
          check_case(device, c, seed++);
        }
}

TEST(matmul_many_blocks) {
  uint32_t seed = 100;
  // Primes past every tile and depth limit; a long k under a small C; tall, wide, thin.
  const int64_t sizes[][3] = {{211, 137, 1031}, {401, 523, 61}, {13, 1031, 401}, {7, 3001, 97}, {1, 1021, 2053}, {3, 37, 5003}, {61, 67, 4099},
                              {193, 40, 3001}, {300, 5, 700}, {5, 300, 900}, {1200, 33, 8}, {500, 1, 257}, {1, 1, 4001},
                              {70, 300, 700}, {100, 290, 1100}, {210, 100, 1500}};
  for (auto& size : sizes)
    for (int form = 0; form < 4; ++form) {
      Case c;
      c.m = size[0], c.n = size[1], c.k = size[2], c.transpose_a = form & 1, c.transpose_b = form & 2;
      check_case(device, c, seed++);
    }
}

TEST(matmul_epilogues) {
  uint32_t seed = 200;
  const int64_t sizes[][3] = {{37, 29, 19}, {3, 45, 70}, {300, 70, 500}, {50, 66, 3000}};
  for (auto& size : sizes)
    for (int activation = 0; activation < 4; ++activation)
      for (int form = 0; form < 4; ++form) {
        Case c;
        c.m = size[0], c.n = size[1], c.k = size[2], c.transpose_a = form & 1, c.transpose_b = form & 2;
        c.activation = activation, c.alpha = activation == 1 ? 1.0f : -0.3f;
        c.bias = activation != 3, c.residual = (form + activation) % 2, c.preactivation = form != 2;
        check_case(device, c, seed++);
      }
}

TEST(matmul_batches) {
  uint32_t seed = 300;
  const int64_t sizes[][4] = {{3, 5, 7, 9}, {2, 40, 33, 50}, {70, 20, 17, 16}, {4, 230, 40, 30}, {2, 210, 90, 400}};
  for (auto& size : sizes)
    for (int form = 0; form < 8; ++form) {
      Case c;
      c.batch = size[0], c.m = size[1], c.n = size[2], c.k = size[3];
      c.transpose_a = form & 1, c.transpose_b = form & 2, c.shared_b = (form & 4) && !c.transpose_a;
      c.alpha = 0.5f, c.bias = form & 2, c.residual = form != 0, c.shared_residual = form == 5 || form == 6;
      check_case(device, c, seed++);
    }
}

// 66 products of two by one tiles of 128 x 128: enough for the large tile of GPUs (other tests have it with both operands by depth).
TEST(matmul_large_tiles) {
  for (int form : {0, 1, 3}) {
    Case c;
    c.batch = 33, c.m = 130, c.n = 66, c.k = form == 3 ? 10 : 8, c.transpose_a = form & 1, c.transpose_b = form & 2;
    check_case(device, c, 600 + static_cast<uint32_t>(form));
  }
}

TEST(matmul_bf16_storage) {
  uint32_t seed = 400;
  const int64_t sizes[][3] = {{1, 70, 300}, {5, 129, 65}, {33, 35, 37}, {230, 77, 501}, {300, 3, 40}, {3, 900, 1500}, {2, 72, 304}, {2, 37, 101}, {4, 72, 304}, {8, 37, 101}};
  for (auto& size : sizes)
    for (int form = 0; form < 4; ++form)
      for (int which = 1; which < 4; ++which) {
        Case c;
        c.m = size[0], c.n = size[1], c.k = size[2], c.transpose_a = form & 1, c.transpose_b = form & 2;
        c.bf16_a = which & 1, c.bf16_b = which & 2;
        check_case(device, c, seed++);
      }
}

TEST(matmul_empty) {
  F32 a({4, 0}), b({0, 3}), c({4, 3}), bias({3}, {1, 2, 3});
  std::fill(c.values.begin(), c.values.end(), NAN);
  launch(device, "matmul", {view(a), view(b), view(bias), absent()}, {view(c), absent()}, {0, 0, 1, 0});
  for (int i = 0; i < 12; ++i) CHECK(c[i] == static_cast<float>(i % 3 + 1));
  F32 none({0, 5}), weight({5, 3}), nothing({0, 3});
  launch(device, "matmul", {view(none), view(weight), absent(), absent()}, {view(nothing), absent()}, {0, 0, 1, 0});
}

TEST(matmul_keeps_nan_and_infinity) {
  for (int64_t m : {2, 40, 250})
    for (int activation = 0; activation < 4; ++activation) {
      std::mt19937 generator(7);
      F32 a = normal(generator, {m, 30}), b = normal(generator, {30, 40}), c({m, 40});
      a[30 + 4] = NAN;
      launch(device, "matmul", {view(a), view(b), absent(), absent()}, {view(c), absent()}, {0, 0, 1, double(activation)});
      for (int j = 0; j < 40; ++j) CHECK(std::isnan(c[40 + j]) && !std::isnan(c[j]));
    }
}

TEST(matmul_thread_independent) {
  check_thread_independent(device, [](Device& d) {
    std::vector<F32> results;
    const int64_t sizes[][3] = {{300, 200, 700}, {64, 64, 4000}, {4, 900, 700}, {100, 1000, 300}, {100, 400, 1100}, {400, 100, 1100}};
    for (auto& size : sizes)
      for (int form = 0; form < 4; ++form) {
        std::mt19937 generator(5);
        F32 a = normal(generator, {size[0] * size[2]}), b = normal(generator, {size[1] * size[2]}), c({size[0], size[1]});
        a.shape = form & 1 ? std::vector<int64_t>{size[2], size[0]} : std::vector<int64_t>{size[0], size[2]};
        b.shape = form & 2 ? std::vector<int64_t>{size[1], size[2]} : std::vector<int64_t>{size[2], size[1]};
        launch(d, "matmul", {view(a), view(b), absent(), absent()}, {view(c), absent()}, {double(form & 1), double((form & 2) / 2), 1, 2});
        results.push_back(c);
      }
    return results;
  });
}

TEST(matmul_rejects_unequal_k) {
  F32 a({4, 5}), b({6, 3}), c({4, 3});
  TrefoilStatus status = launch_error(device, "matmul", {view(a), view(b), absent(), absent()}, {view(c), absent()}, {0, 0, 1, 0});
  CHECK(status.code == TREFOIL_INVALID_ARGUMENT);
}
