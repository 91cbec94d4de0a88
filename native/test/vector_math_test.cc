// Sweeps of the vector functions against libm in double precision: every ISA, the error bounds that vector_math.h states.
#include "vector_math_probe.h"

#include <cstring>
#include <limits>

#include "harness.h"

namespace trefoil::cpu {
#define TREFOIL_DECLARE_PROBES(isa) \
  namespace isa {                   \
  extern const VectorProbe vector_probes[]; \
  }
TREFOIL_DECLARE_PROBES(scalar)
#if defined(TREFOIL_HAVE_AVX2)
TREFOIL_DECLARE_PROBES(avx2)
#endif
#if defined(TREFOIL_HAVE_AVX512)
TREFOIL_DECLARE_PROBES(avx512)
#endif
#if defined(TREFOIL_HAVE_NEON)
TREFOIL_DECLARE_PROBES(neon)
#endif
}  // namespace trefoil::cpu

using namespace trefoil::test;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kDenormal = 1e-40f;

std::vector<float> apply(const Device& device, const char* name, std::vector<float> x) {
  const trefoil::cpu::VectorProbe* probe = trefoil::cpu::scalar::vector_probes;
#if defined(TREFOIL_HAVE_AVX2)
  if (device.isa == "avx2") probe = trefoil::cpu::avx2::vector_probes;
#endif
#if defined(TREFOIL_HAVE_AVX512)
  if (device.isa == "avx512") probe = trefoil::cpu::avx512::vector_probes;
#endif
#if defined(TREFOIL_HAVE_NEON)
  if (device.isa == "neon") probe = trefoil::cpu::neon::vector_probes;
#endif
  while (std::strcmp(probe->name, name) != 0) ++probe;
  size_t count = x.size();
  x.resize((count + 15) / 16 * 16, 1.0f);
  std::vector<float> y(x.size());
  probe->apply(x.data(), y.data(), static_cast<int64_t>(x.size()));
  y.resize(count);
  return y;
}

float apply(const Device& device, const char* name, float x) { return apply(device, name, std::vector<float>{x})[0]; }

// Evenly spaced points, both ends included.
std::vector<float> sweep(float low, float high) {
  std::vector<float> x;
  constexpr int points = 200000;
  for (int i = 0; i <= points; ++i) x.push_back(static_cast<float>(low + (static_cast<double>(high) - low) * i / points));
  return x;
}

// Magnitudes spread evenly over the exponents in [low, high), both signs.
std::vector<float> logarithmic_sweep(int low, int high, bool negative) {
  std::mt19937 generator(7);
  std::uniform_real_distribution<double> exponent(low, high);
  std::vector<float> x;
  for (int i = 0; i < 200000; ++i) {
    float value = static_cast<float>(std::exp2(exponent(generator)));
    x.push_back(negative && i % 2 ? -value : value);
  }
  return x;
}

double ulp(double value) {
  double size = std::max(std::fabs(value), static_cast<double>(std::numeric_limits<float>::min()));
  return std::exp2(std::floor(std::log2(size)) - 23);
}

void check_ulps(const Device& device, const char* name, const std::vector<float>& x, double (*exact)(double), double bound,
                double floor = 0, double absolute = 0) {
  std::vector<float> y = apply(device, name, x);
  for (size_t i = 0; i < x.size(); ++i) {
    double expected = exact(x[i]), error = std::fabs(y[i] - expected);
    bool close = std::fabs(expected) < floor ? error <= absolute : error <= bound * ulp(expected);
    if (close) continue;
    char text[160];
    std::snprintf(text, sizeof text, "%s(%.9g) is %.9g, expected %.9g: %.3g ulp off", name, x[i], y[i], expected, error / ulp(expected));
    throw Failure{text};
  }
}

double exact_exp(double x) { return std::exp(x); }
double exact_exp2(double x) { return std::exp2(x); }
double exact_log(double x) { return std::log(x); }
double exact_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double exact_tanh(double x) { return std::tanh(x); }
double exact_erf(double x) { return std::erf(x); }
double exact_sin(double x) { return std::sin(x); }
double exact_cos(double x) { return std::cos(x); }

}  // namespace

TEST(vector_exp) {
  check_ulps(device, "exp", sweep(-87.3365f, 88.7228f), exact_exp, 2);
  check_ulps(device, "exp", logarithmic_sweep(-40, 6, true), exact_exp, 2);
  CHECK(apply(device, "exp", 0.0f) == 1.0f);
  CHECK(apply(device, "exp", -88.0f) == 0.0f);
  CHECK(apply(device, "exp", -1e30f) == 0.0f);
  CHECK(apply(device, "exp", 88.8f) == kInfinity);
  CHECK(apply(device, "exp", 1e30f) == kInfinity);
  CHECK(apply(device, "exp", -kInfinity) == 0.0f);
  CHECK(apply(device, "exp", kInfinity) == kInfinity);
  CHECK(apply(device, "exp", kDenormal) == 1.0f);
  CHECK(std::isnan(apply(device, "exp", kNaN)));
}

