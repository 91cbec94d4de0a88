// elementwise against double precision: every opcode, broadcasting, dtypes, fused chains, shared storage, bad programs.
#include <cstring>
#include <limits>

#include "harness.h"

using namespace trefoil::test;

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Opcode {
  const char* name;
  int code, operands;
  double (*reference)(double a, double b, double c);
  double low, high;  // range of the operands
};

double logistic(double a) { return 1 / (1 + std::exp(-a)); }
double gelu(double a) { return 0.5 * a * (1 + std::tanh(std::sqrt(2 / M_PI) * (a + 0.044715 * a * a * a))); }
constexpr double kImmediate = 1.75;

const Opcode kOpcodes[] = {
    {"copy", 0, 1, [](double a, double, double) { return a; }, -9, 9},
    {"constant", 1, 0, [](double, double, double) { return kImmediate; }, -9, 9},
    {"add", 2, 2, [](double a, double b, double) { return a + b; }, -9, 9},
    {"subtract", 3, 2, [](double a, double b, double) { return a - b; }, -9, 9},
    {"multiply", 4, 2, [](double a, double b, double) { return a * b; }, -9, 9},
    {"divide", 5, 2, [](double a, double b, double) { return a / b; }, 0.5, 9},
    {"maximum", 6, 2, [](double a, double b, double) { return std::max(a, b); }, -9, 9},
    {"minimum", 7, 2, [](double a, double b, double) { return std::min(a, b); }, -9, 9},
    {"power", 8, 2, [](double a, double b, double) { return std::pow(a, b); }, 0.1, 3},
    {"negate", 9, 1, [](double a, double, double) { return -a; }, -9, 9},
    {"absolute", 10, 1, [](double a, double, double) { return std::fabs(a); }, -9, 9},
    {"exp", 11, 1, [](double a, double, double) { return std::exp(a); }, -9, 9},
    {"log", 12, 1, [](double a, double, double) { return std::log(a); }, 0.01, 9},
    {"sqrt", 13, 1, [](double a, double, double) { return std::sqrt(a); }, 0, 9},
    {"rsqrt", 14, 1, [](double a, double, double) { return 1 / std::sqrt(a); }, 0.1, 9},
    {"sin", 15, 1, [](double a, double, double) { return std::sin(a); }, -99, 99},
    {"cos", 16, 1, [](double a, double, double) { return std::cos(a); }, -99, 99},
    {"tanh", 17, 1, [](double a, double, double) { return std::tanh(a); }, -9, 9},
    {"sigmoid", 18, 1, [](double a, double, double) { return logistic(a); }, -9, 9},
    {"silu", 19, 1, [](double a, double, double) { return a * logistic(a); }, -9, 9},
    {"gelu", 20, 1, [](double a, double, double) { return gelu(a); }, -9, 9},
    {"erf", 21, 1, [](double a, double, double) { return std::erf(a); }, -5, 5},
    {"relu", 22, 1, [](double a, double, double) { return a > 0 ? a : 0; }, -9, 9},
    {"square", 23, 1, [](double a, double, double) { return a * a; }, -9, 9},
    {"reciprocal", 24, 1, [](double a, double, double) { return 1 / a; }, 0.5, 9},
    {"floor", 25, 1, [](double a, double, double) { return std::floor(a); }, -9, 9},
    {"round", 26, 1, [](double a, double, double) { return std::nearbyint(a); }, -9, 9},
    {"sign", 27, 1, [](double a, double, double) { return double((a > 0) - (a < 0)); }, -9, 9},
    {"less", 28, 2, [](double a, double b, double) { return double(a < b); }, -9, 9},
    {"less_equal", 29, 2, [](double a, double b, double) { return double(a <= b); }, -9, 9},
    {"equal", 30, 2, [](double a, double b, double) { return double(a == b); }, -9, 9},
    {"not_equal", 31, 2, [](double a, double b, double) { return double(a != b); }, -9, 9},
    {"where", 32, 3, [](double a, double b, double c) { return a != 0 ? b : c; }, -9, 9},
    {"add_immediate", 33, 1, [](double a, double, double) { return a + kImmediate; }, -9, 9},
    {"multiply_immediate", 34, 1, [](double a, double, double) { return a * kImmediate; }, -9, 9},
    {"softplus", 35, 1, [](double a, double, double) { return std::max(a, 0.0) + std::log1p(std::exp(-std::fabs(a))); }, -30, 30},
    {"multiply_add", 36, 3, [](double a, double b, double c) { return a * b + c; }, -9, 9},
    {"silu_grad", 37, 2, [](double a, double b, double) { return logistic(a) * (1 + a * (1 - logistic(a))) * b; }, -9, 9},
    // Central difference in double: exact to 1e-9 here.
    {"gelu_grad", 38, 2, [](double a, double b, double) { return (gelu(a + 1e-5) - gelu(a - 1e-5)) / 2e-5 * b; }, -9, 9},
    {"logical_not", 39, 1, [](double a, double, double) { return double(a == 0); }, -9, 9},
};

