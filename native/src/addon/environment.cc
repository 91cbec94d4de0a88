#include "addon/environment.h"

#include <cstring>

#include "runtime/run.h"

namespace trefoil::addon {

using runtime::Job;

namespace {

// What JavaScript awaits of a job: kept with it, and destroyed on the JavaScript thread.
struct Awaited {
  Napi::Promise::Deferred promise;
  std::vector<Napi::Reference<Napi::Value>> targets;  // empty ones for outputs that go to buffers
};

void fill_targets(const Job& job, const Awaited& awaited) {
  for (size_t i = 0; i < awaited.targets.size(); ++i) {
    if (awaited.targets[i].IsEmpty()) continue;
    std::span<const std::byte> source = job.output(i);
    std::span<std::byte> target = to_bytes(awaited.targets[i].Value(), "output");
    if (target.size() != source.size())
      runtime::fail(TREFOIL_INVALID_ARGUMENT, "output %zu was detached or resized while it was awaited: %zu bytes are left of %zu", i,
                    target.size(), source.size());
    if (!target.empty()) std::memcpy(target.data(), source.data(), target.size());
  }
}

}  // namespace

void Inbox::complete(std::unique_ptr<Job> job) {
  std::lock_guard lock(mutex_);
  finished_.push_back(std::move(job));
  --under_way_;
  if (closed_)
    finished_one_.notify_all();
  else if (finished_.size() == 1)  // else a wake-up is on its way already
    wake_.NonBlockingCall();
}

void Inbox::expect() {
  std::lock_guard lock(mutex_);
  ++under_way_;
}

void Inbox::take(std::vector<std::unique_ptr<Job>>& jobs) {
  std::lock_guard lock(mutex_);
  jobs.swap(finished_);
}

void Inbox::close() {
  cancelled = true;
  std::vector<std::unique_ptr<Job>> jobs;
  std::unique_lock lock(mutex_);
  closed_ = true;
  finished_one_.wait(lock, [this] { return under_way_ == 0; });
  jobs.swap(finished_);
  lock.unlock();  // the jobs go without the lock: they may take a device with them
}

Environment::Environment(Napi::Env env)
    : env_(env), wake_(Wake::New(env, "trefoil", 0, 1, this)), inbox_(std::make_shared<Inbox>(wake_)) {
  wake_.Unref(env);
}

void Environment::create(Napi::Env env) {
  auto environment = std::unique_ptr<Environment>(new Environment(env));
  // Cleanup hooks run last in, first out: this one before the thread-safe function's own, while it may still be called.
  env.AddCleanupHook([](Environment* environment) { environment->close(); }, environment.get());
  env.SetInstanceData(environment.release());
}

void Environment::close() {
  inbox_->close();
  programs.clear();
  buffers.clear();
  files.clear();
  devices.clear();
}

void Environment::submit_unawaited(runtime::Device& device, std::unique_ptr<Job> job) {
  inbox_->expect();
  if (pending_++ == 0) wake_.Ref(env_);
  device.executor().submit(std::move(job));
}

// Waking this thread from its event loop takes some 20 microseconds: a short run is over before. Not while earlier runs are to be
// settled, which would be overtaken, and only so often between turns of the event loop, which timers and signals wait for.
bool Environment::run_here(runtime::Device& device, std::unique_ptr<Job>& job) {
  auto* run = dynamic_cast<runtime::Run*>(job.get());
  if (!run || !run->program().is_short() || !device.host_memory() || pending_ > 0 || runs_here_ == kRunsHere) return false;
  const bool idle = device.executor().run_if_idle([&] {
    try {
      job->execute();
    } catch (...) {
      job->error = std::current_exception();
    }
  });
  if (!idle) return false;
  ++runs_here_;
  settle(std::move(job));
  return true;
}

Napi::Value Environment::submit(runtime::Device& device, std::unique_ptr<Job> job, std::span<const Napi::Value> targets) {
  auto awaited = std::make_shared<Awaited>(Napi::Promise::Deferred(env_));
  awaited->targets.reserve(targets.size());
  for (const Napi::Value& target : targets)
    awaited->targets.push_back(target.IsEmpty() ? Napi::Reference<Napi::Value>() : Napi::Reference<Napi::Value>::New(target, 1));
  Napi::Value promise = awaited->promise.Promise();
  job->awaited = std::move(awaited);
  if (!run_here(device, job)) submit_unawaited(device, std::move(job));
  return promise;
}

void settle_arrived(Napi::Env env, Napi::Function, Environment* environment, void*) {
  if (!env) return;  // the environment is ending
  environment->runs_here_ = 0;
  environment->inbox_->take(environment->arrived_);
  for (std::unique_ptr<Job>& job : environment->arrived_) {
    Napi::HandleScope scope(env);
    environment->settle(std::move(job));
  }
  environment->pending_ -= environment->arrived_.size();
  environment->arrived_.clear();
  if (environment->pending_ == 0) environment->wake_.Unref(env);
}

void Environment::settle(std::unique_ptr<Job> job) {
  try {
    if (auto awaited = std::static_pointer_cast<Awaited>(std::move(job->awaited))) {
      try {
        if (!job->error) fill_targets(*job, *awaited);
      } catch (const runtime::Error&) {
        job->error = std::current_exception();
      }
      if (job->error)
        awaited->promise.Reject(to_error(env_, job->error).Value());
      else
        awaited->promise.Resolve(env_.Undefined());
    }
  } catch (...) {
    // JavaScript can no longer run here: a Worker is being terminated, and nobody waits for the promise.
  }
  if (auto* run = dynamic_cast<runtime::Run*>(job.get())) {
    job.release();
    runtime::Program::recycle(std::unique_ptr<runtime::Run>(run));
  }
}

}  // namespace trefoil::addon
