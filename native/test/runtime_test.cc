#include <fstream>
#include <optional>

#include "harness.h"
#include "runtime/file.h"
#include "runtime/finite.h"
#include "runtime/registry.h"
#include "runtime_bench.h"

using namespace trefoil::runtime;
using namespace trefoil::test::runtime_bench;
using trefoil::test::Failure;
using trefoil::test::open_toy_device;

namespace {

// The error that body throws; a Failure if it throws none.
template <class Body>
Error error_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error;
  }
  throw Failure{"expected an error"};
}
bool contains(const Error& error, const char* text) { return std::strstr(error.what(), text) != nullptr; }

// y = sum(scale(x, 2) + c) through values that alias one another.
ProgramSpec small_program(const std::vector<float>& c) {
  ProgramSpec spec;
  int64_t n = static_cast<int64_t>(c.size());
  spec.values = {value({n}, ValueKind::input, 0), constant(c), value({n}), value({n}), alias_of(3, {1, n}), value({})};
  spec.instructions = {{"scale", {0}, {2}, {2.0}}, {"add", {2, 1}, {3}, {}}, {"sum_via_workspace", {4}, {5}, {}}};
  spec.outputs = {5, 4};
  return spec;
}

}  // namespace

TEST_ONCE(program_runs_on_both_kinds_of_memory) {
  for (bool host_memory : {true, false}) {
    Bench bench(host_memory);
    size_t before = bench.device->memory().live;
    {
      auto program = Program::create(bench.device, small_program({1, 2, 3}));
      CHECK(program->info().workspace_bytes == 12);
      CHECK(program->info().temporary_bytes == 12 + 12 + 4);
      for (float x : {1.0f, 10.0f}) {
        auto outputs = bench.call(*program, {{x, x, x}});
        CHECK(outputs[0][0] == 6 * x + 6);
        CHECK((outputs[1] == std::vector<float>{2 * x + 1, 2 * x + 2, 2 * x + 3}));
      }
    }
    CHECK(bench.device->memory().live == before);
  }
}

TEST_ONCE(program_keeps_state_between_runs) {
  for (bool host_memory : {true, false}) {
    Bench bench(host_memory);
    auto total = bench.buffer({0, 0});
    ProgramSpec spec;
    spec.values = {value({2}, ValueKind::input, 0), state({2}, total), alias_of(1, {2})};
    spec.instructions = {{"accumulate_", {1, 0}, {2}, {}}};
    auto program = Program::create(bench.device, spec);
    for (int i = 0; i < 100; ++i) bench.submit(*program, {{1, static_cast<float>(i)}});  // many in flight at once
    for (int i = 0; i < 100; ++i) bench.collect();
    CHECK((bench.read(total) == std::vector<float>{100, 4950}));
  }
}

TEST_ONCE(program_reads_and_fills_buffers) {
  Bench bench(false);
  auto x = bench.buffer({1, 2}), y = bench.buffer({0, 0});
  ProgramSpec spec;
  spec.values = {value({2}, ValueKind::input, 0), value({2})};
  spec.instructions = {{"scale", {0}, {1}, {3.0}}};
  spec.outputs = {1, 0};
  auto program = Program::create(bench.device, spec);
  auto run = program->prepare(0, bench.inbox);
  run->input(x);
  run->output(y);
  run->output_to_host(8);
  run->seal();
  x.reset();  // the run keeps it
  bench.device->executor().submit(std::move(run));
  CHECK((bench.collect()[1] == std::vector<float>{1, 2}));
  CHECK((bench.read(y) == std::vector<float>{3, 6}));
}

TEST_ONCE(program_errors_do_not_poison_the_next_run) {
  Bench bench;
  ProgramSpec broken;
  broken.values = {value({4})};
  broken.instructions = {{"fail", {}, {0}, {}}};
  auto failing = Program::create(bench.device, broken);
  auto working = Program::create(bench.device, small_program({1}));
  bench.submit(*failing, {});
  bench.submit(*working, {{1}});
  Error error = error_of([&] { bench.collect(); });
  CHECK(error.code == TREFOIL_INDEX_OUT_OF_RANGE && error.op == "fail" && error.instruction == 0);
  CHECK(contains(error, "instruction 0 (fail): index 9 is outside [0, 4)"));
  CHECK(bench.collect()[0][0] == 3);
  error_of([&] { bench.call(*failing, {}); });
  CHECK(bench.call(*working, {{2}})[0][0] == 5);
}

