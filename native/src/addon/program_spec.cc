#include "addon/program_spec.h"

#include <utility>

namespace trefoil::addon {

namespace {

runtime::ValueKind to_kind(Napi::Value value, const std::string& what) {
  std::string name = to_string(value, what);
  if (name == "input") return runtime::ValueKind::input;
  if (name == "state") return runtime::ValueKind::state;
  if (name == "constant") return runtime::ValueKind::constant;
  if (name == "temporary") return runtime::ValueKind::temporary;
  throw runtime::Error(TREFOIL_INVALID_ARGUMENT, what + " is \"" + name + "\"; it must be input, state, constant or temporary");
}

}  // namespace

runtime::ProgramSpec to_program_spec(const Environment& environment, Napi::Value from) {
  runtime::ProgramSpec spec;
  std::vector<std::pair<size_t, Napi::Value>> constants;
  Napi::Object source = to_object(from, "spec");

  for_each_element(to_array(source.Get("values"), "spec.values"), [&](Napi::Value element, uint32_t i) {
    std::string what = "spec.values[" + std::to_string(i) + "]";
    Napi::Object object = to_object(element, what);
    runtime::ValueSpec& value = spec.values.emplace_back();
    value.dtype = to_int32(object.Get("dtype"), what + ".dtype");
    value.shape = to_integers(object.Get("shape"), what + ".shape");
    value.kind = to_kind(object.Get("kind"), what + ".kind");
    if (Napi::Value alias = object.Get("alias"); !alias.IsUndefined()) {
      value.alias = static_cast<int64_t>(to_size(alias, what + ".alias"));
      return;
    }
    switch (value.kind) {
      case runtime::ValueKind::input: value.index = to_integer(object.Get("index"), what + ".index"); break;
      case runtime::ValueKind::state: value.buffer = environment.buffers.at(object.Get("buffer")).get(); break;
      case runtime::ValueKind::constant: constants.emplace_back(i, object.Get("data")); break;
      case runtime::ValueKind::temporary: break;
    }
  });

  for_each_element(to_array(source.Get("instructions"), "spec.instructions"), [&](Napi::Value element, uint32_t i) {
    std::string what = "spec.instructions[" + std::to_string(i) + "]";
    Napi::Object object = to_object(element, what);
    runtime::InstructionSpec& instruction = spec.instructions.emplace_back();
    instruction.op = to_string(object.Get("op"), what + ".op");
    instruction.inputs = to_integers(object.Get("inputs"), what + ".inputs");
    instruction.outputs = to_integers(object.Get("outputs"), what + ".outputs");
    instruction.attributes = to_numbers(object.Get("attributes"), what + ".attributes");
  });
  spec.outputs = to_integers(source.Get("outputs"), "spec.outputs");

  // Last: an accessor of the spec runs JavaScript, after which no pointer to bytes could be trusted.
  for (auto [number, data] : constants) {
    std::span<std::byte> bytes = to_bytes(data, "spec.values[" + std::to_string(number) + "].data");
    spec.values[number].data = bytes.data();
    spec.values[number].data_bytes = bytes.size();
  }
  return spec;
}

}  // namespace trefoil::addon
