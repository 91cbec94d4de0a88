// A test harness small enough to read: TEST bodies run once per ISA level this machine has, each with 1 and 2 threads where asked.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "trefoil/backend.h"

extern "C" const TrefoilBackend* trefoil_cpu_backend(void);

namespace trefoil::test {

struct Failure {
  std::string message;
};

// The device under test of the current TEST run.
struct Device {
  const TrefoilBackend* backend;
  TrefoilDevice* handle;
  std::string isa;
  int threads;
};

// Kernels run on an emulated GPU, a few thousand times slower: tests of many draws make do with fewer.
bool emulated(const Device& device);

using Body = void (*)(Device&);
enum class When { ops, once, runtime };
struct Registration {
  Registration(const char* name, Body body, When when = When::ops);
};
#define TEST(name)                                                          \
  static void test_##name(::trefoil::test::Device& device);                 \
  static ::trefoil::test::Registration registration_##name(#name, test_##name); \
  static void test_##name([[maybe_unused]] ::trefoil::test::Device& device)

// A test that has nothing to do with kernels: runs once.
#define TEST_ONCE(name)                                                             \
  static void test_##name();                                                        \
  static ::trefoil::test::Registration registration_##name(                         \
      #name, [](::trefoil::test::Device&) { test_##name(); }, ::trefoil::test::When::once); \
  static void test_##name()

// A test of the runtime over library_under_test(): runs once, and once more with the library of another backend.
#define TEST_RUNTIME(name)                                                          \
  static void test_##name();                                                        \
  static ::trefoil::test::Registration registration_##name(                         \
      #name, [](::trefoil::test::Device&) { test_##name(); }, ::trefoil::test::When::runtime); \
  static void test_##name()

struct Library {
  std::string backend, path;
};
// The library of --backend, else the emulator's.
const Library& library_under_test();

// A Failure, unless only launches are looked at (--launches-only).
void wrong_result(const std::string& message);
void check(bool condition, const char* expression, const char* file, int line);
#define CHECK(condition) ::trefoil::test::check((condition), #condition, __FILE__, __LINE__)

// Host data with a shape; converts to the view that ops take.
template <class T>
struct Array {
  std::vector<int64_t> shape;
  std::vector<T> values;
  Array() = default;
  explicit Array(std::vector<int64_t> dims) : shape(std::move(dims)) {
    size_t count = 1;
    for (int64_t d : shape) count *= static_cast<size_t>(d);
    values.assign(count, T{});
  }
  Array(std::vector<int64_t> dims, std::vector<T> data) : shape(std::move(dims)), values(std::move(data)) {}
  T& operator[](size_t i) { return values[i]; }
  const T& operator[](size_t i) const { return values[i]; }
  size_t size() const { return values.size(); }
};
using F32 = Array<float>;
using I32 = Array<int32_t>;
using BF16 = Array<uint16_t>;
using U8 = Array<uint8_t>;

TrefoilView view(F32& array);
TrefoilView view(I32& array);
TrefoilView view(BF16& array);
TrefoilView view(U8& array);
TrefoilView absent();  // optional input not given, output not wanted

F32 normal(std::mt19937& generator, std::vector<int64_t> shape, float scale = 1.0f);

// Launches one op (with the workspace it asks for); a failing status becomes a Failure.
void launch(Device& device, const char* op, std::vector<TrefoilView> inputs, std::vector<TrefoilView> outputs,
            std::vector<double> attributes = {});
extern unsigned char scratch_byte;  // what an op finds in all of its workspace: 0xFF, unless a test says otherwise for a while
// For its life.
struct Leftovers {
  explicit Leftovers(unsigned char byte) { scratch_byte = byte; }
  ~Leftovers() { scratch_byte = 0xFF; }
  Leftovers(const Leftovers&) = delete;
};
// Launches an op that must fail; returns its status.
TrefoilStatus launch_error(Device& device, const char* op, std::vector<TrefoilView> inputs, std::vector<TrefoilView> outputs,
                           std::vector<double> attributes = {});

// A view of `shape` in storage that has 16 elements more, from its first whole cache line on.
template <class T>
TrefoilView aligned_view(Array<T>& storage, const std::vector<int64_t>& shape) {
  TrefoilView result = view(storage);
  while (reinterpret_cast<uintptr_t>(result.data) % 64 != 0) result.data = static_cast<T*>(result.data) + 1;
  result.rank = static_cast<int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), result.shape);
  return result;
}

// max |a - b| <= absolute + relative * max|b| ; names the first offender.
void check_close(const F32& actual, const std::vector<double>& expected, double relative, double absolute, const char* what);
// Runs body with devices of 1, 2 and 3 threads and checks that every f32 array it returns is bit-identical.
void check_thread_independent(Device& device, std::vector<F32> (*body)(Device&), const char* precision = "f32");

}  // namespace trefoil::test