TEST_ONCE(program_checks_that_outputs_are_finite) {
  for (bool host_memory : {true, false}) {
    Bench bench(host_memory);
    ProgramSpec spec;
    spec.values = {value({3}, ValueKind::input, 0), value({3}), value({3})};
    spec.instructions = {{"scale", {0}, {1}, {1.0}}, {"divide_by_zero", {1}, {2}, {}}};
    spec.outputs = {2};
    auto program = Program::create(bench.device, spec);
    CHECK(std::isinf(bench.call(*program, {{1, 2, 3}})[0][2]));
    Error error = error_of([&] { bench.call(*program, {{1, 2, 3}}, kCheckFinite); });
    CHECK(error.code == TREFOIL_NON_FINITE && error.op == "divide_by_zero" && error.instruction == 1);
    CHECK(contains(error, "output 0 is not finite at element 2 of 3"));
  }
}

TEST_ONCE(program_profile_counts_time) {
  Bench bench;
  ProgramSpec spec;
  spec.values = {value({1}), value({1})};
  spec.instructions = {{"nap", {}, {0}, {5.0}}, {"scale", {0}, {1}, {1.0}}};
  auto program = Program::create(bench.device, spec);
  bench.call(*program, {});
  CHECK(program->profile() == std::vector<int64_t>(2, 0));
  bench.call(*program, {}, kProfile);
  CHECK(program->profile()[0] >= 5'000'000);
  CHECK(program->profile()[1] < 5'000'000);
}

TEST_ONCE(program_rejects_what_makes_no_sense) {
  Bench bench;
  auto refused = [&](ProgramSpec spec, const char* reason, TrefoilCode code = TREFOIL_INVALID_ARGUMENT) {
    Error error = error_of([&] { Program::create(bench.device, spec); });
    if (error.code != code || !contains(error, reason)) throw Failure{std::string("got: ") + error.what() + "; expected: " + reason};
  };
  ProgramSpec good = small_program({1, 2});
  auto with = [&](auto&& change) {
    ProgramSpec spec = good;
    change(spec);
    return spec;
  };
  refused(with([](auto& s) { s.instructions[0].op = "levitate"; }), "backend \"toy\" has no op \"levitate\"", TREFOIL_UNSUPPORTED_OP);
  refused(with([](auto& s) { s.instructions[1].inputs[0] = 6; }), "instruction 1 (add) reads value 6");
  refused(with([](auto& s) { s.instructions[1].outputs[0] = -2; }), "instruction 1 (add) writes value -2");
  refused(with([](auto& s) { s.instructions[0].inputs[0] = 3; }), "reads value 3 before anything writes it");
  refused(with([](auto& s) { s.instructions[0].outputs[0] = 0; }), "writes value 0, an input");
  refused(with([](auto& s) { s.instructions[0].outputs[0] = 1; }), "writes value 1, a constant");
  refused(with([](auto& s) { s.outputs[0] = 17; }), "program output 17");
  refused(with([](auto& s) { s.values.push_back(value({1})); s.outputs[0] = 6; }), "program output 6 is never written");
  refused(with([](auto& s) { s.values[3].alias = 4; }), "aliases form a cycle");
  refused(with([](auto& s) { s.values[4].alias = 4; }), "aliases form a cycle");
  refused(with([](auto& s) { s.values[4].alias = 99; }), "alias 99 is not one of the 6 values");
  refused(with([](auto& s) { s.values[4].shape = {3}; }), "value 4 has 12 bytes and shares the storage of value 3, which has 8");
  refused(with([](auto& s) { s.values[2].dtype = 9; }), "9 is not a dtype");
  refused(with([](auto& s) { s.values[2].shape = {-1}; }), "dimension -1 is negative");
  refused(with([](auto& s) { s.values[2].shape = {1, 1, 1, 1, 1, 1, 2}; }), "rank 7");
  refused(with([](auto& s) { s.values[2].shape = {INT64_MAX, INT64_MAX}; }), "more bytes than any device");
  // 2^48 bytes are the most of a value; so many of them that offsets would wrap around.
  refused(with([](auto& s) {
    for (int64_t i = 0; i < (1 << 12) + 1; ++i) {
      s.values.push_back(value({int64_t{1} << 46}));
      s.instructions.push_back({"scale", {0}, {6 + i}, {1.0}});
      s.outputs.push_back(6 + i);
    }
  }), "the temporaries of this program have more bytes than any device");
  refused(with([](auto& s) { s.values[1].data_bytes = 4; }), "its shape has 8 bytes, its constant data 4");
  refused(with([](auto& s) { s.values[0].index = 1; }), "input index 1, but the program has 1 inputs");
  refused(with([](auto& s) { s.values.push_back(value({1}, ValueKind::input, 0)); }), "values 0 and 6 are both input 0");
  refused(with([](auto& s) { s.values.push_back(value({1}, ValueKind::state)); }), "a state value needs a buffer");
  Bench other(false);
  refused(with([&](auto& s) { s.values.push_back(state({1}, other.buffer({1}))); }), "its buffer is on another device");
  refused(with([&](auto& s) { s.values.push_back(state({2}, bench.buffer({1}))); }), "its shape has 8 bytes, its buffer 4");
}