F32 uniform(std::mt19937& generator, std::vector<int64_t> shape, double low, double high) {
  F32 result(std::move(shape));
  std::uniform_real_distribution<float> distribution(static_cast<float>(low), static_cast<float>(high));
  for (float& value : result.values) value = distribution(generator);
  return result;
}

// The element of `array` that broadcasts to position `flat` of `shape`.
template <class T>
double broadcast_at(const Array<T>& array, const std::vector<int64_t>& shape, int64_t flat) {
  int64_t offset = 0, stride = 1;
  for (size_t back = 1; back <= array.shape.size(); ++back) {
    int64_t size = array.shape[array.shape.size() - back], full = shape[shape.size() - back];
    offset += (size == 1 ? 0 : flat % full) * stride;
    stride *= size;
    flat /= full;
  }
  return static_cast<double>(array.values[static_cast<size_t>(offset)]);
}

F32 run_one(Device& device, int code, std::vector<TrefoilView> inputs, std::vector<int64_t> shape, double immediate = kImmediate) {
  F32 y(std::move(shape));
  double n = static_cast<double>(inputs.size());
  launch(device, "elementwise", std::move(inputs), {view(y)}, {1, double(code), 0, n > 1 ? 1.0 : 0.0, n > 2 ? 2.0 : 0.0, immediate, n});
  return y;
}

bool same(float a, float b) { return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b)); }

}  // namespace

TEST(elementwise_every_opcode) {
  std::mt19937 generator(1);
  for (const Opcode& op : kOpcodes)
    for (int64_t n : {1, 7, 1031}) {
      F32 a = uniform(generator, {n}, op.low, op.high), b = uniform(generator, {n}, op.low, op.high), c = uniform(generator, {n}, op.low, op.high);
      if (n > 8) b[3] = a[3], b[8] = a[8], a[5] = op.low <= 0 ? 0.0f : a[5];
      std::vector<TrefoilView> inputs;
      if (op.operands > 0) inputs.push_back(view(a));
      if (op.operands > 1) inputs.push_back(view(b));
      if (op.operands > 2) inputs.push_back(view(c));
      F32 y = run_one(device, op.code, inputs, {n});
      for (size_t i = 0; i < y.size(); ++i) {
        double expected = op.reference(a[i], b[i], c[i]);
        // A few ulp of the result; the absolute part covers sums that cancel and sin/cos near their zeros.
        if (!(std::fabs(y[i] - expected) <= 2e-6 * std::fabs(expected) + 4e-6 * (op.operands == 3 || op.operands == 2) + 1e-9 + (op.code == 15 || op.code == 16) * 1e-7))
          wrong_result(std::string(op.name) + "(" + std::to_string(a[i]) + ", " + std::to_string(b[i]) + ") is " + std::to_string(y[i]) + ", expected " + std::to_string(expected));
      }
    }
}

TEST(elementwise_special_values) {
  F32 a({6}, {kNaN, 1, kNaN, 0, -0.0f, kInfinity}), b({6}, {1, kNaN, kNaN, -0.0f, 0, 1});
  F32 high = run_one(device, 6, {view(a), view(b)}, {6}), low = run_one(device, 7, {view(a), view(b)}, {6});
  for (size_t i = 0; i < 3; ++i) CHECK(std::isnan(high[i]) && std::isnan(low[i]));
  CHECK(high[5] == kInfinity && low[5] == 1);
  F32 not_equal = run_one(device, 31, {view(a), view(b)}, {6}), equal = run_one(device, 30, {view(a), view(b)}, {6});
  CHECK(not_equal[0] == 1 && not_equal[2] == 1 && not_equal[3] == 0 && equal[2] == 0 && equal[3] == 1);
  F32 chosen = run_one(device, 32, {view(a), view(b), view(high)}, {6});
  CHECK(chosen[0] == 1);               // NaN is not zero
  CHECK(same(chosen[4], high[4]));     // -0 is zero
  F32 negated = run_one(device, 9, {view(a)}, {6}), magnitude = run_one(device, 10, {view(a)}, {6});
  CHECK(same(negated[3], -0.0f) && same(negated[4], 0.0f) && same(magnitude[4], 0.0f) && std::isnan(magnitude[0]));
  F32 rectified = run_one(device, 22, {view(a)}, {6}), sign = run_one(device, 27, {view(a)}, {6});
  CHECK(std::isnan(rectified[0]) && rectified[5] == kInfinity && std::isnan(sign[0]) && sign[3] == 0 && sign[5] == 1);
  F32 halves({6}, {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f});
  F32 rounded = run_one(device, 26, {view(halves)}, {6});
  const float even[] = {0, 2, 2, 0, -2, -2};
  for (size_t i = 0; i < 6; ++i) CHECK(rounded[i] == even[i]);
  // Far out: no overflow turns into NaN, and small softplus values keep their digits.
  F32 far({6}, {-1e30f, 1e30f, -200, 200, -40, -87}), ones({6}, {1, 1, 1, 1, 1, 1});
  F32 slope = run_one(device, 38, {view(far), view(ones)}, {6}), silu_slope = run_one(device, 37, {view(far), view(ones)}, {6});
  for (size_t i = 0; i < 6; ++i) CHECK(std::fabs(slope[i] - (far[i] > 0)) < 1e-6 && std::fabs(silu_slope[i] - (far[i] > 0)) < 1e-6);
  F32 soft = run_one(device, 35, {view(far)}, {6});
  CHECK(soft[0] == 0 && soft[1] == 1e30f && soft[3] == 200);
  CHECK(std::fabs(soft[4] / std::exp(-40.0) - 1) < 1e-6 && std::fabs(soft[5] / std::exp(-87.0) - 1) < 1e-6);
}

