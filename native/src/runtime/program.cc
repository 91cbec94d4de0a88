#include "runtime/program.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "runtime/planner.h"
#include "runtime/run.h"
#include "runtime/signature.h"

namespace trefoil::runtime {

namespace {

// Idle runs that keep their staging memory: as many as are commonly in flight.
constexpr size_t kIdleRuns = 4;

// Of all temporaries and workspaces, as if none shared memory. Their offsets are sums, which then cannot overflow.
constexpr size_t kMostPlannedBytes = size_t{1} << 60;

// Stands for "present" while workspaces are measured, before there is memory.
void* const kPresent = reinterpret_cast<void*>(uintptr_t{kAlignment});

// Kernels check indices first and read them again later. The value of one that a result, or what is written in place, would replace meanwhile;
// -1: none.
int64_t overwritten_index(const InstructionSpec& instruction, const ProgramSpec& spec, const Resolved& resolved) {
  if (instruction.op == "elementwise" || instruction.op == "copy" || instruction.op == "random_advance_") return -1;
  const auto root = [&](int64_t value) { return resolved.values[static_cast<size_t>(value)].root; };
  // Several values may stand for one buffer.
  const auto share = [&](int64_t a, int64_t b) {
    const ValueSpec &one = spec.values[static_cast<size_t>(root(a))], &other = spec.values[static_cast<size_t>(root(b))];
    return root(a) == root(b) || (one.kind == ValueKind::state && other.kind == ValueKind::state && one.buffer == other.buffer);
  };
  for (int64_t input : instruction.inputs) {
    if (input == -1 || spec.values[static_cast<size_t>(input)].dtype != TREFOIL_I32) continue;
    for (int64_t output : instruction.outputs)
      if (output != -1 && share(output, input)) return input;
    if (!instruction.op.ends_with('_')) continue;
    for (int64_t other : instruction.inputs)
      if (other != -1 && other != input && spec.values[static_cast<size_t>(other)].dtype != TREFOIL_I32 && share(other, input)) return input;
  }
  return -1;
}

}  // namespace

std::shared_ptr<Program> Program::create(std::shared_ptr<Device> device, const ProgramSpec& spec) {
  std::shared_ptr<Program> program(new Program(std::move(device)));
  program->build(spec);
  return program;
}

Program::Program(std::shared_ptr<Device> device) : device_(std::move(device)) {
  const TrefoilBackend& backend = device_->backend();
  recordable_ = backend.capture_begin && backend.capture_end && backend.replay && backend.release_graph;
}

Program::~Program() {
  for (const Graph& graph : graphs_)
    if (graph.recorded) device_->backend().release_graph(device_->handle(), graph.recorded);
  idle_runs_.clear();
  if (has_run_) device_->release_arena(arena_request());
}

void Program::build(const ProgramSpec& spec) {
  Resolved resolved = resolve(spec, *device_);
  for (const ValueSpec& value : spec.values)
    if (value.kind == ValueKind::state && value.alias == -1) states_.push_back(value.buffer);
  input_views_.resize(resolved.inputs.size());
  input_pointers_.assign(resolved.inputs.size(), nullptr);
  for (int32_t number : resolved.inputs) input_bytes_.push_back(resolved.values[static_cast<size_t>(number)].bytes);

  size_t view_count = 0, attribute_count = 0;
  for (const InstructionSpec& instruction : spec.instructions) {
    view_count += instruction.inputs.size() + instruction.outputs.size();
    attribute_count += instruction.attributes.size();
  }
  views_.reserve(view_count);  // launches keep pointers into both
  attributes_.reserve(attribute_count);
  instructions_.reserve(spec.instructions.size());
  for (size_t number = 0; number < spec.instructions.size(); ++number) add_instruction(spec, resolved, number);

  place(spec, resolved);
  upload_constants(spec, resolved);
  for (const InstructionSpec& instruction : spec.instructions)
    for (const auto* values : {&instruction.inputs, &instruction.outputs})
      for (int64_t value : *values) {
        ViewSource source = source_of(spec, resolved, value);
        if (source.place == Place::input) input_views_[source.position].push_back(static_cast<uint32_t>(sources_.size()));
        views_[sources_.size()].data = source.place == Place::fixed ? source.pointer : nullptr;
        sources_.push_back(source);
      }
  mark_constant_inputs();
  for (int64_t value : spec.outputs)
    outputs_.push_back({source_of(spec, resolved, value), resolved.values[static_cast<size_t>(value)].bytes});
  constant_offsets_ = {};
  arena_offsets_ = {};
  profile_.assign(instructions_.size(), 0);
}

void Program::add_instruction(const ProgramSpec& spec, const Resolved& resolved, size_t number) {
  const InstructionSpec& from = spec.instructions[number];
  const TrefoilBackend& backend = device_->backend();
  Instruction instruction{};
  instruction.op = from.op;
  instruction.id = backend.find_op(from.op.c_str());
  if (instruction.id < 0)
    throw Error(TREFOIL_UNSUPPORTED_OP,
                "instruction " + std::to_string(number) + ": backend \"" + backend.name + "\" has no op \"" + from.op + "\"", from.op,
                static_cast<int64_t>(number));
  size_t first_view = views_.size();
  for (const auto* values : {&from.inputs, &from.outputs})
    for (int64_t value : *values) {
      TrefoilView view{};
      if (value != -1) {
        const ValueSpec& described = spec.values[static_cast<size_t>(value)];
        view.data = kPresent;
        view.dtype = described.dtype;
        view.rank = static_cast<int32_t>(described.shape.size());
        std::copy(described.shape.begin(), described.shape.end(), view.shape);
      }
      views_.push_back(view);
    }
  size_t first_attribute = attributes_.size();
  attributes_.insert(attributes_.end(), from.attributes.begin(), from.attributes.end());

  TrefoilLaunch& launch = instruction.launch;
  launch.inputs = views_.data() + first_view;
  launch.input_count = static_cast<int32_t>(from.inputs.size());
  launch.outputs = launch.inputs + from.inputs.size();
  launch.output_count = static_cast<int32_t>(from.outputs.size());
  launch.attributes = attributes_.data() + first_attribute;
  launch.attribute_count = static_cast<int32_t>(from.attributes.size());
  auto refuse = [&](const std::string& why) {
    throw Error(TREFOIL_INVALID_ARGUMENT, "instruction " + std::to_string(number) + " (" + from.op + "): " + why, from.op, static_cast<int64_t>(number));
  };
  if (std::string why = misfit(from.op, launch, !device_->host_memory()); !why.empty()) refuse(why);
  if (int64_t index = overwritten_index(from, spec, resolved); index != -1)
    refuse("value " + std::to_string(index) + " shares the storage of a result, which would overwrite the indices that were checked");
  launch.workspace_bytes = backend.workspace_bytes(device_->handle(), instruction.id, &launch);
  info_.workspace_bytes = std::max(info_.workspace_bytes, launch.workspace_bytes);
  instructions_.push_back(std::move(instruction));
}

void Program::place(const ProgramSpec& spec, const Resolved& resolved) {
  std::vector<Placement> placements;
  std::vector<size_t> owner;  // value number; instruction number past the values
  size_t value_count = spec.values.size(), total = 0;
  auto add = [&](size_t bytes, int32_t first, int32_t last, size_t of) {
    if (bytes > kMostPlannedBytes - total) fail(TREFOIL_INVALID_ARGUMENT, "the temporaries of this program have more bytes than any device");
    total += bytes;
    placements.push_back({bytes, first, last});
    owner.push_back(of);
  };
  for (size_t number = 0; number < value_count; ++number) {
    const Resolved::Value& value = resolved.values[number];
    if (value.first == -1) continue;
    add(value.bytes, value.first, value.last, number);
    info_.temporary_bytes += value.bytes;
  }
  for (size_t number = 0; number < instructions_.size(); ++number)
    if (size_t bytes = instructions_[number].launch.workspace_bytes)
      add(bytes, static_cast<int32_t>(number), static_cast<int32_t>(number), value_count + number);
  info_.arena_bytes = plan(placements);
  arena_offsets_.assign(value_count, 0);
  for (size_t i = 0; i < placements.size(); ++i) {
    if (owner[i] < value_count)
      arena_offsets_[owner[i]] = placements[i].offset;
    else
      instructions_[owner[i] - value_count].workspace_offset = placements[i].offset;
  }
}

void Program::upload_constants(const ProgramSpec& spec, const Resolved& resolved) {
  constant_offsets_.assign(spec.values.size(), 0);
  size_t total = 0;
  auto each = [&](auto&& body) {
    for (size_t number = 0; number < spec.values.size(); ++number)
      if (spec.values[number].kind == ValueKind::constant && spec.values[number].alias == -1) body(number);
  };
  each([&](size_t number) {
    constant_offsets_[number] = total;
    total += align_up(std::max<size_t>(resolved.values[number].bytes, 1));
  });
  if (total == 0) return;
  constants_ = Block(*device_, total);
  // Nothing that the executor runs touches the new block, so the upload need not take its turn.
  each([&](size_t number) {
    device_->copy_in(constants_.data() + constant_offsets_[number], spec.values[number].data, resolved.values[number].bytes);
  });
}

// States and constants that no instruction writes, whichever of the values that stand for one buffer it names.
void Program::mark_constant_inputs() {
  const auto source = [&](const TrefoilView* view) -> const ViewSource& { return sources_[static_cast<size_t>(view - views_.data())]; };
  std::unordered_set<const void*> written;
  for (const Instruction& instruction : instructions_)
    for (int32_t i = 0; i < instruction.launch.output_count; ++i)
      if (const ViewSource& output = source(instruction.launch.outputs + i); output.place == Place::fixed) written.insert(output.pointer);
  for (Instruction& instruction : instructions_)
    for (int32_t i = 0; i < std::min(instruction.launch.input_count, 32); ++i)
      if (const ViewSource& input = source(instruction.launch.inputs + i); input.place == Place::fixed && !written.contains(input.pointer))
        instruction.launch.constant_inputs |= uint32_t{1} << i;
}

Program::ViewSource Program::source_of(const ProgramSpec& spec, const Resolved& resolved, int64_t value) const {
  if (value == -1) return {};
  size_t root = static_cast<size_t>(resolved.values[static_cast<size_t>(value)].root);
  const ValueSpec& storage = spec.values[root];
  switch (storage.kind) {
    case ValueKind::state: return {Place::fixed, storage.buffer->data(), 0};
    case ValueKind::constant: return {Place::fixed, constants_.data() + constant_offsets_[root], 0};
    case ValueKind::input: return {Place::input, nullptr, static_cast<size_t>(storage.index)};
    case ValueKind::temporary: return {Place::arena, nullptr, arena_offsets_[root]};
  }
  return {};
}

void Program::bind_arena() {
  bool first_time = !std::exchange(has_run_, true);
  std::byte* arena = device_->arena(arena_request(), first_time);
  if (arena == arena_) return;
  arena_ = arena;
  for (size_t i = 0; i < sources_.size(); ++i)
    if (sources_[i].place == Place::arena) views_[i].data = arena + sources_[i].position;
  for (Instruction& instruction : instructions_)
    if (instruction.launch.workspace_bytes) instruction.launch.workspace = arena + instruction.workspace_offset;
}

std::unique_ptr<Run> Program::prepare(uint32_t flags, std::shared_ptr<Completions> completions) {
  std::unique_ptr<Run> run;
  {
    std::lock_guard lock(mutex_);
    if (!idle_runs_.empty()) {
      run = std::move(idle_runs_.back());
      idle_runs_.pop_back();
    }
  }
  if (!run) run = std::make_unique<Run>();
  run->reset(shared_from_this(), flags, std::move(completions));
  return run;
}

void Program::recycle(std::unique_ptr<Run> run) {
  std::shared_ptr<Program> program = run->release();
  {
    std::lock_guard lock(program->mutex_);
    if (program->idle_runs_.size() < kIdleRuns) program->idle_runs_.push_back(std::move(run));
  }
  run.reset();  // before the program, which may be the last to hold the device that the run's memory is from
}

size_t Program::graph_count() const { return graph_count_.load(); }

std::vector<int64_t> Program::profile() const {
  std::lock_guard lock(mutex_);
  return profile_;
}

}  // namespace trefoil::runtime
