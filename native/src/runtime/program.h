// A checked, planned program: every view and launch is made once, so a run patches input pointers and launches.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/device.h"
#include "runtime/spec.h"
#include "trefoil/backend.h"

namespace trefoil::runtime {

class Run;

struct ProgramInfo {
  size_t arena_bytes;      // what the plan needs
  size_t workspace_bytes;  // the largest of any one instruction; part of the arena
  size_t temporary_bytes;  // of all temporaries, as if none shared memory
};

class Program : public std::enable_shared_from_this<Program> {
 public:
  // Throws TREFOIL_INVALID_ARGUMENT for a spec that makes no sense and TREFOIL_UNSUPPORTED_OP for an op the backend lacks.
  static std::shared_ptr<Program> create(std::shared_ptr<Device> device, const ProgramSpec& spec);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // A run to bind, seal and submit. Give it back with recycle() when its outputs are read: its memory is used again.
  std::unique_ptr<Run> prepare(uint32_t flags, std::shared_ptr<Completions> completions);
  static void recycle(std::unique_ptr<Run> run);

  Device& device() const { return *device_; }
  const ProgramInfo& info() const { return info_; }
  size_t input_count() const { return input_bytes_.size(); }
  size_t input_bytes(size_t index) const { return input_bytes_[index]; }
  size_t output_count() const { return outputs_.size(); }
  size_t output_bytes(size_t index) const { return outputs_[index].bytes; }
  // The last run took less time than waking a thread that waits for it: rather run it on the thread that asks.
  bool is_short() const { return last_nanoseconds_.load(std::memory_order_relaxed) < kShortNanoseconds; }
  // Recorded so far: see Run::replay.
  size_t graph_count() const;
  // Nanoseconds per instruction, over the runs with the profile flag.
  std::vector<int64_t> profile() const;

 private:
  friend class Run;
  explicit Program(std::shared_ptr<Device> device);
  void build(const ProgramSpec& spec);
  void add_instruction(const ProgramSpec& spec, const Resolved& resolved, size_t number);
  void place(const ProgramSpec& spec, const Resolved& resolved);
  void upload_constants(const ProgramSpec& spec, const Resolved& resolved);
  void mark_constant_inputs();
  void bind_arena();

  // Where a view finds its memory. Offsets count from the arena; input numbers from 0.
  enum class Place : uint8_t { absent, fixed, arena, input };
  struct ViewSource {
    Place place = Place::absent;
    void* pointer = nullptr;
    size_t position = 0;
  };
  struct Instruction {
    std::string op;
    int32_t id;
    size_t workspace_offset;
    TrefoilLaunch launch;
  };
  struct Output {
    ViewSource source;
    size_t bytes;
  };

  // The launches of a run, recorded by the backend for one set of addresses: the arena, then the inputs.
  struct Graph {
    std::vector<void*> addresses;
    void* recorded = nullptr;  // not before the second run with these addresses
    uint64_t last_run = 0;
  };

  // Never 0: a program of empty tensors still needs an address that is not NULL, which would say "absent".
  size_t arena_request() const { return info_.arena_bytes ? info_.arena_bytes : 64; }
  ViewSource source_of(const ProgramSpec& spec, const Resolved& resolved, int64_t value) const;

  std::shared_ptr<Device> device_;
  ProgramInfo info_{};
  std::vector<std::shared_ptr<Buffer>> states_;
  Block constants_;
  std::vector<size_t> constant_offsets_;  // by value number; only while building
  std::vector<size_t> arena_offsets_;     // by value number; only while building

  std::vector<Instruction> instructions_;
  std::vector<TrefoilView> views_;
  std::vector<ViewSource> sources_;  // of each view
  std::vector<double> attributes_;
  std::vector<size_t> input_bytes_;
  std::vector<std::vector<uint32_t>> input_views_;  // by input: the views to patch
  std::vector<void*> input_pointers_;               // patched last
  std::vector<Output> outputs_;
  std::byte* arena_ = nullptr;  // the views point into this one
  bool has_run_ = false;

  std::vector<Graph> graphs_;  // executor thread; at most kGraphs, the one longest unused makes room
  uint64_t run_count_ = 0;
  bool recordable_;
  std::atomic<size_t> graph_count_{0};
  static constexpr int64_t kShortNanoseconds = 10'000;
  std::atomic<int64_t> last_nanoseconds_{kShortNanoseconds};

  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Run>> idle_runs_;
  std::vector<int64_t> profile_;
};

}  // namespace trefoil::runtime