TEST(elementwise_broadcasts) {
  struct Case {
    std::vector<int64_t> a, b, c, y;
  };
  const Case cases[] = {
      {{5, 300}, {300}, {5, 1}, {5, 300}},                    // rows wider than a tile piece
      {{4, 700}, {700}, {1}, {4, 700}},                       // rows of two tiles
      {{3, 1, 5}, {1, 4, 1}, {3, 4, 5}, {3, 4, 5}},           // short inner dimension
      {{2, 3, 4, 5}, {3, 1, 5}, {2, 1, 1, 1}, {2, 3, 4, 5}},  // more than one outer dimension
      {{1, 1}, {}, {1}, {7, 1, 9}},                           // single values only
      {{2, 1, 3, 1, 2, 300}, {2, 1, 3, 1, 1, 300}, {2, 1, 1, 1, 2, 1}, {2, 1, 3, 1, 2, 300}},
      {{1000, 3}, {1000, 1}, {3}, {1000, 3}},
      {{}, {}, {}, {}},
  };
  std::mt19937 generator(2);
  for (const Case& item : cases) {
    F32 a = normal(generator, item.a), b = normal(generator, item.b), c = normal(generator, item.c), y(item.y);
    launch(device, "elementwise", {view(a), view(b), view(c)}, {view(y)}, {1, 36, 0, 1, 2, 0, 3});
    std::vector<double> expected(y.size());
    for (size_t i = 0; i < y.size(); ++i) {
      int64_t at = static_cast<int64_t>(i);
      expected[i] = broadcast_at(a, item.y, at) * broadcast_at(b, item.y, at) + broadcast_at(c, item.y, at);
    }
    check_close(y, expected, 1e-6, 1e-7, "a * b + c");
  }
}

TEST(elementwise_converts_dtypes) {
  std::mt19937 generator(3);
  for (std::vector<int64_t> b_shape : {std::vector<int64_t>{3, 400}, {400}, {3, 1}, {1}}) {
    BF16 a({3, 400}), y_bf16({3, 400});
    I32 b(b_shape), y_i32({3, 400});
    F32 y({3, 400});
    for (auto& value : a.values) value = static_cast<uint16_t>(0x3f80 + generator() % 256);  // 1 to 4
    for (auto& value : b.values) value = static_cast<int32_t>(generator() % 2000) - 1000;
    // One register to three outputs: y = a * b
    launch(device, "elementwise", {view(a), view(b)}, {view(y), view(y_i32), view(y_bf16)}, {1, 4, 0, 1, 0, 0, 2, 2, 2});
    for (size_t i = 0; i < y.size(); ++i) {
      uint32_t wide = static_cast<uint32_t>(a[i]) << 16, back = static_cast<uint32_t>(y_bf16[i]) << 16;
      float a_value, y_value;
      std::memcpy(&a_value, &wide, 4);
      std::memcpy(&y_value, &back, 4);
      float expected = a_value * static_cast<float>(broadcast_at(b, {3, 400}, static_cast<int64_t>(i)));
      CHECK(y[i] == expected);
      CHECK(y_i32[i] == static_cast<int32_t>(expected));
      CHECK(std::fabs(y_value - expected) <= std::fabs(expected) / 256);  // 8 bits: half an ulp
    }
  }
  F32 x({5}, {kNaN, 3e9f, -3e9f, 1.9f, -1.9f});
  I32 truncated({5});
  launch(device, "elementwise", {view(x)}, {view(truncated)}, {0, 0});
  CHECK(truncated.values == std::vector<int32_t>({0, INT32_MAX, INT32_MIN, 1, -1}));
  BF16 rounded({5});
  launch(device, "elementwise", {view(x)}, {view(rounded)}, {0, 0});
  CHECK((rounded[0] & 0x7fff) > 0x7f80);
}