TEST_ONCE(run_rejects_what_does_not_fit) {
  Bench bench;
  auto program = Program::create(bench.device, small_program({1, 2}));
  float data[4] = {};
  auto run = [&] { return program->prepare(0, bench.inbox); };
  CHECK(contains(error_of([&] { run()->input(data, 12); }), "input 0 has 8 bytes; 12 were given"));
  CHECK(contains(error_of([&] { run()->input(bench.buffer({1})); }), "input 0 has 8 bytes; its buffer has 4"));
  CHECK(contains(error_of([&] { run()->output_to_host(8); }), "output 0 has 4 bytes; 8 were given"));
  CHECK(contains(error_of([&] { run()->seal(); }), "the program has 1 inputs; 0 were given"));
  CHECK(contains(error_of([&] { auto r = run(); r->input(data, 8); r->input(data, 8); }), "more were given"));
  CHECK(contains(error_of([&] { auto r = run(); r->input(data, 8); r->seal(); }), "the program has 2 outputs; 0 were given"));
  CHECK(contains(error_of([&] { run()->input(Bench(false).buffer({1, 2})); }), "another device"));
}

TEST_ONCE(program_of_empty_tensors_runs) {
  Bench bench;
  ProgramSpec spec;
  spec.values = {value({0, 4}, ValueKind::input, 0), value({0, 4})};
  spec.instructions = {{"scale", {0}, {1}, {1.0}}};
  spec.outputs = {1};
  auto program = Program::create(bench.device, spec);
  CHECK(bench.call(*program, {{}})[0].empty());
}

