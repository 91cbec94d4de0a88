#include "runtime/registry.h"

#include <dlfcn.h>

#include <map>
#include <mutex>

#include "runtime/error.h"

extern "C" const TrefoilBackend* trefoil_cpu_backend(void);

namespace trefoil::runtime {

namespace {

// Never destroyed: executor threads may outlive static destructors when the process exits during a run.
struct Registry {
  std::mutex mutex;
  std::map<std::string, const TrefoilBackend*> backends{{"cpu", trefoil_cpu_backend()}};
};
Registry& registry() {
  static Registry& instance = *new Registry;
  return instance;
}

const TrefoilBackend* open_library(const std::string& name, const std::string& path) {
  if (path.empty())
    fail(TREFOIL_DEVICE_UNAVAILABLE, "backend \"%s\" is not built in; give the absolute path of libtrefoil_%s.so as library",
         name.c_str(), name.c_str());
  if (path[0] != '/') fail(TREFOIL_INVALID_ARGUMENT, "library \"%s\" must be an absolute path", path.c_str());
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char* reason = dlerror();
    fail(TREFOIL_DEVICE_UNAVAILABLE, "cannot open backend \"%s\" at %s: %s", name.c_str(), path.c_str(), reason ? reason : "unknown reason");
  }
  auto refuse = [&](const std::string& reason) {
    dlclose(handle);
    fail(TREFOIL_DEVICE_UNAVAILABLE, "%s is not a usable backend \"%s\": %s", path.c_str(), name.c_str(), reason.c_str());
  };
  auto entry = reinterpret_cast<TrefoilBackendEntry>(dlsym(handle, "trefoil_backend"));
  if (!entry) refuse("it does not export trefoil_backend");
  const TrefoilBackend* backend = entry();
  if (!backend) refuse("trefoil_backend() returned NULL");
  if (backend->abi_version != TREFOIL_BACKEND_ABI_VERSION)
    refuse("its ABI version is " + std::to_string(backend->abi_version) + ", this build needs " +
           std::to_string(TREFOIL_BACKEND_ABI_VERSION) + "; rebuild both from one source tree");
  if (backend->struct_size != sizeof(TrefoilBackend))
    refuse("its TrefoilBackend has " + std::to_string(backend->struct_size) + " bytes, this build's has " +
           std::to_string(sizeof(TrefoilBackend)) + "; rebuild both from one source tree");
  if (!backend->name || name != backend->name) refuse(std::string("it is backend \"") + (backend->name ? backend->name : "") + "\"");
  if (!backend->device_count || !backend->open_device || !backend->close_device || !backend->device_info || !backend->allocate ||
      !backend->release || !backend->copy_in || !backend->copy_out || !backend->copy || !backend->find_op || !backend->op_name ||
      !backend->workspace_bytes || !backend->launch || !backend->synchronize)
    refuse("a required function is missing from its table");
  return backend;  // the library stays open for the life of the process
}

}  // namespace

const TrefoilBackend* find_backend(const std::string& name, const std::string& library) {
  Registry& all = registry();
  std::lock_guard lock(all.mutex);
  auto found = all.backends.find(name);
  if (found != all.backends.end()) return found->second;
  const TrefoilBackend* backend = open_library(name, library);
  all.backends.emplace(name, backend);
  return backend;
}

void register_backend(const TrefoilBackend* backend) {
  Registry& all = registry();
  std::lock_guard lock(all.mutex);
  all.backends[backend->name] = backend;
}

}  // namespace trefoil::runtime
