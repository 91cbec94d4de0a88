// The CPU backend: the C ABI over the kernel tables of the best ISA this machine has.
#include "trefoil/backend.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "block_allocator.h"
#include "kernel.h"
#include "kernels/bf16_products.h"
#include "thread_pool.h"

namespace trefoil::cpu {

#define TREFOIL_DECLARE_ISA(isa) \
  namespace isa {                \
  extern const KernelTable kernel_tables[]; \
  extern const Bf16Products bf16_products;  \
  }
TREFOIL_DECLARE_ISA(scalar)
#if defined(TREFOIL_HAVE_AVX2)
TREFOIL_DECLARE_ISA(avx2)
#endif
#if defined(TREFOIL_HAVE_AVX512)
TREFOIL_DECLARE_ISA(avx512)
namespace avx512bf16 {
extern const Bf16Products bf16_products;
}
#endif
#if defined(TREFOIL_HAVE_NEON)
TREFOIL_DECLARE_ISA(neon)
namespace neonbf16 {
extern const Bf16Products bf16_products;
}
#endif

namespace {

struct KernelError : std::runtime_error {
  TrefoilCode code;
  KernelError(TrefoilCode code, const char* message) : std::runtime_error(message), code(code) {}
};

struct IsaLevel {
  const char* name;
  const KernelTable* tables;
  const Bf16Products* bf16_products;
  bool (*available)();
};

bool always() { return true; }

// Best first.
const IsaLevel kLevels[] = {
#if defined(TREFOIL_HAVE_AVX512)
    {"avx512", avx512::kernel_tables, &avx512::bf16_products,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
     }},
#endif
#if defined(TREFOIL_HAVE_AVX2)
    {"avx2", avx2::kernel_tables, &avx2::bf16_products, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
#if defined(TREFOIL_HAVE_NEON)
    {"neon", neon::kernel_tables, &neon::bf16_products, always},
#endif
    {"scalar", scalar::kernel_tables, &scalar::bf16_products, always},
};

void set_status(TrefoilStatus* status, TrefoilCode code, const char* message) {
  if (!status) return;
  status->code = code;
  std::snprintf(status->message, sizeof status->message, "%s", message);
}

template <class Body>
int32_t guarded(TrefoilStatus* status, const Body& body) {
  try {
    body();
    if (status) status->code = TREFOIL_OK;
    return TREFOIL_OK;
  } catch (const KernelError& error) {
    set_status(status, error.code, error.what());
    return error.code;
  } catch (const std::bad_alloc&) {
    set_status(status, TREFOIL_OUT_OF_MEMORY, "out of memory");
    return TREFOIL_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    set_status(status, TREFOIL_INTERNAL, error.what());
    return TREFOIL_INTERNAL;
  }
}

}  // namespace

void fail(TrefoilCode code, const char* format, ...) {
  char message[500];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  throw KernelError(code, message);
}

int Context::threads() const { return pool_.threads(); }
void Context::parallel_raw(int64_t count, void (*body)(void*, int64_t), void* state, int64_t common) {
  pool_.run(count, body, state, common);
}

namespace {
struct ScratchSlot {
  void* data = nullptr;
  size_t bytes = 0;
  ~ScratchSlot() { std::free(data); }
};
thread_local ScratchSlot scratch_slots[8];
}  // namespace

void* Context::scratch(int slot, size_t bytes) {
  ScratchSlot& entry = scratch_slots[slot];
  if (entry.bytes < bytes) {
    std::free(entry.data);
    size_t rounded = (bytes + 4095) / 4096 * 4096;
    entry.data = std::aligned_alloc(64, rounded);
    entry.bytes = entry.data ? rounded : 0;
    if (!entry.data) throw std::bad_alloc();
  }
  return entry.data;
}

}  // namespace trefoil::cpu

using namespace trefoil::cpu;

struct TrefoilDevice {
  const IsaLevel* level;
  std::vector<const KernelEntry*> kernels;  // indexed by op id; the same order at every ISA
  ThreadPool pool;
  Context context;
  BlockAllocator memory;
  TrefoilDevice(const IsaLevel* level, int threads, const Bf16Products* bf16) : level(level), pool(threads), context(pool, bf16) {
    for (const KernelTable* table = level->tables; *table; ++table)
      for (const KernelEntry* entry = *table; entry->name; ++entry) kernels.push_back(entry);
    if (!bf16 || !bf16->kernels) return;
    for (const KernelEntry*& entry : kernels)
      for (const KernelEntry* other = bf16->kernels; other->name; ++other)
        if (std::strcmp(entry->name, other->name) == 0) entry = other;
  }
};

namespace {

// Op ids count through the tables; every ISA lists the same families, so the scalar table stands for all.
const KernelEntry* entry_at(int32_t op) {
  for (const KernelTable* table = scalar::kernel_tables; *table; ++table)
    for (const KernelEntry* entry = *table; entry->name; ++entry)
      if (op-- == 0) return entry;
  return nullptr;
}

int32_t device_count(TrefoilStatus* status) {
  if (status) status->code = TREFOIL_OK;
  return 1;
}

// The CPU's instructions for pairs of bf16, at a level that has some; else null.
const Bf16Products* bf16_instructions(const IsaLevel& level) {
#if defined(TREFOIL_HAVE_AVX512)
  if (level.tables == avx512::kernel_tables && __builtin_cpu_supports("avx512bf16")) return &avx512bf16::bf16_products;
#endif
#if defined(TREFOIL_HAVE_NEON) && defined(__APPLE__)
  int has = 0;
  size_t bytes = sizeof has;
  if (level.tables == neon::kernel_tables && sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &bytes, nullptr, 0) == 0 && has) return &neonbf16::bf16_products;
#elif defined(TREFOIL_HAVE_NEON) && defined(__linux__)
  if (level.tables == neon::kernel_tables && (getauxval(AT_HWCAP2) & (1ul << 14)) != 0) return &neonbf16::bf16_products;  // HWCAP2_BF16
#endif
  return nullptr;
}

