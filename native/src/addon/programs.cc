#include <algorithm>

#include "addon/entry.h"
#include "addon/program_spec.h"
#include "runtime/run.h"

namespace trefoil::addon {

namespace {

Napi::Value create_program(const Call& call, Environment& environment) {
  std::shared_ptr<runtime::Device> device = environment.devices.at(call[0]);
  runtime::ProgramSpec spec = to_program_spec(environment, call[1]);
  return environment.keep(environment.programs, runtime::Program::create(device, spec));
}

Napi::Value program_info(const Call& call, Environment& environment) {
  const runtime::ProgramInfo& info = environment.programs.at(call[0])->info();
  auto result = Napi::Object::New(call.Env());
  result.Set("arenaBytes", info.arena_bytes);
  result.Set("workspaceBytes", info.workspace_bytes);
  result.Set("temporaryBytes", info.temporary_bytes);
  return result;
}

Napi::Value run(const Call& call, Environment& environment) {
  std::shared_ptr<runtime::Program> program = environment.programs.at(call[0]);
  std::vector<Napi::Value> inputs = to_operands(call[1], "inputs", true), outputs = to_operands(call[2], "outputs", true);
  int64_t flags = to_integer(call[3], "flags");
  if (flags < 0 || flags > (runtime::kCheckFinite | runtime::kProfile | runtime::kFailNext))
    runtime::fail(TREFOIL_INVALID_ARGUMENT, "flags is %lld; add up values of runFlags", static_cast<long long>(flags));

  std::unique_ptr<runtime::Run> job = program->prepare(static_cast<uint32_t>(flags), environment.inbox());
  for (Napi::Value input : inputs) {
    if (input.IsNumber()) {
      job->input(environment.buffers.at(input).get());
    } else {
      std::span<std::byte> bytes = to_bytes(input, "an input");
      job->input(bytes.data(), bytes.size());
    }
  }
  for (Napi::Value& output : outputs) {
    if (output.IsNumber()) {
      job->output(environment.buffers.at(output).get());
      output = {};
    } else {
      job->output_to_host(to_bytes(output, "an output").size());
    }
  }
  job->seal();
  return environment.submit(program->device(), std::move(job), outputs);
}

Napi::Value program_profile(const Call& call, Environment& environment) {
  std::vector<int64_t> nanoseconds = environment.programs.at(call[0])->profile();
  auto result = Napi::Float64Array::New(call.Env(), nanoseconds.size());
  std::copy(nanoseconds.begin(), nanoseconds.end(), result.Data());
  return result;
}

Napi::Value release_program(const Call& call, Environment& environment) {
  environment.programs.remove(call[0]);
  return {};
}

}  // namespace

void define_programs(Napi::Object exports) {
  define<create_program>(exports, "createProgram");
  define<program_info>(exports, "programInfo");
  define<run>(exports, "run");
  define<program_profile>(exports, "programProfile");
  define<release_program>(exports, "releaseProgram");
}

}  // namespace trefoil::addon
