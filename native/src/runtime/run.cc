#include "runtime/run.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>

#include "runtime/finite.h"
#include "runtime/planner.h"

namespace trefoil::runtime {

namespace {

// What a backend takes in without making the caller wait for runs under way: four parts of the staging of the CUDA backend.
constexpr size_t kEarlyBytes = size_t{16} << 20;
constexpr size_t kGraphs = 8;  // recordings of one program: runs in flight take turns with their staging memory

int64_t now() { return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string describe(size_t number, const std::string& op) { return "instruction " + std::to_string(number) + " (" + op + ")"; }

}  // namespace

void Run::reset(std::shared_ptr<Program> program, uint32_t flags, std::shared_ptr<Completions> to) {
  program_ = std::move(program);
  completions = std::move(to);
  flags_ = flags;
  staged_bytes_ = input_bytes_ = 0;
}

std::shared_ptr<Program> Run::release() {
  inputs_.clear();
  outputs_.clear();
  awaited.reset();
  error = nullptr;
  completions = nullptr;
  return std::move(program_);
}

size_t Run::place(size_t bytes) {
  size_t offset = staged_bytes_;
  staged_bytes_ += align_up(bytes);
  return offset;
}

static void check_size(const char* what, size_t index, size_t count, size_t expected, size_t bytes) {
  if (index >= count) fail(TREFOIL_INVALID_ARGUMENT, "the program has %zu %ss; more were given", count, what);
  if (bytes != expected) fail(TREFOIL_INVALID_ARGUMENT, "%s %zu has %zu bytes; %zu were given", what, index, expected, bytes);
}

static void check_buffer(const char* what, size_t index, size_t count, size_t expected, const Buffer& buffer, const Program& program) {
  if (&buffer.device() != &program.device()) fail(TREFOIL_INVALID_ARGUMENT, "%s %zu is a buffer on another device", what, index);
  check_size(what, index, count, expected, std::max(buffer.bytes(), expected));
  if (buffer.bytes() < expected)
    fail(TREFOIL_INVALID_ARGUMENT, "%s %zu has %zu bytes; its buffer has %zu", what, index, expected, buffer.bytes());
}

void Run::input(std::shared_ptr<Buffer> buffer) {
  size_t index = inputs_.size(), count = program_->input_count();
  check_buffer("input", index, count, index < count ? program_->input_bytes(index) : 0, *buffer, *program_);
  inputs_.push_back({std::move(buffer)});
}

void Run::input(const void* host, size_t bytes) {
  size_t index = inputs_.size(), count = program_->input_count();
  check_size("input", index, count, index < count ? program_->input_bytes(index) : 0, bytes);
  inputs_.push_back({nullptr, host, place(bytes)});
  input_bytes_ += align_up(bytes);
}

void Run::output(std::shared_ptr<Buffer> buffer) {
  size_t index = outputs_.size(), count = program_->output_count();
  check_buffer("output", index, count, index < count ? program_->output_bytes(index) : 0, *buffer, *program_);
  outputs_.push_back({std::move(buffer)});
}

void Run::output_to_host(size_t bytes) {
  size_t index = outputs_.size(), count = program_->output_count();
  check_size("output", index, count, index < count ? program_->output_bytes(index) : 0, bytes);
  outputs_.push_back({nullptr, nullptr, place(bytes)});
}

void Run::seal() {
  if (inputs_.size() != program_->input_count())
    fail(TREFOIL_INVALID_ARGUMENT, "the program has %zu inputs; %zu were given", program_->input_count(), inputs_.size());
  if (outputs_.size() != program_->output_count())
    fail(TREFOIL_INVALID_ARGUMENT, "the program has %zu outputs; %zu were given", program_->output_count(), outputs_.size());
  Device& device = program_->device();
  size_t needed = staged_bytes_ + kAlignment;  // never empty: an empty tensor has an address too
  if (staging_.bytes() < needed) {
    staging_.reset();
    staging_ = HostBlock(device, needed);
  }
  if (!device.host_memory() && device_staging_.bytes() < needed) {
    device_staging_.reset();
    device_staging_ = Block(device, needed);
  }
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const Binding& input = inputs_[i];
    const size_t bytes = program_->input_bytes(i);
    if (input.buffer || bytes == 0) continue;
    if (early()) device.copy_in(device_staging_.data() + input.offset, input.host, bytes);
    else std::memcpy(staging_.data() + input.offset, input.host, bytes);
  }
}

bool Run::early() const { return !program_->device().host_memory() && input_bytes_ <= kEarlyBytes; }

void Run::execute() {
  try {
    execute_now();
  } catch (...) {
    if (flags_ & kFailNext) program_->device().defer_error(std::current_exception());
    throw;
  }
}

void Run::execute_now() {
  Device& device = program_->device();
  const int64_t start = now();
  device.rethrow_deferred();
  try {
    program_->bind_arena();
    bind_inputs();
    if (!replay()) launch_all();
    deliver_outputs();
  } catch (...) {
    // Copies may still be under way from memory that the next run will use; this error is the one to report.
    TrefoilStatus ignored{};
    device.backend().synchronize(device.handle(), &ignored);
    throw;
  }
  device.synchronize();
  program_->last_nanoseconds_.store(now() - start, std::memory_order_relaxed);
}

void Run::bind_inputs() {
  Program& program = *program_;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const Binding& input = inputs_[i];
    void* pointer;
    if (input.buffer) {
      pointer = input.buffer->data();
    } else if (program.device().host_memory()) {
      pointer = staging_.data() + input.offset;
    } else {
      pointer = device_staging_.data() + input.offset;
      if (!early()) program.device().copy_in(pointer, staging_.data() + input.offset, program.input_bytes(i));
    }
    if (program.input_pointers_[i] == pointer) continue;
    program.input_pointers_[i] = pointer;
    for (uint32_t view : program.input_views_[i]) program.views_[view].data = pointer;
  }
}

