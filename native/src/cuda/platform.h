// The few calls of the CUDA runtime that the backend makes, behind functions that the emulator also has. Each throws KernelError.
#pragma once
#include <cstddef>
#include <string>

namespace trefoil::cuda::platform {

using Stream = struct StreamHandle*;  // cudaStream_t, or the emulator's
using Graph = struct GraphHandle*;

struct Properties {
  std::string name;
  int capability;  // 10 * major + minor; 0 emulated
  int multiprocessors;
  size_t shared_limit;  // bytes a block may ask for
};

const char* backend_name();
int device_count(std::string& reason);  // 0 with the driver's reason
Properties properties(int index);
void select(int index);  // for the calling thread
void check_code();  // throws where the library holds no code for the selected device
bool has_hopper_code();  // on the selected device code runs that has wgmma and the copy engine (sm_90a)

Stream create_stream();
Stream create_copy_stream();  // for copies between host and device alone
void destroy_stream(Stream stream);
void synchronize(Stream stream);

void* allocate(size_t bytes);  // zeroed; null when out of memory
void release(void* pointer);
void* allocate_pinned(size_t bytes);  // host memory that copies reach without a stop; throws
void release_pinned(void* pointer);
void copy_in(Stream stream, void* to, const void* host, size_t bytes);
void copy_out(Stream stream, void* host, const void* from, size_t bytes);
void copy(Stream stream, void* to, const void* from, size_t bytes);
void fill_zero(Stream stream, void* to, size_t bytes);

// What is launched on the stream between begin and end is recorded, not run.
void capture_begin(Stream stream);
Graph capture_end(Stream stream);
void replay(Stream stream, Graph graph);
void release_graph(Graph graph);

}  // namespace trefoil::cuda::platform
