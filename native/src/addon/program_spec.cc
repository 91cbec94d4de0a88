#include "addon/program_spec.h"

#include <utility>

namespace trefoil::addon {

namespace {

runtime::ValueKind to_kind(napi_env env, napi_value value, const std::string& what) {
  std::string name = to_string(env, value, what);
  if (name == "input") return runtime::ValueKind::input;
  if (name == "state") return runtime::ValueKind::state;
  if (name == "constant") return runtime::ValueKind::constant;
  if (name == "temporary") return runtime::ValueKind::temporary;
  throw runtime::Error(TREFOIL_INVALID_ARGUMENT, what + " is \"" + name + "\"; it must be input, state, constant or temporary");
}

}  // namespace

runtime::ProgramSpec to_program_spec(Call& call, napi_value from) {
  napi_env env = call.env;
  runtime::ProgramSpec spec;
  std::vector<std::pair<size_t, napi_value>> constants;

  napi_value values = property(env, from, "values", "spec");
  uint32_t value_count = array_length(env, values, "spec.values");
  spec.values.resize(value_count);
  for (uint32_t i = 0; i < value_count; ++i) {
    std::string what = "spec.values[" + std::to_string(i) + "]";
    napi_value object = element(env, values, i);
    auto get = [&](const char* name) { return property(env, object, name, what); };
    runtime::ValueSpec& value = spec.values[i];
    value.dtype = to_int32(env, get("dtype"), what + ".dtype");
    value.shape = to_integers(env, get("shape"), what + ".shape");
    value.kind = to_kind(env, get("kind"), what + ".kind");
    if (napi_value alias = get("alias"); !is_undefined(env, alias)) {
      value.alias = static_cast<int64_t>(to_size(env, alias, what + ".alias"));
      continue;
    }
    switch (value.kind) {
      case runtime::ValueKind::input: value.index = to_integer(env, get("index"), what + ".index"); break;
      case runtime::ValueKind::state: value.buffer = call.environment.buffers.at(env, get("buffer")).get(); break;
      case runtime::ValueKind::constant: constants.emplace_back(i, get("data")); break;
      case runtime::ValueKind::temporary: break;
    }
  }

  napi_value instructions = property(env, from, "instructions", "spec");
  uint32_t instruction_count = array_length(env, instructions, "spec.instructions");
  spec.instructions.resize(instruction_count);
  for (uint32_t i = 0; i < instruction_count; ++i) {
    std::string what = "spec.instructions[" + std::to_string(i) + "]";
    napi_value object = element(env, instructions, i);
    auto get = [&](const char* name) { return property(env, object, name, what); };
    runtime::InstructionSpec& instruction = spec.instructions[i];
    instruction.op = to_string(env, get("op"), what + ".op");
    instruction.inputs = to_integers(env, get("inputs"), what + ".inputs");
    instruction.outputs = to_integers(env, get("outputs"), what + ".outputs");
    instruction.attributes = to_numbers(env, get("attributes"), what + ".attributes");
  }
  spec.outputs = to_integers(env, property(env, from, "outputs", "spec"), "spec.outputs");

  // Last: an accessor of the spec runs JavaScript, after which no pointer to bytes could be trusted.
  for (auto [number, data] : constants) {
    Bytes bytes = to_bytes(env, data, "spec.values[" + std::to_string(number) + "].data");
    spec.values[number].data = bytes.data;
    spec.values[number].data_bytes = bytes.size;
  }
  return spec;
}

}  // namespace trefoil::addon
