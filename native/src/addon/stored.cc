// Work on stored weights, on libuv's threads as file reads and writes are: it overlaps with them, and with the event loop.
#include <functional>

#include "addon/entry.h"
#include "runtime/stored.h"
#include "runtime/stored_files.h"

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

  void Execute() override {
    try {
      numbers_ = compute_();
    } catch (...) {
      failure_ = std::current_exception();
    }
  }
  void OnOK() override {
    if (failure_) return promise_.Reject(error_of(failure_).Value());
    auto result = Napi::Float64Array::New(Env(), numbers_.size());
    for (size_t i = 0; i < numbers_.size(); ++i) result[i] = numbers_[i];
    promise_.Resolve(result);
  }

  Napi::Error error_of(std::exception_ptr failure) {
    Napi::Error error = to_error(Env(), failure);
    try {
      std::rethrow_exception(failure);
    } catch (const runtime::FileError& refused) {
      error.Set("errno", -static_cast<double>(refused.number));
      error.Set("syscall", refused.call);
    } catch (...) {
    }
    return error;
  }

  Napi::Promise::Deferred promise_;
  Napi::Reference<Napi::Array> held_;
  Compute compute_;
  std::vector<double> numbers_;
  std::exception_ptr failure_;
};

std::vector<runtime::FilePlace> to_places(Napi::Value descriptors, Napi::Value positions, size_t count) {
  Napi::Array files = to_array(descriptors, "descriptors"), offsets = to_array(positions, "positions");
  if (count == 0 || files.Length() != count || offsets.Length() != count)
    runtime::fail(TREFOIL_INVALID_ARGUMENT, "%zu pieces have %u descriptors and %u positions: give one of each, of at least one piece", count,
                  files.Length(), offsets.Length());
  std::vector<runtime::FilePlace> places(count);
  for (uint32_t i = 0; i < count; ++i) places[i] = {to_int32(files.Get(i), "a descriptor"), to_size(offsets.Get(i), "a position")};
  return places;
}

// The 53 bits that a number holds.
double to_number(uint64_t sum) { return static_cast<double>(sum >> 11); }

runtime::StoredDtype to_dtype(Napi::Value value) { return runtime::stored_dtype(to_string(value, "a dtype")); }

Napi::Value weighted_mean(const Call& call, Environment&) {
  std::vector<Napi::Value> arrays = to_operands(call[0], "sources", false);
  std::vector<runtime::StoredDtype> dtypes;
  for_each_element(to_array(call[1], "dtypes"), [&](Napi::Value element, uint32_t) { dtypes.push_back(to_dtype(element)); });
  std::vector<double> weights = to_numbers(call[2], "weights");
  if (arrays.empty() || dtypes.size() != arrays.size() || weights.size() != arrays.size())
    runtime::fail(TREFOIL_INVALID_ARGUMENT, "%zu sources have %zu dtypes and %zu weights: give one of each, of at least one source",
                  arrays.size(), dtypes.size(), weights.size());
  std::vector<runtime::FilePlace> files;
  if (!call[5].IsUndefined()) files = to_places(call[5], call[6], arrays.size());
  auto held = Napi::Array::New(call.Env());
  std::vector<runtime::StoredSource> sources;
  std::vector<std::byte*> buffers;
  size_t count = 0;
  for (uint32_t i = 0; i < arrays.size(); ++i) {
    std::span<std::byte> bytes = to_bytes(arrays[i], "a source");
    runtime::StoredDtype dtype = dtypes[i];
    size_t elements = bytes.size() / runtime::stored_bytes(dtype);
    if (i == 0) count = elements;
    if (elements != count || bytes.size() % runtime::stored_bytes(dtype) != 0)
      runtime::fail(TREFOIL_INVALID_ARGUMENT, "source %u has %zu bytes, which are not the %zu elements of the first", i, bytes.size(), count);
    sources.push_back({bytes.data(), dtype, weights[i]});
    buffers.push_back(bytes.data());
    held.Set(i, arrays[i]);
  }
  std::byte* target = nullptr;
  auto dtype = runtime::StoredDtype::f32;
  if (!call[3].IsUndefined()) {
    std::span<std::byte> bytes = to_bytes(call[3], "target");
    dtype = to_dtype(call[4]);
    if (bytes.size() != count * runtime::stored_bytes(dtype))
      runtime::fail(TREFOIL_INVALID_ARGUMENT, "the target has %zu bytes for %zu elements", bytes.size(), count);
    target = bytes.data();
    held.Set(static_cast<uint32_t>(arrays.size()), call[3]);
  }
  return StoredWork::start(call.Env(), held, [sources = std::move(sources), buffers = std::move(buffers), files = std::move(files), count,
                                              target, dtype] {
    runtime::StoredMean mean = files.empty() ? runtime::weighted_mean(sources, count, target, dtype)
                                             : runtime::read_weighted_mean(files, buffers, sources, count, target, dtype);
    std::vector<double> numbers{mean.overflow ? 1.0 : 0.0, mean.squared_norm};
    numbers.insert(numbers.end(), mean.squared_distances.begin(), mean.squared_distances.end());
    return numbers;
  });
}

Napi::Value write_stored(const Call& call, Environment&) {
  std::vector<Napi::Value> arrays = to_operands(call[0], "pieces", false);
  std::vector<runtime::FilePlace> places = to_places(call[1], call[2], arrays.size());
  auto held = Napi::Array::New(call.Env());
  std::vector<std::span<const std::byte>> pieces;
  for (uint32_t i = 0; i < arrays.size(); ++i) {
    pieces.push_back(to_bytes(arrays[i], "a piece"));
    held.Set(i, arrays[i]);
  }
  return StoredWork::start(call.Env(), held, [pieces = std::move(pieces), places = std::move(places)] {
    std::vector<double> sums;
    for (size_t i = 0; i < pieces.size(); ++i) sums.push_back(to_number(runtime::write_checked(places[i], pieces[i])));
    return sums;
  });
}

Napi::Value stored_checksums(const Call& call, Environment&) {
  std::vector<int64_t> lengths = to_integers(call[0], "lengths");
  for (int64_t length : lengths)
    if (length < 0) runtime::fail(TREFOIL_INVALID_ARGUMENT, "a length is negative");
  std::vector<runtime::FilePlace> places = to_places(call[1], call[2], lengths.size());
  return StoredWork::start(call.Env(), Napi::Array::New(call.Env()), [lengths = std::move(lengths), places = std::move(places)] {
    std::vector<double> sums;
    std::vector<std::byte> scratch;
    for (size_t i = 0; i < lengths.size(); ++i)
      sums.push_back(to_number(runtime::read_checksum(places[i], static_cast<size_t>(lengths[i]), scratch)));
    return sums;
  });
}

}  // namespace

void define_stored(Napi::Object exports) {
  define<weighted_mean>(exports, "weightedMean");
  define<write_stored>(exports, "writeStored");
  define<stored_checksums>(exports, "storedChecksums");
}

}  // namespace trefoil::addon
