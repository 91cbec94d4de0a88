// Programs on a device of the runtime: values, and a bench that runs them.
#pragma once
#include <condition_variable>
#include <cstring>
#include <deque>

#include "harness.h"
#include "runtime/program.h"
#include "runtime/run.h"
#include "toy_backend.h"

namespace trefoil::test::runtime_bench {

using namespace trefoil::runtime;
using trefoil::runtime::Device;

class Inbox : public Completions {
 public:
  void complete(std::unique_ptr<Job> job) override {
    std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
    arrived_.notify_one();
  }
  std::unique_ptr<Job> wait() {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [this] { return !jobs_.empty(); });
    std::unique_ptr<Job> job = std::move(jobs_.front());
    jobs_.pop_front();
    return job;
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<std::unique_ptr<Job>> jobs_;
};

inline ValueSpec value(std::vector<int64_t> shape, ValueKind kind = ValueKind::temporary, int64_t index = -1) {
  ValueSpec spec;
  spec.shape = std::move(shape);
  spec.kind = kind;
  spec.index = index;
  return spec;
}
inline ValueSpec state(std::vector<int64_t> shape, std::shared_ptr<Buffer> buffer) {
  ValueSpec spec = value(std::move(shape), ValueKind::state);
  spec.buffer = std::move(buffer);
  return spec;
}
inline ValueSpec constant(const std::vector<float>& data) {
  ValueSpec spec = value({static_cast<int64_t>(data.size())}, ValueKind::constant);
  spec.data = data.data();
  spec.data_bytes = data.size() * sizeof(float);
  return spec;
}
inline ValueSpec alias_of(int64_t other, std::vector<int64_t> shape) {
  ValueSpec spec = value(std::move(shape));
  spec.alias = other;
  return spec;
}

inline std::vector<float> floats(std::span<const std::byte> bytes) {
  std::vector<float> result(bytes.size() / sizeof(float));
  if (!result.empty()) std::memcpy(result.data(), bytes.data(), bytes.size());
  return result;
}

struct Bench {
  std::shared_ptr<Device> device;
  std::shared_ptr<Inbox> inbox = std::make_shared<Inbox>();
  explicit Bench(bool host_memory = true) : Bench(open_toy_device(host_memory)) {}
  explicit Bench(std::shared_ptr<Device> device) : device(std::move(device)) {}

  std::shared_ptr<Buffer> buffer(const std::vector<float>& data) {
    auto result = std::make_shared<Buffer>(device, data.size() * sizeof(float));
    write(result, data);
    device->executor().submit(std::make_unique<SynchronizeJob>(device, inbox));
    while (!dynamic_cast<SynchronizeJob*>(inbox->wait().get())) {
    }
    return result;
  }
  bool write(const std::shared_ptr<Buffer>& buffer, const std::vector<float>& data) {
    check_whole(*buffer, data.size() * sizeof(float));
    if (write_if_idle(*buffer, data.data())) return false;
    device->executor().submit(std::make_unique<WriteJob>(buffer, data.data(), inbox));
    return true;
  }
  std::vector<float> read(const std::shared_ptr<Buffer>& buffer) {
    device->executor().submit(std::make_unique<ReadJob>(buffer, inbox));
    std::unique_ptr<Job> job = inbox->wait();
    if (job->error) std::rethrow_exception(job->error);
    return floats(job->output(0));
  }
  void submit(Program& program, const std::vector<std::vector<float>>& inputs, uint32_t flags = 0) {
    std::unique_ptr<Run> run = program.prepare(flags, inbox);
    for (auto& input : inputs) run->input(input.data(), input.size() * sizeof(float));
    for (size_t i = 0; i < program.output_count(); ++i) run->output_to_host(program.output_bytes(i));
    run->seal();
    device->executor().submit(std::move(run));
  }
  std::vector<std::vector<float>> collect() {
    std::unique_ptr<Job> job = inbox->wait();
    std::unique_ptr<Run> run(static_cast<Run*>(job.release()));
    std::exception_ptr error = run->error;
    std::vector<std::vector<float>> outputs;
    for (size_t i = 0; !error && i < run->program().output_count(); ++i) outputs.push_back(floats(run->output(i)));
    Program::recycle(std::move(run));
    if (error) std::rethrow_exception(error);
    return outputs;
  }
  std::vector<std::vector<float>> call(Program& program, const std::vector<std::vector<float>>& inputs, uint32_t flags = 0) {
    submit(program, inputs, flags);
    return collect();
  }
};

}  // namespace trefoil::test::runtime_bench