// Programs against an interpreter that gives every value memory of its own: whatever the planner overlaps wrongly shows.
TEST_ONCE(program_random_against_interpreter) {
  std::mt19937 random(11);
  Bench bench;
  for (int round = 0; round < 60; ++round) {
    constexpr int64_t n = 40;
    auto buffer = bench.buffer(std::vector<float>(n, 0.0f));
    std::vector<float> c(n, 0.5f);
    ProgramSpec spec;
    spec.values = {value({n}, ValueKind::input, 0), constant(c), state({n}, buffer)};
    std::vector<std::vector<float>> reference{std::vector<float>(n), c, std::vector<float>(n, 0.0f)};
    for (int64_t i = 0; i < n; ++i) reference[0][static_cast<size_t>(i)] = static_cast<float>(random() % 100) / 64;
    std::vector<size_t> storage{0, 1, 2};  // of each value
    std::vector<float> input = reference[0];
    auto pick = [&] { return static_cast<int64_t>(random() % storage.size()); };
    for (int step = 0; step < 30; ++step) {
      int64_t a = pick(), b = pick(), result = static_cast<int64_t>(storage.size());
      if (random() % 4 == 0 && storage[static_cast<size_t>(a)] > 1) {
        if (storage[static_cast<size_t>(a)] == storage[static_cast<size_t>(b)]) continue;
        spec.values.push_back(alias_of(a, {n / 4, 4}));
        spec.instructions.push_back({"accumulate_", {a, b}, {result}, {}});
        storage.push_back(storage[static_cast<size_t>(a)]);
        for (size_t i = 0; i < n; ++i) reference[storage.back()][i] += reference[storage[static_cast<size_t>(b)]][i];
      } else {
        spec.values.push_back(value({n}));
        spec.instructions.push_back({"add", {a, b}, {result}, {}});
        spec.instructions.push_back({"scale", {result}, {result}, {0.5}});  // in place: an op that reads and writes one value
        storage.push_back(reference.size());
        reference.emplace_back(n);
        for (size_t i = 0; i < n; ++i)
          reference.back()[i] = (reference[storage[static_cast<size_t>(a)]][i] + reference[storage[static_cast<size_t>(b)]][i]) * 0.5f;
      }
    }
    for (int i = 0; i < 3; ++i) spec.outputs.push_back(pick());
    auto program = Program::create(bench.device, spec);
    CHECK(program->info().arena_bytes <= program->info().temporary_bytes + 64 * storage.size());
    auto outputs = bench.call(*program, {input});
    for (size_t i = 0; i < 3; ++i) CHECK(outputs[i] == reference[storage[static_cast<size_t>(spec.outputs[i])]]);
    CHECK(bench.read(buffer) == reference[2]);
  }
}

TEST_ONCE(memory_is_flat_over_runs_and_gone_after) {
  for (bool host_memory : {true, false}) {
    Bench bench(host_memory);
    size_t start = bench.device->memory().live;
    std::vector<float> large(1 << 16, 1.0f);
    {
      auto program = Program::create(bench.device, small_program(large));
      bench.call(*program, {large});
      size_t first = bench.device->memory().live;
      bench.device->reset_peak();
      for (int i = 0; i < 50; ++i) bench.call(*program, {large});
      CHECK(bench.device->memory().live == first);
      CHECK(bench.device->memory().peak == first);
      for (int i = 0; i < 20; ++i) bench.submit(*program, {large});
      for (int i = 0; i < 20; ++i) bench.collect();
      size_t per_run = large.size() * 4 * 2 + 192;  // input, output, alignment
      CHECK(bench.device->memory().live <= first + 4 * per_run * (host_memory ? 1 : 2));
    }
    CHECK(bench.device->memory().live == start);
  }
}

// More runs than a program keeps for later: the last of them is what still holds the device.
TEST_ONCE(runs_that_end_after_program_and_device_give_their_memory_back_first) {
  for (bool host_memory : {true, false}) {
    const int64_t left = trefoil::test::toy_blocks_left();
    std::weak_ptr<Device> watch;
    {
      Bench bench(host_memory);
      watch = bench.device;
      std::vector<float> data(1 << 10, 1.0f);
      auto program = Program::create(bench.device, small_program(data));
      for (int i = 0; i < 8; ++i) bench.submit(*program, {data});
      program.reset();
      bench.device.reset();
      for (int i = 0; i < 8; ++i) bench.collect();
      CHECK(watch.expired());
    }
    CHECK(trefoil::test::toy_blocks_left() == left);
  }
}

TEST_ONCE(programs_share_one_arena) {
  Bench bench;
  std::vector<float> large(1 << 12, 1.0f), small(16, 1.0f);
  auto arena_of = [&](auto& program) { return program->info().arena_bytes; };
  auto one = Program::create(bench.device, small_program(small));
  auto two = Program::create(bench.device, small_program(large));
  size_t before = bench.device->memory().live;
  for (int round = 0; round < 3; ++round) {  // a grown arena moves: the views of both must follow
    CHECK(bench.call(*one, {small})[0][0] == 48);
    CHECK(bench.call(*two, {large})[0][0] == 3 * (1 << 12));
  }
  size_t staging = 16 * 8 + 192 + (1 << 12) * 8 + 192;
  CHECK(bench.device->memory().live <= before + arena_of(two) + staging);
  two.reset();
  CHECK(bench.call(*one, {small})[0][0] == 48);  // back to a smaller arena
  CHECK(bench.device->memory().live < before);
}