// Launches recorded by the backend start together. The first run with some addresses is launched one by one, the second is recorded:
// addresses that change with every run (a buffer of its own each time) are not worth a recording.
bool Run::replay() {
  Program& program = *program_;
  if (!program.recordable_ || (flags_ & ~uint32_t{kFailNext}) || program.instructions_.empty()) return false;
  std::vector<void*> addresses{program.arena_};
  addresses.insert(addresses.end(), program.input_pointers_.begin(), program.input_pointers_.end());
  ++program.run_count_;
  auto found = std::find_if(program.graphs_.begin(), program.graphs_.end(), [&](const Program::Graph& graph) { return graph.addresses == addresses; });
  if (found == program.graphs_.end()) {
    if (program.graphs_.size() == kGraphs) {
      auto oldest = std::min_element(program.graphs_.begin(), program.graphs_.end(),
                                     [](const Program::Graph& a, const Program::Graph& b) { return a.last_run < b.last_run; });
      if (oldest->recorded) {
        program.device().backend().release_graph(program.device().handle(), oldest->recorded);
        --program.graph_count_;
      }
      program.graphs_.erase(oldest);
    }
    program.graphs_.push_back({std::move(addresses), nullptr, program.run_count_});
    return false;
  }
  found->last_run = program.run_count_;
  if (!found->recorded) record(*found);
  if (!found->recorded) return false;
  Device& device = program.device();
  TrefoilStatus status{};
  int32_t code = device.backend().replay(device.handle(), found->recorded, &status);
  if (code != TREFOIL_OK) throw Error(static_cast<TrefoilCode>(code), status.message);
  return true;
}

