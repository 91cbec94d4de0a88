#include "addon/entry.h"

namespace trefoil::addon {

namespace {

napi_value map_file(Call& call) {
  napi_env env = call.env;
  auto file = std::make_unique<runtime::File>(to_string(env, call.arguments[0], "path"));
  int64_t handle = call.environment.next_handle();
  napi_value result;
  check(env, napi_create_object(env, &result));
  set(env, result, "mapping", make_number(env, static_cast<double>(handle)));
  set(env, result, "bytes", make_number(env, static_cast<double>(file->bytes())));
  call.environment.files.add(handle, std::move(file));
  return result;
}

napi_value read_mapping(Call& call) {
  napi_env env = call.env;
  const runtime::File& file = *call.environment.files.at(env, call.arguments[0]);
  size_t offset = to_size(env, call.arguments[1], "offset");
  Bytes target = to_bytes(env, call.arguments[2], "target");
  file.read(offset, target.data, target.size);
  return nullptr;
}

napi_value unmap_file(Call& call) {
  call.environment.files.remove(call.env, call.arguments[0]);
  return nullptr;
}

}  // namespace

void define_files(napi_env env, napi_value exports) {
  define<map_file>(env, exports, "mapFile");
  define<read_mapping>(env, exports, "readMapping");
  define<unmap_file>(env, exports, "unmapFile");
}

}  // namespace trefoil::addon