TEST_ONCE(writes_take_their_turn) {
  Bench bench;
  auto total = bench.buffer({5});
  ProgramSpec spec;
  spec.values = {state({1}, total), value({1}), value({1})};
  spec.instructions = {{"nap", {}, {1}, {20.0}}, {"scale", {0}, {2}, {1.0}}};
  spec.outputs = {2};
  auto program = Program::create(bench.device, spec);
  bench.submit(*program, {});
  CHECK(bench.write(total, {9}));  // the run is under way: the write is queued
  CHECK(bench.collect()[0][0] == 5);
  bench.inbox->wait();
  CHECK(bench.read(total)[0] == 9);
  CHECK(!bench.write(total, {0}));  // idle: written at once
  CHECK(bench.read(total)[0] == 0);
  CHECK(contains(error_of([&] { bench.write(total, {1, 2}); }), "the buffer has 4 bytes, the array 8"));
}

TEST_ONCE(cancelled_runs_stop_between_instructions) {
  Bench bench;
  ProgramSpec spec;
  spec.values = {value({1})};
  for (int i = 0; i < 100; ++i) spec.instructions.push_back({"nap", {}, {0}, {10.0}});
  auto program = Program::create(bench.device, spec);
  auto start = std::chrono::steady_clock::now();
  bench.submit(*program, {});
  bench.submit(*program, {});
  std::this_thread::sleep_for(std::chrono::milliseconds(15));
  bench.inbox->cancelled = true;
  error_of([&] { bench.collect(); });
  bench.collect();  // never started
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::milliseconds(500));
}