// Null in f32 precision.
const Bf16Products* bf16_products_of(const char* wanted, const IsaLevel& level) {
  if (!wanted || !*wanted) wanted = std::getenv("TREFOIL_PRECISION");
  const std::string precision = wanted ? wanted : "";
  if (precision.empty() || precision == "f32") return nullptr;
  if (precision != "bf16-products")
    fail(TREFOIL_INVALID_ARGUMENT, "precision \"%s\" is none of the CPU's: it must be \"f32\" or \"bf16-products\" (operands of products are bf16, all else is f32)", wanted);
  const Bf16Products* instructions = bf16_instructions(level);
  return instructions ? instructions : level.bf16_products;
}

TrefoilDevice* open_device(const TrefoilDeviceOptions* options, TrefoilStatus* status) {
  TrefoilDevice* device = nullptr;
  guarded(status, [&] {
    const char* wanted = options->isa ? options->isa : std::getenv("TREFOIL_ISA");
    int threads = options->threads;
    if (threads == 0) {
      if (const char* text = std::getenv("TREFOIL_THREADS")) {
        char* end = nullptr;
        long value = std::strtol(text, &end, 10);
        if (*text == '\0' || *end != '\0' || value < 1 || value > 1024)
          fail(TREFOIL_INVALID_ARGUMENT, "TREFOIL_THREADS is \"%s\"; set it to a whole number from 1 to 1024", text);
        threads = static_cast<int>(value);
      } else {
        threads = usable_cores();
      }
    }
    if (threads < 1 || threads > 1024) fail(TREFOIL_INVALID_ARGUMENT, "threads is %d; it must be 1 to 1024", threads);
    for (const IsaLevel& level : kLevels) {
      if (wanted && *wanted && std::string(wanted) != level.name) continue;
      if (!level.available()) {
        if (wanted && *wanted)
          fail(TREFOIL_DEVICE_UNAVAILABLE, "this CPU lacks the instruction set \"%s\" that TREFOIL_ISA or isa asks for", wanted);
        continue;
      }
      device = new TrefoilDevice(&level, threads, bf16_products_of(options->precision, level));
      return;
    }
    std::string known;
    for (const IsaLevel& level : kLevels) known += std::string(known.empty() ? "" : ", ") + level.name;
    fail(TREFOIL_INVALID_ARGUMENT, "unknown instruction set \"%s\"; this build has: %s", wanted, known.c_str());
  });
  return device;
}

void close_device(TrefoilDevice* device) { delete device; }

#if defined(__aarch64__)
constexpr const char* kInstructions = ", bf16 by Arm-BF16";
#else
constexpr const char* kInstructions = ", bf16 by AVX512-BF16";
#endif

void device_info(TrefoilDevice* device, TrefoilDeviceInfo* info) {
  std::snprintf(info->name, sizeof info->name, "cpu");
  const Bf16Products* bf16 = device->context.bf16_products();
  const char* unit = !bf16 ? "" : bf16 == device->level->bf16_products ? ", bf16 by f32 arithmetic" : kInstructions;
  std::snprintf(info->isa, sizeof info->isa, "%s%s", device->level->name, unit);
  info->threads = device->pool.threads();
}

void* allocate(TrefoilDevice* device, size_t bytes) { return device->memory.allocate(bytes); }

void release(TrefoilDevice* device, void* pointer) { device->memory.release(pointer); }

int32_t copy(TrefoilDevice*, void* to, const void* from, size_t bytes, TrefoilStatus* status) {
  std::memcpy(to, from, bytes);
  if (status) status->code = TREFOIL_OK;
  return TREFOIL_OK;
}

int32_t find_op(const char* name) {
  for (int32_t op = 0;; ++op) {
    const KernelEntry* entry = entry_at(op);
    if (!entry) return -1;
    if (std::strcmp(entry->name, name) == 0) return op;
  }
}

const char* op_name(int32_t op) {
  const KernelEntry* entry = op < 0 ? nullptr : entry_at(op);
  return entry ? entry->name : nullptr;
}

size_t workspace_bytes(TrefoilDevice* device, int32_t op, const TrefoilLaunch* launch) {
  const KernelEntry* entry = device->kernels[static_cast<size_t>(op)];
  return entry->workspace ? entry->workspace(*launch) : 0;
}

int32_t launch(TrefoilDevice* device, int32_t op, const TrefoilLaunch* launch, TrefoilStatus* status) {
  return guarded(status, [&] { device->kernels[static_cast<size_t>(op)]->run(device->context, *launch); });
}

int32_t synchronize(TrefoilDevice*, TrefoilStatus* status) {
  if (status) status->code = TREFOIL_OK;
  return TREFOIL_OK;
}

}  // namespace

extern "C" const TrefoilBackend* trefoil_cpu_backend(void) {
  static const TrefoilBackend backend = {
      TREFOIL_BACKEND_ABI_VERSION, sizeof(TrefoilBackend), "cpu", TREFOIL_BACKEND_HOST_MEMORY,
      device_count, open_device, close_device, device_info,
      allocate, release, copy, copy, copy,
      find_op, op_name, workspace_bytes, launch, synchronize,
      nullptr, nullptr, nullptr, nullptr};
  return &backend;
}
