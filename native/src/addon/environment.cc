#include "addon/environment.h"

#include <cstring>

#include "runtime/run.h"

namespace trefoil::addon {

using runtime::Job;

void Inbox::complete(std::unique_ptr<Job> job) {
  std::lock_guard lock(mutex_);
  finished_.push_back(std::move(job));
  --under_way_;
  if (closed_)
    finished_one_.notify_all();
  else if (finished_.size() == 1)  // else a wake-up is on its way already
    napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
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

Environment::Environment(napi_env env) : env_(env) {
  check(env, napi_create_threadsafe_function(env, nullptr, nullptr, make_string(env, "trefoil"), 0, 1, nullptr, nullptr, this, on_wake, &wake_));
  check(env, napi_unref_threadsafe_function(env, wake_));
  inbox_ = std::make_shared<Inbox>(wake_);
}

Environment& Environment::create(napi_env env) {
  auto environment = std::unique_ptr<Environment>(new Environment(env));
  // Cleanup hooks run last in, first out: this one before the thread-safe function's own, while it may still be called.
  check(env, napi_add_env_cleanup_hook(env, cleanup, environment.get()));
  check(env, napi_set_instance_data(env, environment.get(), [](napi_env, void* data, void*) { delete static_cast<Environment*>(data); }, nullptr));
  return *environment.release();
}

Environment& Environment::of(napi_env env) {
  void* data = nullptr;
  check(env, napi_get_instance_data(env, &data));
  return *static_cast<Environment*>(data);
}

void Environment::cleanup(void* data) {
  auto& environment = *static_cast<Environment*>(data);
  environment.inbox_->close();
  environment.programs.clear();
  environment.buffers.clear();
  environment.files.clear();
  environment.devices.clear();
}

void Environment::submit_unawaited(runtime::Device& device, std::unique_ptr<Job> job) {
  inbox_->expect();
  if (pending_++ == 0) napi_ref_threadsafe_function(env_, wake_);
  device.executor().submit(std::move(job));
}

napi_value Environment::submit(runtime::Device& device, std::unique_ptr<Job> job, const napi_value* targets, size_t target_count) {
  for (size_t i = 0; i < target_count; ++i) {
    napi_ref reference = nullptr;
    if (targets[i]) check(env_, napi_create_reference(env_, targets[i], 1, &reference));
    job->targets.push_back(reference);
  }
  napi_deferred deferred;
  napi_value promise;
  check(env_, napi_create_promise(env_, &deferred, &promise));
  job->promise = deferred;
  submit_unawaited(device, std::move(job));
  return promise;
}

void Environment::on_wake(napi_env env, napi_value, void* context, void*) {
  if (!env) return;  // the environment is ending
  auto& environment = *static_cast<Environment*>(context);
  environment.inbox_->take(environment.arrived_);
  for (std::unique_ptr<Job>& job : environment.arrived_) {
    napi_handle_scope scope;
    if (napi_open_handle_scope(env, &scope) != napi_ok) break;
    environment.settle(std::move(job));
    napi_close_handle_scope(env, scope);
  }
  environment.pending_ -= environment.arrived_.size();
  environment.arrived_.clear();
  if (environment.pending_ == 0) napi_unref_threadsafe_function(env, environment.wake_);
}

void Environment::settle(std::unique_ptr<Job> job) {
  auto deferred = static_cast<napi_deferred>(job->promise);
  try {
    if (!job->error) {
      try {
        fill_targets(*job);
      } catch (const PendingException&) {
        throw;
      } catch (...) {
        job->error = std::current_exception();
      }
    }
    for (void* target : job->targets)
      if (target) napi_delete_reference(env_, static_cast<napi_ref>(target));
    if (deferred && job->error) {
      check(env_, napi_reject_deferred(env_, deferred, make_error(env_, job->error)));
    } else if (deferred) {
      napi_value undefined;
      check(env_, napi_get_undefined(env_, &undefined));
      check(env_, napi_resolve_deferred(env_, deferred, undefined));
    }
  } catch (...) {
    // JavaScript can no longer run here: a Worker is being terminated, and nobody waits for the promise.
  }
  if (auto* run = dynamic_cast<runtime::Run*>(job.get())) {
    job.release();
    runtime::Program::recycle(std::unique_ptr<runtime::Run>(run));
  }
}

void Environment::fill_targets(const Job& job) {
  for (size_t i = 0; i < job.targets.size(); ++i) {
    if (!job.targets[i]) continue;
    std::span<const std::byte> source = job.output(i);
    napi_value array;
    check(env_, napi_get_reference_value(env_, static_cast<napi_ref>(job.targets[i]), &array));
    Bytes bytes = to_bytes(env_, array, "output");
    if (bytes.size != source.size())
      runtime::fail(TREFOIL_INVALID_ARGUMENT, "output %zu was detached or resized while it was awaited: %zu bytes are left of %zu", i,
                    bytes.size, source.size());
    if (bytes.size) std::memcpy(bytes.data, source.data(), bytes.size);
  }
}

}  // namespace trefoil::addon
