#include "runtime/spec.h"

namespace trefoil::runtime {

namespace {

size_t value_bytes(size_t number, const ValueSpec& value) {
  size_t bytes = dtype_bytes(value.dtype);
  if (bytes == 0) fail(TREFOIL_INVALID_ARGUMENT, "value %zu: %d is not a dtype", number, value.dtype);
  if (value.shape.size() > TREFOIL_MAX_RANK)
    fail(TREFOIL_INVALID_ARGUMENT, "value %zu: rank %zu; at most %d dimensions are supported", number, value.shape.size(), TREFOIL_MAX_RANK);
  bool empty = false;
  for (int64_t dimension : value.shape) {
    if (dimension < 0) fail(TREFOIL_INVALID_ARGUMENT, "value %zu: dimension %lld is negative", number, static_cast<long long>(dimension));
    if (dimension == 0) empty = true;
    if (dimension > 0 && (__builtin_mul_overflow(bytes, static_cast<size_t>(dimension), &bytes) || bytes > size_t{1} << 48))
      fail(TREFOIL_INVALID_ARGUMENT, "value %zu: its shape has more bytes than any device", number);
  }
  return empty ? 0 : bytes;
}

void check_storage(size_t number, const ValueSpec& value, size_t bytes, const Device& device) {
  switch (value.kind) {
    case ValueKind::state:
      if (!value.buffer) fail(TREFOIL_INVALID_ARGUMENT, "value %zu: a state value needs a buffer", number);
      if (&value.buffer->device() != &device) fail(TREFOIL_INVALID_ARGUMENT, "value %zu: its buffer is on another device", number);
      if (value.buffer->bytes() < bytes)
        fail(TREFOIL_INVALID_ARGUMENT, "value %zu: its shape has %zu bytes, its buffer %zu", number, bytes, value.buffer->bytes());
      break;
    case ValueKind::constant:
      if (value.data_bytes != bytes)
        fail(TREFOIL_INVALID_ARGUMENT, "value %zu: its shape has %zu bytes, its constant data %zu", number, bytes, value.data_bytes);
      break;
    default: break;
  }
}

void find_roots(const ProgramSpec& spec, Resolved& resolved) {
  size_t count = spec.values.size();
  for (size_t number = 0; number < count; ++number) {
    int64_t root = static_cast<int64_t>(number);
    for (size_t steps = 0; spec.values[static_cast<size_t>(root)].alias != -1; ++steps) {
      int64_t next = spec.values[static_cast<size_t>(root)].alias;
      if (next < 0 || next >= static_cast<int64_t>(count))
        fail(TREFOIL_INVALID_ARGUMENT, "value %lld: alias %lld is not one of the %zu values", static_cast<long long>(root),
             static_cast<long long>(next), count);
      if (steps == count) fail(TREFOIL_INVALID_ARGUMENT, "value %zu: its aliases form a cycle", number);
      root = next;
      // A chain may end at a value already done; its root is then known.
      if (static_cast<size_t>(root) < number) {
        root = resolved.values[static_cast<size_t>(root)].root;
        break;
      }
    }
    resolved.values[number].root = static_cast<int32_t>(root);
    if (resolved.values[number].bytes != resolved.values[static_cast<size_t>(root)].bytes)
      fail(TREFOIL_INVALID_ARGUMENT, "value %zu has %zu bytes and shares the storage of value %lld, which has %zu", number,
           resolved.values[number].bytes, static_cast<long long>(root), resolved.values[static_cast<size_t>(root)].bytes);
  }
}

void find_inputs(const ProgramSpec& spec, Resolved& resolved) {
  size_t count = 0;
  for (const ValueSpec& value : spec.values) count += value.kind == ValueKind::input && value.alias == -1;
  resolved.inputs.assign(count, -1);
  for (size_t number = 0; number < spec.values.size(); ++number) {
    const ValueSpec& value = spec.values[number];
    if (value.kind != ValueKind::input || value.alias != -1) continue;
    if (value.index < 0 || value.index >= static_cast<int64_t>(count))
      fail(TREFOIL_INVALID_ARGUMENT, "value %zu: input index %lld, but the program has %zu inputs", number,
           static_cast<long long>(value.index), count);
    int32_t& slot = resolved.inputs[static_cast<size_t>(value.index)];
    if (slot != -1)
      fail(TREFOIL_INVALID_ARGUMENT, "values %d and %zu are both input %lld", slot, number, static_cast<long long>(value.index));
    slot = static_cast<int32_t>(number);
  }
}

class Liveness {
 public:
  Liveness(const ProgramSpec& spec, Resolved& resolved) : spec_(spec), resolved_(resolved) {}