// A chain with shared intermediates, several outputs, an unread one and dead code, and more registers than fit without reuse.
TEST(elementwise_fused_chain) {
  std::mt19937 generator(4);
  F32 a = normal(generator, {3, 1111}), b = normal(generator, {1111}), y0({3, 1111}), y1({3, 1111});
  std::vector<double> program = {0};
  auto emit = [&](int op, double x, double y, double z, double immediate) {
    for (double value : {double(op), x, y, z, immediate}) program.push_back(value);
    return 2 + program[0]++;
  };
  double product = emit(4, 0, 1, 0, 0);
  double third = emit(1, 0, 0, 0, 1.0 / 3);
  double shifted = emit(2, product, third, 0, 0);
  emit(11, shifted, 0, 0, 0);  // nobody reads it
  double sum = shifted;
  for (int i = 0; i < 40; ++i) {
    double square = emit(23, sum, 0, 0, 0);
    double scaled = emit(34, square, 0, 0, 1e-3);
    sum = emit(2, scaled, sum, 0, 0);
  }
  double both = emit(3, sum, product, 0, 0);
  for (double output : {both, product, sum}) program.push_back(output);
  launch(device, "elementwise", {view(a), view(b)}, {view(y0), view(y1), absent()}, program);
  std::vector<double> expected0(y0.size()), expected1(y0.size());
  for (size_t i = 0; i < y0.size(); ++i) {
    double p = double(a[i]) * b[i % 1111], s = p + 1.0 / 3;
    for (int k = 0; k < 40; ++k) s += s * s * 1e-3;
    expected0[i] = s - p;
    expected1[i] = p;
  }
  check_close(y0, expected0, 3e-6, 0, "first output");
  check_close(y1, expected1, 1e-7, 0, "second output");
}

TEST(elementwise_outputs_may_share_storage_with_inputs) {
  std::mt19937 generator(5);
  F32 a = normal(generator, {2000}), b = normal(generator, {2000}), a0 = a, b0 = b;
  // (a, b) <- (b, a), then a <- (a + 1) * a
  launch(device, "elementwise", {view(a), view(b)}, {view(a), view(b)}, {0, 1, 0});
  CHECK(a.values == b0.values && b.values == a0.values);
  launch(device, "elementwise", {view(a)}, {view(a)}, {2, 33, 0, 0, 0, 1, 4, 1, 0, 0, 0, 2});
  for (size_t i = 0; i < a.size(); ++i) CHECK(a[i] == (b0[i] + 1) * b0[i]);
  // y0 <- b + 1 in the storage of b, y1 <- b * 2 reads b afterwards
  F32 y({2000});
  launch(device, "elementwise", {view(b)}, {view(b), view(y)}, {2, 33, 0, 0, 0, 1, 34, 0, 0, 0, 2, 1, 2});
  for (size_t i = 0; i < a.size(); ++i) CHECK(b[i] == a0[i] + 1 && y[i] == a0[i] * 2);
}

TEST(elementwise_empty_and_bad_programs) {
  F32 none({0, 4}), row({4}), y({0, 4});
  launch(device, "elementwise", {view(none), view(row)}, {view(y)}, {1, 2, 0, 1, 0, 0, 2});
  launch(device, "elementwise", {view(row)}, {absent()}, {1, 9, 0, 0, 0, 0, 1});
  F32 out({4}), other({3});
  for (const std::vector<double>& program : std::vector<std::vector<double>>{
           {}, {1, 2, 0, 0, 0, 0}, {1, 99, 0, 0, 0, 0, 1}, {1, 2, 0, 7, 0, 0, 1}, {1, 2, 0, 1, 0, 0, 1}, {1, 9, 0, 0, 0, 0, 2}, {1e18, 9, 0, 0, 0, 0, 1}})
    CHECK(launch_error(device, "elementwise", {view(row)}, {view(out)}, program).code == TREFOIL_INVALID_ARGUMENT);
  CHECK(launch_error(device, "elementwise", {view(row), view(other)}, {view(out)}, {1, 2, 0, 1, 0, 0, 2}).code == TREFOIL_INVALID_ARGUMENT);
}

TEST(elementwise_thread_independent) {
  check_thread_independent(device, [](Device& other) {
    std::mt19937 generator(6);
    F32 a = normal(generator, {300, 1000}), b = normal(generator, {1000}), y({300, 1000});
    launch(other, "elementwise", {view(a), view(b)}, {view(y)}, {2, 2, 0, 1, 0, 0, 20, 2, 0, 0, 0, 3});
    return std::vector<F32>{y};
  });
}
