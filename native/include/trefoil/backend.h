// The C ABI between the runtime and a backend. No C++ type and no exception crosses it.
// A backend is a table of functions; `trefoil_backend()` returns it. CPU is linked in, CUDA is opened at run time.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TREFOIL_BACKEND_ABI_VERSION 3u
#define TREFOIL_MAX_RANK 6

// Values are part of the ABI and of packages/core/src/tensor/dtype.ts.
typedef enum TrefoilDtype {
  TREFOIL_F32 = 0,
  TREFOIL_I32 = 1,
  TREFOIL_BF16 = 2,  // storage only: kernels widen to f32
  TREFOIL_U8 = 3,
} TrefoilDtype;

// A dense row-major tensor. data == NULL: an optional input that is absent, or an output nobody reads.
typedef struct TrefoilView {
  void* data;
  int64_t shape[TREFOIL_MAX_RANK];
  int32_t rank;
  int32_t dtype;
} TrefoilView;

typedef enum TrefoilCode {
  TREFOIL_OK = 0,
  TREFOIL_INVALID_ARGUMENT = 1,  // shapes, dtypes or attributes that the op does not accept
  TREFOIL_INDEX_OUT_OF_RANGE = 2,
  TREFOIL_UNSUPPORTED_OP = 3,
  TREFOIL_OUT_OF_MEMORY = 4,
  TREFOIL_DEVICE_UNAVAILABLE = 5,
  TREFOIL_NON_FINITE = 6,
  TREFOIL_INTERNAL = 7,
} TrefoilCode;

typedef struct TrefoilStatus {
  int32_t code;
  char message[500];
} TrefoilStatus;

// One instruction: dense views, and numeric attributes in the order that docs/ops.md gives for the op.
typedef struct TrefoilLaunch {
  const TrefoilView* inputs;
  int32_t input_count;
  const TrefoilView* outputs;
  int32_t output_count;
  const double* attributes;
  int32_t attribute_count;
  uint32_t constant_inputs;  // bit i: nothing in the program writes input i, which may be read before the launches before this one end
  void* workspace;  // 64-byte aligned, as many bytes as workspace_bytes() asked for
  size_t workspace_bytes;
} TrefoilLaunch;

typedef struct TrefoilDevice TrefoilDevice;

typedef struct TrefoilDeviceOptions {
  int32_t index;
  int32_t threads;   // 0: TREFOIL_THREADS, else the cores this process may use
  const char* isa;   // NULL: TREFOIL_ISA, else the best; "scalar", "avx2", "avx512", "neon"
  const char* precision;  // of matrix products: "f32", "bf16-products" or, on CUDA, "bf16" (the same to kernels). NULL: TREFOIL_PRECISION, else "f32", on CUDA "bf16"
} TrefoilDeviceOptions;

typedef struct TrefoilDeviceInfo {
  char name[128];
  char isa[32];
  int32_t threads;
} TrefoilDeviceInfo;

// TrefoilBackend.flags. HOST_MEMORY: the host may read and write what allocate() returns.
#define TREFOIL_BACKEND_HOST_MEMORY 1u

typedef struct TrefoilBackend {
  uint32_t abi_version;
  uint32_t struct_size;
  const char* name;
  uint32_t flags;
  int32_t (*device_count)(TrefoilStatus* status);  // 0 with a reason in status where it cannot run
  TrefoilDevice* (*open_device)(const TrefoilDeviceOptions* options, TrefoilStatus* status);  // NULL on failure
  void (*close_device)(TrefoilDevice* device);
  void (*device_info)(TrefoilDevice* device, TrefoilDeviceInfo* info);
  void* (*allocate)(TrefoilDevice* device, size_t bytes);  // 64-byte aligned, zeroed; NULL when out of memory; any thread
  void (*release)(TrefoilDevice* device, void* pointer);   // any thread
  int32_t (*copy_in)(TrefoilDevice* device, void* to, const void* host, size_t bytes, TrefoilStatus* status);
  int32_t (*copy_out)(TrefoilDevice* device, void* host, const void* from, size_t bytes, TrefoilStatus* status);
  int32_t (*copy)(TrefoilDevice* device, void* to, const void* from, size_t bytes, TrefoilStatus* status);
  int32_t (*find_op)(const char* name);  // -1: this backend lacks it
  const char* (*op_name)(int32_t op);    // NULL past the last op: lists every op of the backend
  // Any thread. Data pointers are NULL where absent, else a mark that may not be followed.
  size_t (*workspace_bytes)(TrefoilDevice* device, int32_t op, const TrefoilLaunch* launch);
  int32_t (*launch)(TrefoilDevice* device, int32_t op, const TrefoilLaunch* launch, TrefoilStatus* status);
  int32_t (*synchronize)(TrefoilDevice* device, TrefoilStatus* status);
  // Optional (NULL): record the launches between begin and end once, then replay them.
  int32_t (*capture_begin)(TrefoilDevice* device, TrefoilStatus* status);
  void* (*capture_end)(TrefoilDevice* device, TrefoilStatus* status);
  int32_t (*replay)(TrefoilDevice* device, void* graph, TrefoilStatus* status);
  void (*release_graph)(TrefoilDevice* device, void* graph);
} TrefoilBackend;

typedef const TrefoilBackend* (*TrefoilBackendEntry)(void);

#ifdef __cplusplus
}
#endif
