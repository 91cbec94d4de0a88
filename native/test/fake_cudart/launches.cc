#include "launches.h"

#include <cxxabi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <tuple>

#include "device.h"
#include "memory.h"

namespace fake_cudart {

namespace {

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

std::string demangled(const std::string& name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), std::free);
  return status == 0 ? text.get() : name;
}

template <class... Values>
std::string text(const char* format, Values... values) {
  char message[300];
  std::snprintf(message, sizeof message, format, values...);
  return message;
}

struct Seen {
  unsigned long long launches = 0, early = 0, most_blocks = 0;
  unsigned resident = 0;
};
struct Report {
  std::mutex mutex;
  unsigned long long launches = 0, replayed = 0;
  std::map<std::tuple<const Kernel*, unsigned, size_t, unsigned>, Seen> shapes;  // by kernel, threads, dynamic shared memory, cluster
  std::set<std::string> wrong;
};
Report& report() {
  static Report& all = *new Report;
  return all;
}

std::string escaped(const std::string& value) {
  std::string result;
  for (char c : value) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result;
}

}  // namespace

// Registers are given to warps in units of 256.
unsigned blocks_per_multiprocessor(const KernelCode& code, unsigned threads, size_t shared_bytes) {
  const Device& played = device();
  const unsigned warps = (threads + 31) / 32;
  const unsigned by_registers = kRegistersPerMultiprocessor / static_cast<unsigned>(round_up(static_cast<size_t>(code.registers) * 32, 256)) / warps;
  const auto by_shared = static_cast<unsigned>(played.shared_per_multiprocessor / round_up(code.shared_bytes + shared_bytes + kReservedShared, 128));
  return std::min({by_registers, by_shared, played.threads_per_multiprocessor / (warps * 32), played.blocks_per_multiprocessor});
}

std::string refusal(const Launch& launch) {
  const Device& played = device();
  const Kernel& kernel = *launch.kernel;
  const unsigned long long threads = launch.block.blocks();
  if (launch.grid.blocks() == 0 || launch.grid.x > 0x7fffffffu || launch.grid.y > 65535 || launch.grid.z > 65535)
    return text("a grid of %u x %u x %u", launch.grid.x, launch.grid.y, launch.grid.z);
  if (threads == 0 || threads > 1024 || launch.block.z > 64) return text("a block of %llu threads", threads);
  if (kernel.code.max_threads && threads > kernel.code.max_threads) return text("%llu threads, where the kernel was compiled for %u", threads, kernel.code.max_threads);
  const size_t shared = kernel.code.shared_bytes + launch.shared_bytes;
  if (shared > played.shared_per_block) return text("%zu bytes of shared memory (%zu its own) of %zu", shared, kernel.code.shared_bytes, played.shared_per_block);
  if (launch.shared_bytes > kernel.allowed_shared) return text("%zu bytes of dynamic shared memory, where the kernel is allowed %zu", launch.shared_bytes, kernel.allowed_shared);
  if (launch.cluster > 1 && played.capability < 90) return "clusters before compute capability 9.0";
  if (launch.early && played.capability < 90) return "programmatic dependent launch before compute capability 9.0";
  if (launch.cluster > 8 || launch.grid.x % launch.cluster) return text("clusters of %u in a grid of %u blocks", launch.cluster, launch.grid.x);
  if (blocks_per_multiprocessor(kernel.code, static_cast<unsigned>(threads), launch.shared_bytes) == 0) return text("%llu threads of %d registers, or %zu bytes of shared memory", threads, kernel.code.registers, shared);
  return "";
}

// Words that look like device memory: pointers, alone and within structs, and the address at the start of a tensor map.
void find_pointers(Launch& launch, void** arguments) {
  const auto& parameters = launch.kernel->code.parameters;
  for (size_t i = 0; i < parameters.size(); ++i)
    for (size_t at = 0; at + 8 <= parameters[i].bytes; at += 8) {
      uintptr_t word;
      std::memcpy(&word, static_cast<const char*>(arguments[i]) + at, 8);
      if (of_device(word)) launch.pointers.push_back(word);
    }
}

std::string dangling(const Launch& launch) {
  for (const uintptr_t pointer : launch.pointers)
    if (was_freed(pointer)) return text("an argument, %p, is memory that was freed", reinterpret_cast<void*>(pointer));
  return "";
}

void count(const Launch& launch, bool replayed) {
  Report& all = report();
  const auto threads = static_cast<unsigned>(launch.block.blocks());
  std::lock_guard lock(all.mutex);
  ++(replayed ? all.replayed : all.launches);
  Seen& seen = all.shapes[{launch.kernel, threads, launch.shared_bytes, launch.cluster}];
  ++seen.launches;
  seen.early += launch.early;
  seen.most_blocks = std::max(seen.most_blocks, launch.grid.blocks());
  if (!seen.resident) seen.resident = blocks_per_multiprocessor(launch.kernel->code, threads, launch.shared_bytes);
}

void report_wrong(const std::string& what) {
  Report& all = report();
  std::lock_guard lock(all.mutex);
  if (all.wrong.insert(what).second) std::fprintf(stderr, "fake cudart: %s\n", what.c_str());
}

// A line of JSON: the process has ended, or becomes another one.
void write_report(const std::vector<const Kernel*>& kernels) {
  const char* path = std::getenv("TREFOIL_FAKE_CUDART_REPORT");
  if (!path) return;
  Report& all = report();
  std::lock_guard lock(all.mutex);
  std::string line = text("{\"device\": \"%s\", \"launches\": %llu, \"replayed\": %llu, \"peak_bytes\": %zu, \"wrong\": [", device().key, all.launches, all.replayed, most_device_bytes());
  const char* separator = "";
  for (const std::string& wrong : all.wrong) {
    line += separator + ('"' + escaped(wrong) + '"');
    separator = ", ";
  }
  line += "], \"idle\": [";
  separator = "";
  for (const Kernel* kernel : kernels) {
    if (std::any_of(all.shapes.begin(), all.shapes.end(), [&](const auto& shape) { return std::get<0>(shape.first) == kernel; })) continue;
    line += separator + ('"' + escaped(demangled(kernel->name)) + '"');
    separator = ", ";
  }
  line += "], \"kernels\": [";
  separator = "";
  for (const auto& [shape, seen] : all.shapes) {
    const auto& [kernel, threads, shared, cluster] = shape;
    line += separator + ("{\"name\": \"" + escaped(demangled(kernel->name)) + '"') +
            text(", \"threads\": %u, \"registers\": %d, \"shared\": %zu, \"cluster\": %u, \"blocks\": %llu, \"resident\": %u, \"launches\": %llu, \"early\": %llu}", threads, kernel->code.registers,
                 kernel->code.shared_bytes + shared, cluster, seen.most_blocks, seen.resident, seen.launches, seen.early);
    separator = ", ";
  }
  line += "]}\n";
  if (FILE* file = std::fopen(path, "a")) {
    std::fwrite(line.data(), 1, line.size(), file);
    std::fclose(file);
  }
}

}  // namespace fake_cudart
