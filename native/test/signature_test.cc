// Programs whose instructions do not fit their ops are refused before a kernel sees them. That what the kernels take is not refused,
// every launch of every other test checks.
#include <cstring>
#include <initializer_list>

#include "harness.h"
#include "runtime/signature.h"

namespace {

using namespace trefoil::test;
using trefoil::runtime::misfit;

struct Operand {
  TrefoilDtype dtype;
  std::vector<int64_t> shape;
};
using Operands = std::vector<Operand>;
const Operand kAbsent{TREFOIL_U8, {-1}};

std::vector<TrefoilView> views(const Operands& operands) {
  static char somewhere;
  std::vector<TrefoilView> result;
  for (const Operand& operand : operands) {
    TrefoilView view{};
    if (operand.shape != kAbsent.shape) {
      view.data = &somewhere;
      view.dtype = operand.dtype;
      view.rank = static_cast<int32_t>(operand.shape.size());
      std::copy(operand.shape.begin(), operand.shape.end(), view.shape);
    }
    result.push_back(view);
  }
  return result;
}

std::string why(const char* op, const Operands& in, const Operands& out, const std::vector<double>& attributes, bool stores_bf16 = false) {
  std::vector<TrefoilView> inputs = views(in), outputs = views(out);
  TrefoilLaunch launch{};
  launch.inputs = inputs.data();
  launch.input_count = static_cast<int32_t>(inputs.size());
  launch.outputs = outputs.data();
  launch.output_count = static_cast<int32_t>(outputs.size());
  launch.attributes = attributes.data();
  launch.attribute_count = static_cast<int32_t>(attributes.size());
  return misfit(op, launch, stores_bf16);
}

void expect(const std::string& actual, const char* part) {
  if (actual.find(part) == std::string::npos || (*part == 0 && !actual.empty())) throw Failure{"got \"" + actual + "\", expected \"" + part + "\""};
}

Operand f32(std::vector<int64_t> shape) { return {TREFOIL_F32, std::move(shape)}; }
Operand i32(std::vector<int64_t> shape) { return {TREFOIL_I32, std::move(shape)}; }
Operand bf16(std::vector<int64_t> shape) { return {TREFOIL_BF16, std::move(shape)}; }

}  // namespace

TEST_ONCE(signatures_cover_every_op) {
  const TrefoilBackend* backend = trefoil_cpu_backend();
  const Operands strange(9, Operand{TREFOIL_U8, {3}});
  for (int32_t op = 0; const char* name = backend->op_name(op); ++op) {
    if (why(name, strange, strange, {}).empty()) throw Failure{std::string("nothing is known of ") + name};
    if (why(name, {}, {}, std::vector<double>(40, -1.0)).empty() && std::strcmp(name, "elementwise") != 0) throw Failure{std::string("no operands will do for ") + name};
  }
  expect(why("levitate", {}, {}, {}), "");  // the backend has the word
}

TEST_ONCE(signatures_say_what_does_not_fit) {
  const Operands x = {f32({2, 3, 8}), f32({8})}, y = {f32({2, 3, 8}), f32({2, 3})};
  expect(why("rms_norm", x, y, {1e-5}), "");
  expect(why("rms_norm", x, {f32({6, 8}), kAbsent}, {1e-5}), "");
  expect(why("rms_norm", {f32({2, 3, 8}), f32({7})}, y, {1e-5}), "weight is f32 [7], not f32 of D elements with D = 8");
  expect(why("rms_norm", {f32({}), f32({8})}, y, {1e-5}), "x is f32 [], not f32 [R.. D]");
  expect(why("rms_norm", {bf16({2, 3, 8}), f32({8})}, y, {1e-5}), "x is bf16 [2, 3, 8], not f32");
  expect(why("rms_norm", {bf16({2, 3, 8}), f32({8})}, y, {1e-5}, true), "");
  expect(why("rms_norm", {kAbsent, f32({8})}, y, {1e-5}), "x is missing");
  expect(why("rms_norm", {f32({8})}, y, {1e-5}), "it has 1 inputs, not 2");
  expect(why("rms_norm", x, y, {}), "it has 0 attributes, not 1");
  expect(why("rope", {f32({1, 2, 1, 6}), f32({9, 3}), f32({9, 4}), i32({1, 2})}, {f32({1, 2, 1, 6})}, {0, 0}), "sin is f32 [9, 4]");
  expect(why("swiglu", {f32({4, 7})}, {f32({4, 3})}, {}), "x is f32 [4, 7]");
  expect(why("moe_sort", {i32({4, 2})}, {i32({8}), i32({8}), i32({0}), i32({8})}, {}), "offsets is i32 [0]");
  expect(why("attention", {f32({1, 2, 4, 8}), f32({1, 5, 3, 8}), f32({1, 5, 3, 8}), kAbsent, kAbsent}, {f32({1, 2, 4, 8}), kAbsent}, {0, 1}),
         "4 heads of queries cannot share 3 of keys");
}

TEST_ONCE(signatures_look_at_attributes_that_lead_to_addresses) {
  const Operands x = {f32({2, 5, 6}), f32({6}), f32({6})}, y = {f32({2, 5, 6}), kAbsent, kAbsent};
  expect(why("group_norm", x, y, {3, 1e-5}), "");
  for (double groups : {0.0, 4.0, 1.5, -1.0, 1e300, std::nan("")})
    if (why("group_norm", x, y, {groups, 1e-5}).empty()) throw Failure{"group_norm takes " + std::to_string(groups) + " groups"};
  expect(why("transpose", {f32({2, 3})}, {f32({3, 2})}, {1, 0}), "");
  expect(why("transpose", {f32({2, 2})}, {f32({2, 2})}, {0, 0}), "no such permutation");
  const Operands image = {f32({1, 4, 4, 2}), f32({3, 3, 3, 2}), kAbsent}, result = {f32({1, 4, 4, 3})};
  expect(why("conv2d", image, result, {1, 1}), "");
  expect(why("conv2d", image, result, {0, 1}), "stride 0");
  for (std::vector<double> wide : {std::vector<double>{1 << 30, 1}, {1 << 29, 1}, {1, 2e9}})
    expect(why("conv2d", image, result, wide), "out of range for these shapes");
  expect(why("concat", {f32({2, 3}), f32({2, 4})}, {f32({2, 7})}, {1}), "");
  expect(why("concat", {f32({2, 3}), f32({2, 4})}, {f32({2, 8})}, {1}), "the inputs have 7 elements along axis 1, the result is f32 [2, 8]");
  expect(why("concat", {f32({2, 3})}, {f32({2, 3})}, {2}), "axis 2");
  expect(why("reduce", {f32({4, 4})}, {f32({4})}, {0, 4, 4, 1}), "");
  expect(why("reduce", {f32({4, 4})}, {f32({4})}, {0, 4294967296, 4294967296, 1}), "x is f32 [4, 4]");
  expect(why("matmul", {f32({3, 4}), f32({4, 5})}, {f32({3, 5}), kAbsent}, {0, 0, 1, 0}), "");
  expect(why("matmul", {f32({3, 4}), f32({4, 5})}, {f32({3, 5}), kAbsent}, {0, 1, 1, 0}), "a has k = 4 and b has k = 5");
  expect(why("matmul", {f32({3, 4}), f32({4, 5})}, {f32({3, 5}), kAbsent}, {0, 0, 1, 7}), "there is no activation");
}
