// One run of a program: bound on the caller's thread, executed in the device's order.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/buffer.h"
#include "runtime/program.h"

namespace trefoil::runtime {

// Added together; the numbers are `runFlags` of native/addon.ts.
enum RunFlag : uint32_t { kCheckFinite = 1, kProfile = 2, kFailNext = 4 };

class Run final : public Job {
 public:
  Run() : Job(nullptr) {}

  // Every input and output once, in order. Each throws TREFOIL_INVALID_ARGUMENT if the size or device does not fit;
  // a buffer may be larger than the value.
  void input(std::shared_ptr<Buffer> buffer);
  void input(const void* host, size_t bytes);
  void output(std::shared_ptr<Buffer> buffer);
  void output_to_host(size_t bytes);
  // Copies the host inputs: their memory is the caller's again. On a device with memory of its own they set out at once, beside the runs
  // before this one. Throws if inputs or outputs are missing.
  void seal();

  void execute() override;

  // Empty for an output that goes to a buffer. Gone after recycle().
  std::span<const std::byte> output(size_t index) const override;
  Program& program() const { return *program_; }

 private:
  friend class Program;
  struct Binding {
    std::shared_ptr<Buffer> buffer;  // null: host
    const void* host = nullptr;      // inputs, until seal()
    size_t offset = 0;               // in staging
  };

  void reset(std::shared_ptr<Program> program, uint32_t flags, std::shared_ptr<Completions> completions);
  std::shared_ptr<Program> release();
  size_t place(size_t bytes);
  void execute_now();
  bool early() const;  // host inputs are copied by seal()
  void bind_inputs();
  bool replay();  // false: nothing was launched
  void record(Program::Graph& graph);
  void launch_all();
  void check_finite(size_t number);
  void deliver_outputs();
  void* output_pointer(size_t index) const;

  // Before what is allocated from its device. Null while the run is idle: the program then owns the run.
  std::shared_ptr<Program> program_;
  uint32_t flags_ = 0;
  std::vector<Binding> inputs_, outputs_;
  size_t staged_bytes_ = 0, input_bytes_ = 0;  // input_bytes_: those from the host
  HostBlock staging_;        // host inputs and outputs
  Block device_staging_;     // their copy, where the device cannot read host memory
};

}  // namespace trefoil::runtime
