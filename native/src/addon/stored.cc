// Work on stored weights, on libuv's threads as file reads and writes are: it overlaps with them, and with the event loop.
#include <functional>

#include "addon/entry.h"
#include "runtime/stored.h"

namespace trefoil::addon {

namespace {

// Settles a promise with a Float64Array of what `compute` returns. Holds on to the arrays that it reads and writes.
class StoredWork : public Napi::AsyncWorker {
 public:
  using Compute = std::function<std::vector<double>()>;

  static Napi::Value start(Napi::Env env, Napi::Array held, Compute compute) {
    auto* work = new StoredWork(env, held, std::move(compute));  // deletes itself when it is done
    Napi::Value promise = work->promise_.Promise();
    work->Queue();
    return promise;
  }

 private:
  StoredWork(Napi::Env env, Napi::Array held, Compute compute)
      : Napi::AsyncWorker(env, "trefoil"), promise_(env), held_(Napi::Persistent(held)), compute_(std::move(compute)) {}

  void Execute() override { numbers_ = compute_(); }
  void OnOK() override {
    auto result = Napi::Float64Array::New(Env(), numbers_.size());
    for (size_t i = 0; i < numbers_.size(); ++i) result[i] = numbers_[i];
    promise_.Resolve(result);
  }
  void OnError(const Napi::Error& error) override { promise_.Reject(error.Value()); }

  Napi::Promise::Deferred promise_;
  Napi::Reference<Napi::Array> held_;
  Compute compute_;
  std::vector<double> numbers_;
};

runtime::StoredDtype to_dtype(Napi::Value value) { return runtime::stored_dtype(to_string(value, "a dtype")); }

Napi::Value weighted_mean(const Call& call, Environment&) {
  Napi::Array arrays = to_array(call[0], "sources"), dtypes = to_array(call[1], "dtypes");
  std::vector<double> weights = to_numbers(call[2], "weights");
  if (arrays.Length() == 0 || dtypes.Length() != arrays.Length() || weights.size() != arrays.Length())
    runtime::fail(TREFOIL_INVALID_ARGUMENT, "%u sources have %u dtypes and %zu weights: give one of each, of at least one source",
                  arrays.Length(), dtypes.Length(), weights.size());
  auto held = Napi::Array::New(call.Env());
  std::vector<runtime::StoredSource> sources;
  size_t count = 0;
  for (uint32_t i = 0; i < arrays.Length(); ++i) {
    Napi::Value array = arrays.Get(i);
    std::span<std::byte> bytes = to_bytes(array, "a source");
    runtime::StoredDtype dtype = to_dtype(dtypes.Get(i));
    size_t elements = bytes.size() / runtime::stored_bytes(dtype);
    if (i == 0) count = elements;
    if (elements != count || bytes.size() % runtime::stored_bytes(dtype) != 0)
      runtime::fail(TREFOIL_INVALID_ARGUMENT, "source %u has %zu bytes, which are not the %zu elements of the first", i, bytes.size(), count);
    sources.push_back({bytes.data(), dtype, weights[i]});
    held.Set(i, array);
  }
  std::byte* target = nullptr;
  auto dtype = runtime::StoredDtype::f32;
  if (!call[3].IsUndefined()) {
    std::span<std::byte> bytes = to_bytes(call[3], "target");
    dtype = to_dtype(call[4]);
    if (bytes.size() != count * runtime::stored_bytes(dtype))
      runtime::fail(TREFOIL_INVALID_ARGUMENT, "the target has %zu bytes for %zu elements", bytes.size(), count);
    target = bytes.data();
    held.Set(arrays.Length(), call[3]);
  }
  return StoredWork::start(call.Env(), held, [sources = std::move(sources), count, target, dtype] {
    runtime::StoredMean mean = runtime::weighted_mean(sources, count, target, dtype);
    std::vector<double> numbers{mean.overflow ? 1.0 : 0.0, mean.squared_norm};
    numbers.insert(numbers.end(), mean.squared_distances.begin(), mean.squared_distances.end());
    return numbers;
  });
}

Napi::Value checksum(const Call& call, Environment&) {
  std::span<std::byte> bytes = to_bytes(call[0], "bytes");
  auto held = Napi::Array::New(call.Env());
  held.Set(0u, call[0]);
  // The 53 bits that a number holds.
  return StoredWork::start(call.Env(), held,
                           [bytes] { return std::vector<double>{static_cast<double>(runtime::checksum(bytes) >> 11)}; });
}

}  // namespace

void define_stored(Napi::Object exports) {
  define<weighted_mean>(exports, "weightedMean");
  define<checksum>(exports, "checksum");
}

}  // namespace trefoil::addon