// Leaves graph.recorded null, and the program unrecordable, where the backend cannot record what the ops do.
void Run::record(Program::Graph& graph) {
  Device& device = program_->device();
  const TrefoilBackend& backend = device.backend();
  TrefoilStatus status{};
  if (backend.capture_begin(device.handle(), &status) == TREFOIL_OK) {
    try {
      launch_all();
    } catch (...) {
      if (void* unfinished = backend.capture_end(device.handle(), &status)) backend.release_graph(device.handle(), unfinished);
      throw;
    }
    graph.recorded = backend.capture_end(device.handle(), &status);
  }
  program_->recordable_ = graph.recorded != nullptr;
  if (graph.recorded) ++program_->graph_count_;
}

void Run::launch_all() {
  Program& program = *program_;
  Device& device = program.device();
  const TrefoilBackend& backend = device.backend();
  bool profile = flags_ & kProfile;
  std::vector<int64_t> elapsed(profile ? program.instructions_.size() : 0);
  TrefoilStatus status;
  status.message[0] = '\0';
  for (size_t number = 0; number < program.instructions_.size(); ++number) {
    if (completions && completions->cancelled.load(std::memory_order_relaxed)) fail(TREFOIL_INTERNAL, "the run was cancelled");
    const Program::Instruction& instruction = program.instructions_[number];
    int64_t start = profile ? now() : 0;
    int32_t code = backend.launch(device.handle(), instruction.id, &instruction.launch, &status);
    if (code != TREFOIL_OK)
      throw Error(static_cast<TrefoilCode>(code), describe(number, instruction.op) + ": " + status.message, instruction.op,
                  static_cast<int64_t>(number));
    if (profile) {
      device.synchronize();
      elapsed[number] = now() - start;
    }
    if (flags_ & kCheckFinite) check_finite(number);
  }
  if (profile) {
    std::lock_guard lock(program.mutex_);
    for (size_t number = 0; number < elapsed.size(); ++number) program.profile_[number] += elapsed[number];
  }
}

void Run::check_finite(size_t number) {
  Device& device = program_->device();
  const Program::Instruction& instruction = program_->instructions_[number];
  std::vector<std::byte> copied;
  for (int32_t i = 0; i < instruction.launch.output_count; ++i) {
    const TrefoilView& view = instruction.launch.outputs[i];
    if (!view.data || (view.dtype != TREFOIL_F32 && view.dtype != TREFOIL_BF16)) continue;
    size_t count = 1;
    for (int32_t axis = 0; axis < view.rank; ++axis) count *= static_cast<size_t>(view.shape[axis]);
    const void* host = view.data;
    if (!device.host_memory()) {
      copied.resize(count * dtype_bytes(view.dtype));
      device.copy_out(copied.data(), view.data, copied.size());
      device.synchronize();
      host = copied.data();
    }
    size_t position = first_non_finite(host, count, view.dtype);
    if (position == count) continue;
    throw Error(TREFOIL_NON_FINITE,
                describe(number, instruction.op) + ": output " + std::to_string(i) + " is not finite at element " +
                    std::to_string(position) + " of " + std::to_string(count),
                instruction.op, static_cast<int64_t>(number));
  }
}

void* Run::output_pointer(size_t index) const {
  const Program::ViewSource& source = program_->outputs_[index].source;
  switch (source.place) {
    case Program::Place::arena: return program_->arena_ + source.position;
    case Program::Place::input: return program_->input_pointers_[source.position];
    default: return source.pointer;
  }
}

void Run::deliver_outputs() {
  Device& device = program_->device();
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const Binding& output = outputs_[i];
    if (output.buffer)
      device.copy(output.buffer->data(), output_pointer(i), program_->output_bytes(i));
    else
      device.copy_out(staging_.data() + output.offset, output_pointer(i), program_->output_bytes(i));
  }
}

std::span<const std::byte> Run::output(size_t index) const {
  if (outputs_[index].buffer) return {};
  return {staging_.data() + outputs_[index].offset, program_->output_bytes(index)};
}

}  // namespace trefoil::runtime
