#include "addon/entry.h"

namespace trefoil::addon {

namespace {

Napi::Value map_file(const Call& call, Environment& environment) {
  auto file = std::make_unique<runtime::File>(to_string(call[0], "path"));
  auto result = Napi::Object::New(call.Env());
  result.Set("bytes", file->bytes());
  result.Set("mapping", environment.keep(environment.files, std::move(file)));
  return result;
}

Napi::Value read_mapping(const Call& call, Environment& environment) {
  const runtime::File& file = *environment.files.at(call[0]);
  size_t offset = to_size(call[1], "offset");
  std::span<std::byte> target = to_bytes(call[2], "target");
  file.read(offset, target.data(), target.size());
  return {};
}

Napi::Value unmap_file(const Call& call, Environment& environment) {
  environment.files.remove(call[0]);
  return {};
}

}  // namespace

void define_files(Napi::Object exports) {
  define<map_file>(exports, "mapFile");
  define<read_mapping>(exports, "readMapping");
  define<unmap_file>(exports, "unmapFile");
}

}  // namespace trefoil::addon