TEST(vector_exp2) {
  check_ulps(device, "exp2", sweep(-126.0f, 127.9999f), exact_exp2, 2);
  check_ulps(device, "exp2", logarithmic_sweep(-40, 6, true), exact_exp2, 2);
  for (int n = -126; n < 128; ++n) CHECK(apply(device, "exp2", static_cast<float>(n)) == std::ldexp(1.0f, n));
  CHECK(apply(device, "exp2", -126.5f) == 0.0f);
  CHECK(apply(device, "exp2", -1e30f) == 0.0f);
  CHECK(apply(device, "exp2", 128.0f) == kInfinity);
  CHECK(apply(device, "exp2", -kInfinity) == 0.0f);
  CHECK(apply(device, "exp2", kInfinity) == kInfinity);
  CHECK(std::isnan(apply(device, "exp2", kNaN)));
}

TEST(vector_log) {
  check_ulps(device, "log", logarithmic_sweep(-126, 127, false), exact_log, 2);
  check_ulps(device, "log", logarithmic_sweep(-148, -126, false), exact_log, 2);
  check_ulps(device, "log", sweep(0.5f, 2.0f), exact_log, 2);
  CHECK(apply(device, "log", 1.0f) == 0.0f);
  CHECK(apply(device, "log", 0.0f) == -kInfinity);
  CHECK(apply(device, "log", -0.0f) == -kInfinity);
  CHECK(apply(device, "log", kInfinity) == kInfinity);
  CHECK(std::isnan(apply(device, "log", -1.0f)));
  CHECK(std::isnan(apply(device, "log", -kInfinity)));
  CHECK(std::isnan(apply(device, "log", kNaN)));
}

TEST(vector_sigmoid) {
  check_ulps(device, "sigmoid", sweep(-87.0f, 87.0f), exact_sigmoid, 4);
  CHECK(apply(device, "sigmoid", 0.0f) == 0.5f);
  CHECK(apply(device, "sigmoid", -kInfinity) == 0.0f);
  CHECK(apply(device, "sigmoid", kInfinity) == 1.0f);
  CHECK(std::isnan(apply(device, "sigmoid", kNaN)));
}

TEST(vector_tanh) {
  check_ulps(device, "tanh", sweep(-10.0f, 10.0f), exact_tanh, 2);
  check_ulps(device, "tanh", logarithmic_sweep(-100, 8, true), exact_tanh, 2);
  CHECK(apply(device, "tanh", 0.0f) == 0.0f);
  CHECK(apply(device, "tanh", kInfinity) == 1.0f);
  CHECK(apply(device, "tanh", -kInfinity) == -1.0f);
  CHECK(apply(device, "tanh", 1e30f) == 1.0f);
  CHECK(std::isnan(apply(device, "tanh", kNaN)));
}

TEST(vector_erf) {
  check_ulps(device, "erf", sweep(-6.0f, 6.0f), exact_erf, 2);
  check_ulps(device, "erf", logarithmic_sweep(-100, 8, true), exact_erf, 2);
  CHECK(apply(device, "erf", 0.0f) == 0.0f);
  CHECK(apply(device, "erf", kInfinity) == 1.0f);
  CHECK(apply(device, "erf", -kInfinity) == -1.0f);
  CHECK(std::isnan(apply(device, "erf", kNaN)));
}

TEST(vector_sin_and_cos) {
  constexpr double floor = 0x1p-10, absolute = 0x1p-33;
  for (float limit : {4.0f, 100.0f, 8192.0f, 1e6f}) {
    check_ulps(device, "sin", sweep(-limit, limit), exact_sin, 3, floor, absolute);
    check_ulps(device, "cos", sweep(-limit, limit), exact_cos, 3, floor, absolute);
  }
  check_ulps(device, "sin", logarithmic_sweep(-100, 100, true), exact_sin, 3, floor, absolute);
  check_ulps(device, "cos", logarithmic_sweep(-100, 100, true), exact_cos, 3, floor, absolute);
  // Floats next to multiples of pi/2, where the reduction cancels most.
  std::vector<float> near;
  for (int n = 1; n <= 5215; ++n) near.push_back(static_cast<float>(n * 1.57079632679489662));
  check_ulps(device, "sin", near, exact_sin, 3, floor, absolute);
  check_ulps(device, "cos", near, exact_cos, 3, floor, absolute);
  CHECK(apply(device, "sin", 0.0f) == 0.0f);
  CHECK(apply(device, "cos", 0.0f) == 1.0f);
  for (const char* name : {"sin", "cos"}) {
    CHECK(std::isnan(apply(device, name, kInfinity)));
    CHECK(std::isnan(apply(device, name, kNaN)));
  }
}
