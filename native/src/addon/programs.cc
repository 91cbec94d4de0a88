#include <algorithm>

#include "addon/entry.h"
#include "addon/program_spec.h"
#include "runtime/run.h"

namespace trefoil::addon {

namespace {

napi_value create_program(Call& call) {
  napi_env env = call.env;
  std::shared_ptr<runtime::Device> device = call.environment.devices.at(env, call.arguments[0]);
  runtime::ProgramSpec spec = to_program_spec(call, call.arguments[1]);
  std::shared_ptr<runtime::Program> program = runtime::Program::create(device, spec);
  int64_t handle = call.environment.next_handle();
  call.environment.programs.add(handle, std::move(program));
  return make_number(env, static_cast<double>(handle));
}

napi_value program_info(Call& call) {
  napi_env env = call.env;
  const runtime::ProgramInfo& info = call.environment.programs.at(env, call.arguments[0])->info();
  napi_value result;
  check(env, napi_create_object(env, &result));
  set(env, result, "arenaBytes", make_number(env, static_cast<double>(info.arena_bytes)));
  set(env, result, "workspaceBytes", make_number(env, static_cast<double>(info.workspace_bytes)));
  set(env, result, "temporaryBytes", make_number(env, static_cast<double>(info.temporary_bytes)));
  return result;
}

std::vector<napi_value> elements(napi_env env, napi_value array, const char* what) {
  std::vector<napi_value> result(array_length(env, array, what));
  for (uint32_t i = 0; i < result.size(); ++i) result[i] = element(env, array, i);
  return result;
}

napi_value run(Call& call) {
  napi_env env = call.env;
  Environment& environment = call.environment;
  std::shared_ptr<runtime::Program> program = environment.programs.at(env, call.arguments[0]);
  // All elements first: an accessor in an array runs JavaScript, after which no pointer to bytes could be trusted.
  std::vector<napi_value> inputs = elements(env, call.arguments[1], "inputs"), outputs = elements(env, call.arguments[2], "outputs");
  int64_t flags = to_integer(env, call.arguments[3], "flags");
  if (flags < 0 || flags > (runtime::kCheckFinite | runtime::kProfile))
    runtime::fail(TREFOIL_INVALID_ARGUMENT, "flags is %lld; add up values of runFlags", static_cast<long long>(flags));

  std::unique_ptr<runtime::Run> job = program->prepare(static_cast<uint32_t>(flags), environment.inbox());
  for (napi_value input : inputs) {
    Bytes bytes;
    if (is_number(env, input))
      job->input(environment.buffers.at(env, input).get());
    else if (find_bytes(env, input, &bytes))
      job->input(bytes.data, bytes.size);
    else
      throw WrongType("an input must be a buffer or a typed array");
  }
  for (napi_value& output : outputs) {
    Bytes bytes;
    if (is_number(env, output)) {
      job->output(environment.buffers.at(env, output).get());
      output = nullptr;
    } else if (find_bytes(env, output, &bytes)) {
      job->output_to_host(bytes.size);
    } else {
      throw WrongType("an output must be a buffer or a typed array");
    }
  }
  job->seal();
  return environment.submit(program->device(), std::move(job), outputs.data(), outputs.size());
}

napi_value program_profile(Call& call) {
  napi_env env = call.env;
  std::vector<int64_t> nanoseconds = call.environment.programs.at(env, call.arguments[0])->profile();
  void* data = nullptr;
  napi_value storage, result;
  check(env, napi_create_arraybuffer(env, nanoseconds.size() * sizeof(double), &data, &storage));
  std::copy(nanoseconds.begin(), nanoseconds.end(), static_cast<double*>(data));
  check(env, napi_create_typedarray(env, napi_float64_array, nanoseconds.size(), storage, 0, &result));
  return result;
}

napi_value release_program(Call& call) {
  call.environment.programs.remove(call.env, call.arguments[0]);
  return nullptr;
}

}  // namespace

void define_programs(napi_env env, napi_value exports) {
  define<create_program>(env, exports, "createProgram");
  define<program_info>(env, exports, "programInfo");
  define<run>(env, exports, "run");
  define<program_profile>(env, exports, "programProfile");
  define<release_program>(env, exports, "releaseProgram");
}

}  // namespace trefoil::addon
