// The runtime over memory that is not the host's, with kernels: programs on the CUDA backend (emulated, or the library under test) against the
// CPU, recordings and their replay, errors of indices that come to light late, and the list of ops.
#include <dlfcn.h>

#include <set>

#include "runtime_bench.h"

using namespace trefoil::test::runtime_bench;
using trefoil::test::Failure;
using trefoil::test::wrong_result;

namespace {

std::shared_ptr<Device> open_cuda(const char* precision = "f32") {
  DeviceOptions options;
  options.backend = trefoil::test::library_under_test().backend;
  options.library = trefoil::test::library_under_test().path;
  options.precision = precision;
  return Device::open(options);
}

std::shared_ptr<Device> open_cpu() { return Device::open({}); }

// total += softmax(x + c) over rows of 5, then rows of it by index: outputs the sum and the rows.
struct Problem {
  std::vector<float> c = std::vector<float>(20, 0.25f);
  std::shared_ptr<Buffer> total;
  std::shared_ptr<Program> program;

  explicit Problem(Bench& bench) {
    total = bench.buffer(std::vector<float>(20));
    ProgramSpec spec;
    ValueSpec index = value({3}, ValueKind::input, 1);
    index.dtype = TREFOIL_I32;
    ValueSpec offset = constant(c);
    offset.shape = {4, 5};
    spec.values = {value({4, 5}, ValueKind::input, 0), offset, value({4, 5}), value({4, 5}), state({4, 5}, total), index, value({3, 5}), alias_of(4, {4, 5})};
    const std::vector<double> add = {1, 2, 0, 1, 0, 0, 2};
    spec.instructions = {{"elementwise", {0, 1}, {2}, add}, {"softmax", {2}, {3}, {}}, {"elementwise", {4, 3}, {7}, add}, {"gather_rows", {7, 5}, {6}, {}}};
    spec.outputs = {6};
    program = Program::create(bench.device, spec);
  }
  std::vector<float> run(Bench& bench, float x, const std::vector<int32_t>& index, uint32_t flags = 0) {
    std::vector<float> input(20);
    for (size_t i = 0; i < 20; ++i) input[i] = x * static_cast<float>(i % 7);
    std::vector<float> rows(3);
    std::memcpy(rows.data(), index.data(), 12);
    return bench.call(*program, {input, rows}, flags)[0];
  }
};

}  // namespace

TEST_RUNTIME(cuda_program_matches_cpu_and_is_recorded) {
  Bench cuda(open_cuda()), cpu(open_cpu());
  Problem there(cuda), here(cpu);
  for (int step = 0; step < 6; ++step) {
    const std::vector<int32_t> index = {step % 4, -1, 3};
    const std::vector<float> actual = there.run(cuda, 0.1f * static_cast<float>(step), index), expected = here.run(cpu, 0.1f * static_cast<float>(step), index);
    for (size_t i = 0; i < 15; ++i) CHECK(std::fabs(actual[i] - expected[i]) < 1e-6f);
    // The second run with the same addresses is recorded; later ones replay it.
    CHECK(there.program->graph_count() == (step < 1 ? 0u : 1u));
    CHECK(here.program->graph_count() == 0);
  }
  const std::vector<float> total = cuda.read(there.total), expected = cpu.read(here.total);
  for (size_t i = 0; i < 20; ++i) CHECK(std::fabs(total[i] - expected[i]) < 1e-5f);
  // Checked and profiled runs go instruction by instruction.
  there.run(cuda, 1, {0, 1, 2}, kCheckFinite + kProfile);
  CHECK(there.program->profile()[1] > 0);
}

// Runs in flight each have input memory of their own: as many recordings, and no more of them.
TEST_RUNTIME(cuda_recordings_follow_the_addresses) {
  Bench cuda(open_cuda());
  Problem problem(cuda);
  std::vector<float> input(20), index(3);
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 3; ++i) cuda.submit(*problem.program, {input, index});
    for (int i = 0; i < 3; ++i) {
      const std::vector<float> rows = cuda.collect()[0];
      for (float x : rows) CHECK(std::fabs(x - 0.2f * static_cast<float>(round * 3 + i + 1)) < 1e-4f);
    }
  }
  CHECK(problem.program->graph_count() >= 1 && problem.program->graph_count() <= 8);
  const size_t before = cuda.device->memory().live;
  problem.program.reset();
  problem.total.reset();
  CHECK(cuda.device->memory().live < before);
}