  void walk() {
    for (size_t i = 0; i < spec_.instructions.size(); ++i) {
      const InstructionSpec& instruction = spec_.instructions[i];
      for (int64_t value : instruction.inputs)
        if (value != -1) read(value, i, "reads");
      for (int64_t value : instruction.outputs)
        if (value != -1) write(value, i);
    }
    for (int64_t value : spec_.outputs) {
      if (value < 0 || value >= static_cast<int64_t>(spec_.values.size()))
        fail(TREFOIL_INVALID_ARGUMENT, "program output %lld is not one of the %zu values", static_cast<long long>(value), spec_.values.size());
      Resolved::Value& group = root_of(value);
      if (kind_of(value) != ValueKind::temporary) continue;
      if (group.first == -1)
        fail(TREFOIL_INVALID_ARGUMENT, "program output %lld is never written", static_cast<long long>(value));
      group.last = static_cast<int32_t>(spec_.instructions.size());
    }
  }

 private:
  Resolved::Value& root_of(int64_t value) {
    return resolved_.values[static_cast<size_t>(resolved_.values[static_cast<size_t>(value)].root)];
  }
  ValueKind kind_of(int64_t value) const {
    return spec_.values[static_cast<size_t>(resolved_.values[static_cast<size_t>(value)].root)].kind;
  }

  [[noreturn]] void refuse(size_t instruction, const std::string& reason) const {
    const std::string& op = spec_.instructions[instruction].op;
    throw Error(TREFOIL_INVALID_ARGUMENT, "instruction " + std::to_string(instruction) + " (" + op + ") " + reason, op,
                static_cast<int64_t>(instruction));
  }

  void check_number(int64_t value, size_t instruction, const char* what) const {
    if (value < 0 || value >= static_cast<int64_t>(spec_.values.size()))
      refuse(instruction, std::string(what) + " value " + std::to_string(value) + ", which is not one of the " +
                              std::to_string(spec_.values.size()) + " values");
  }

  void read(int64_t value, size_t instruction, const char* what) {
    check_number(value, instruction, what);
    Resolved::Value& group = root_of(value);
    if (kind_of(value) != ValueKind::temporary) return;
    if (group.first == -1) refuse(instruction, "reads value " + std::to_string(value) + " before anything writes it");
    group.last = static_cast<int32_t>(instruction);
  }

  void write(int64_t value, size_t instruction) {
    check_number(value, instruction, "writes");
    Resolved::Value& group = root_of(value);
    switch (kind_of(value)) {
      case ValueKind::input:
        refuse(instruction, "writes value " + std::to_string(value) + ", an input; only state and temporaries can be written");
      case ValueKind::constant:
        refuse(instruction, "writes value " + std::to_string(value) + ", a constant; only state and temporaries can be written");
      case ValueKind::state: return;
      case ValueKind::temporary: break;
    }
    if (group.first == -1) group.first = static_cast<int32_t>(instruction);
    group.last = static_cast<int32_t>(instruction);
  }

  const ProgramSpec& spec_;
  Resolved& resolved_;
};

}  // namespace

Resolved resolve(const ProgramSpec& spec, const Device& device) {
  if (spec.values.size() > 1u << 24 || spec.instructions.size() > 1u << 24)
    fail(TREFOIL_INVALID_ARGUMENT, "a program may have at most 2^24 values and instructions");
  Resolved resolved;
  resolved.values.reserve(spec.values.size());
  for (size_t number = 0; number < spec.values.size(); ++number)
    resolved.values.push_back({value_bytes(number, spec.values[number]), 0});
  find_roots(spec, resolved);
  for (size_t number = 0; number < spec.values.size(); ++number)
    if (spec.values[number].alias == -1) check_storage(number, spec.values[number], resolved.values[number].bytes, device);
  find_inputs(spec, resolved);
  Liveness(spec, resolved).walk();
  return resolved;
}

}  // namespace trefoil::runtime