TEST_ONCE(device_goes_with_its_last_owner_even_on_its_own_thread) {
  std::shared_ptr<Device> device = open_toy_device(true);
  std::weak_ptr<Device> watch = device;
  CHECK(open_toy_device(true) == device);  // one per process
  struct Last : Job {
    std::shared_ptr<Device> device;
    explicit Last(std::shared_ptr<Device> device) : Job(nullptr), device(std::move(device)) {}
    void execute() override { std::this_thread::sleep_for(std::chrono::milliseconds(10)); }
  };
  device->executor().submit(std::make_unique<Last>(device));
  device.reset();  // while the job naps: it now holds the last reference
  for (int i = 0; i < 1000 && !watch.expired(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(watch.expired());
}

TEST_ONCE(devices_that_cannot_be_opened_say_why) {
  DeviceOptions options;
  auto refused = [&](TrefoilCode code, const char* reason) {
    Error error = error_of([&] { Device::open(options); });
    if (error.code != code || !contains(error, reason)) throw Failure{std::string("got: ") + error.what()};
  };
  options.backend = "warp";
  refused(TREFOIL_DEVICE_UNAVAILABLE, "give the absolute path of libtrefoil_warp.so");
  options.library = "libtrefoil_warp.so";
  refused(TREFOIL_INVALID_ARGUMENT, "must be an absolute path");
  options.library = "/nowhere/libtrefoil_warp.so";
  refused(TREFOIL_DEVICE_UNAVAILABLE, "cannot open backend \"warp\" at /nowhere/libtrefoil_warp.so");
  options.library = TREFOIL_TEST_STRANGER;
  refused(TREFOIL_DEVICE_UNAVAILABLE, "does not export trefoil_backend");
  options.library = TREFOIL_TEST_OLD_BACKEND;
  refused(TREFOIL_DEVICE_UNAVAILABLE, "its ABI version is 999, this build needs 3");
  options = {};
  options.index = 3;
  refused(TREFOIL_INVALID_ARGUMENT, "device index 3");
  options = {};
  options.isa = "abacus";
  refused(TREFOIL_INVALID_ARGUMENT, "unknown instruction set \"abacus\"");
  options = {};
  options.threads = -2;
  refused(TREFOIL_INVALID_ARGUMENT, "threads is -2");
}

TEST_ONCE(cpu_memory_is_zeroed_and_aligned) {
  auto device = Device::open({});
  for (size_t bytes : {0u, 1u, 100u, 4096u, 1u << 20, (5u << 20) + 3}) {
    for (int round = 0; round < 2; ++round) {  // the second may get the memory of the first
      Block block(*device, bytes);
      CHECK(reinterpret_cast<uintptr_t>(block.data()) % 64 == 0);
      for (size_t i = 0; i < bytes; ++i) CHECK(block.data()[i] == std::byte{0});
      std::memset(block.data(), 0xAB, bytes);
    }
  }
  CHECK(device->memory().live == 0);
  CHECK(device->memory().peak == (5u << 20) + 3);
  CHECK(error_of([&] { Block(*device, size_t{1} << 60); }).code == TREFOIL_OUT_OF_MEMORY);
}

TEST_ONCE(finite_scan_finds_the_first) {
  for (size_t count : {1u, 7u, 1024u, 3000u})
    for (size_t position : {size_t{0}, count / 2, count - 1}) {
      std::vector<float> f32(count, -3e38f);
      CHECK(first_non_finite(f32.data(), count, TREFOIL_F32) == count);
      f32[position] = position % 2 ? NAN : -INFINITY;
      f32[count - 1] = NAN;
      CHECK(first_non_finite(f32.data(), count, TREFOIL_F32) == position);
      std::vector<uint16_t> bf16(count, 0xff7f);
      CHECK(first_non_finite(bf16.data(), count, TREFOIL_BF16) == count);
      bf16[position] = 0x7fc0;
      CHECK(first_non_finite(bf16.data(), count, TREFOIL_BF16) == position);
    }
}

TEST_ONCE(file_reads_are_checked) {
  std::string path = std::string(TREFOIL_TEST_FOLDER) + "/file_reads_are_checked.bin";
  std::ofstream(path) << "0123456789";
  File file(path);
  CHECK(file.bytes() == 10);
  char text[4] = {};
  file.read(7, text, 3);
  CHECK(std::string(text) == "789");
  file.read(10, text, 0);
  CHECK(contains(error_of([&] { file.read(8, text, 3); }), "bytes 8 to 11 are outside the file of 10 bytes"));
  CHECK(contains(error_of([&] { file.read(UINT64_MAX, text, 3); }), "outside the file"));
  std::ofstream(path) << "012";  // truncated behind our back
  CHECK(contains(error_of([&] { file.read(1, text, 3); }), "ends at byte 3; it had 10 when it was opened"));
  CHECK(contains(error_of([&] { File("/nowhere/at/all"); }), "cannot open /nowhere/at/all: No such file"));
  CHECK(contains(error_of([&] { File folder(TREFOIL_TEST_FOLDER); }), "not a regular file"));
}
// Kernels look at indices before they use them: nothing that an instruction writes may be their storage, by whatever value it is named.
TEST_ONCE(program_refuses_results_over_indices) {
  Bench bench(Device::open({}));
  auto words = bench.buffer(std::vector<float>(4));
  auto indices = [](ValueSpec spec) {
    spec.dtype = TREFOIL_I32;
    return spec;
  };
  const auto create = [&](std::vector<ValueSpec> values, InstructionSpec instruction) {
    ProgramSpec spec;
    spec.values = std::move(values);
    spec.instructions = {std::move(instruction)};
    return error_of([&] { Program::create(bench.device, spec); });
  };
  const auto refused = [&](std::vector<ValueSpec> values, InstructionSpec instruction) {
    return contains(create(std::move(values), std::move(instruction)), "which would overwrite the indices that were checked");
  };
  const ValueSpec table = value({9, 1}, ValueKind::input, 0);
  CHECK(refused({table, indices(state({4}, words)), state({4, 1}, words)}, {"gather_rows", {0, 1}, {2}, {}}));
  CHECK(refused({table, indices(state({4}, words)), alias_of(1, {4, 1})}, {"gather_rows", {0, 1}, {2}, {}}));
  // Written in place: the cache, whether or not it is named as a result.
  const ValueSpec rows = value({4, 1}, ValueKind::input, 0);
  for (std::vector<int64_t> results : {std::vector<int64_t>{0}, {-1}})
    CHECK(refused({state({4, 1}, words), rows, indices(state({4}, words))}, {"update_rows_", {0, 1, 2}, results, {}}));
}