// On the emulator an upload happens when somebody waits for it: one that a run did not wait for, or a part of the staging that was filled
// again too early, shows as another run's numbers. 6 MiB set out before the run starts; 20 MiB are more than the staging holds.
TEST_RUNTIME(cuda_uploads_reach_the_run_they_are_for) {
  Bench cuda(open_cuda());
  for (const int64_t rows : {int64_t{3} << 19, int64_t{5} << 20}) {
    ProgramSpec spec;
    ValueSpec index = value({4}, ValueKind::input, 1);
    index.dtype = TREFOIL_I32;
    spec.values = {value({rows, 1}, ValueKind::input, 0), index, value({4, 1})};
    spec.instructions = {{"gather_rows", {0, 1}, {2}, {}}};
    spec.outputs = {2};
    const auto program = Program::create(cuda.device, spec);
    const int32_t part = 1 << 20;  // elements of 4 MiB
    const int32_t wanted[4] = {0, part - 1, part, static_cast<int32_t>(rows) - 1};
    std::vector<float> table(static_cast<size_t>(rows)), rows_of(4);
    std::memcpy(rows_of.data(), wanted, sizeof wanted);
    constexpr int kRuns = 5;
    for (int run = 0; run < kRuns; ++run) {
      for (size_t i = 0; i < 4; ++i) table[static_cast<size_t>(wanted[i])] = static_cast<float>(10 * run) + static_cast<float>(i);
      cuda.submit(*program, {table, rows_of});
    }
    for (int run = 0; run < kRuns; ++run) {
      const std::vector<float> found = cuda.collect()[0];
      for (size_t i = 0; i < 4; ++i) CHECK(found[i] == static_cast<float>(10 * run) + static_cast<float>(i));
    }
  }
}

// More small arrays in flight than the staging has places for, and one among them that is not small.
TEST_RUNTIME(cuda_uploads_many_small_arrays) {
  Bench cuda(open_cuda());
  constexpr int64_t kInputs = 12, kLarge = 20000;
  constexpr int kRuns = 8;
  ProgramSpec spec;
  std::vector<int64_t> operands;
  for (int64_t i = 0; i < kInputs; ++i) {
    spec.values.push_back(value({i == 5 ? kLarge : i + 1}, ValueKind::input, i));
    operands.push_back(i);
  }
  int64_t total = kLarge;
  for (int64_t i = 0; i < kInputs; ++i) total += i == 5 ? 0 : i + 1;
  spec.values.push_back(value({total}));
  spec.instructions = {{"concat", operands, {kInputs}, {0}}};
  spec.outputs = {kInputs};
  const auto program = Program::create(cuda.device, spec);
  const auto inputs_of = [&](int run) {
    std::vector<std::vector<float>> inputs;
    for (int64_t i = 0; i < kInputs; ++i) inputs.emplace_back(static_cast<size_t>(i == 5 ? kLarge : i + 1), static_cast<float>(100 * run + i));
    return inputs;
  };
  for (int run = 0; run < kRuns; ++run) cuda.submit(*program, inputs_of(run));
  for (int run = 0; run < kRuns; ++run) {
    std::vector<float> expected;
    for (const std::vector<float>& input : inputs_of(run)) expected.insert(expected.end(), input.begin(), input.end());
    CHECK(cuda.collect()[0] == expected);
  }
}

TEST_RUNTIME(cuda_index_errors_are_reported_once) {
  Bench cuda(open_cuda());
  Problem problem(cuda);
  for (int step = 0; step < 3; ++step) {  // launched, recorded, replayed
    try {
      problem.run(cuda, 1, {0, 4, 1});
      wrong_result("expected an error");
    } catch (const Error& error) {
      CHECK(error.code == TREFOIL_INDEX_OUT_OF_RANGE && std::strstr(error.what(), "gather_rows: index 4 at position 1"));
    }
    problem.run(cuda, 1, {0, 3, 1});
  }
}

TEST_RUNTIME(cuda_non_finite_outputs_are_found) {
  Bench cuda(open_cuda());
  Problem problem(cuda);
  try {
    problem.run(cuda, INFINITY, {0, 1, 2}, kCheckFinite);
    wrong_result("expected an error");
  } catch (const Error& error) {
    CHECK(error.code == TREFOIL_NON_FINITE && error.instruction == 0);
  }
}

TEST_RUNTIME(cuda_rejects_an_unknown_precision) {
  try {
    open_cuda("f64");
    throw Failure{"expected an error"};
  } catch (const Error& error) {
    CHECK(error.code == TREFOIL_INVALID_ARGUMENT && std::strstr(error.what(), "\"bf16\", \"bf16-products\" or \"f32\""));
  }
}

TEST_RUNTIME(cuda_has_every_op_of_the_cpu) {
  std::set<std::string> missing;
  for (const std::string& op : open_cpu()->ops()) missing.insert(op);
  for (const std::string& op : open_cuda()->ops()) missing.erase(op);
  std::string names;
  for (const std::string& op : missing) names += " " + op;
  if (!missing.empty()) throw Failure{"missing on CUDA:" + names};
}
