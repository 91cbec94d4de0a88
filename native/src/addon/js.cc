#include "addon/js.h"

#include <cmath>
#include <new>

#include "runtime/error.h"

namespace trefoil::addon {

namespace {

constexpr double kMaxSafeInteger = 9007199254740991.0;

template <class E>
E with_code(Napi::Env env, TrefoilCode code, const char* message) {
  E error = E::New(env, message);
  error.Set("code", runtime::code_name(code));
  return error;
}

}  // namespace

double to_number(Napi::Value value, const std::string& what) {
  if (!value.IsNumber()) throw wrong_type(value.Env(), what + " must be a number");
  return value.As<Napi::Number>();
}

int64_t to_integer(Napi::Value value, const std::string& what) {
  double number = to_number(value, what);
  if (!(std::fabs(number) <= kMaxSafeInteger) || number != std::trunc(number))
    throw runtime::Error(TREFOIL_INVALID_ARGUMENT, what + " must be a whole number");
  return static_cast<int64_t>(number);
}

size_t to_size(Napi::Value value, const std::string& what) {
  int64_t number = to_integer(value, what);
  if (number < 0) throw runtime::Error(TREFOIL_INVALID_ARGUMENT, what + " must not be negative");
  return static_cast<size_t>(number);
}

int32_t to_int32(Napi::Value value, const std::string& what) {
  int64_t number = to_integer(value, what);
  if (number < INT32_MIN || number > INT32_MAX) throw runtime::Error(TREFOIL_INVALID_ARGUMENT, what + " is out of range");
  return static_cast<int32_t>(number);
}

std::string to_string(Napi::Value value, const std::string& what) {
  if (!value.IsString()) throw wrong_type(value.Env(), what + " must be a string");
  std::string text = value.As<Napi::String>();
  if (text.find('\0') != std::string::npos) throw runtime::Error(TREFOIL_INVALID_ARGUMENT, what + " contains a NUL character");
  return text;
}

Napi::Object to_object(Napi::Value value, const std::string& what) {
  if (value.Type() != napi_object) throw wrong_type(value.Env(), what + " must be an object");
  return value.As<Napi::Object>();
}

Napi::Array to_array(Napi::Value value, const std::string& what) {
  if (!value.IsArray()) throw wrong_type(value.Env(), what + " must be an array");
  return value.As<Napi::Array>();
}

std::vector<int64_t> to_integers(Napi::Value value, const std::string& what) {
  std::vector<int64_t> result;
  for_each_element(to_array(value, what), [&](Napi::Value element, uint32_t) { result.push_back(to_integer(element, what)); });
  return result;
}

std::vector<double> to_numbers(Napi::Value value, const std::string& what) {
  std::vector<double> result;
  for_each_element(to_array(value, what), [&](Napi::Value element, uint32_t) { result.push_back(to_number(element, what)); });
  return result;
}

std::vector<Napi::Value> to_operands(Napi::Value value, const std::string& what, bool handles) {
  std::vector<Napi::Value> result;
  for_each_element(to_array(value, what), [&](Napi::Value element, uint32_t i) {
    if (!element.IsTypedArray() && !element.IsDataView() && !(handles && element.IsNumber()))
      throw wrong_type(value.Env(), what + "[" + std::to_string(i) + "] must be " + (handles ? "a buffer or " : "") + "a typed array");
    result.push_back(element);
  });
  return result;
}

std::optional<std::span<std::byte>> find_bytes(Napi::Value value) {
  if (value.IsTypedArray()) {
    auto array = value.As<Napi::TypedArray>();
    void* data = nullptr;  // not by ArrayBuffer(): it may be a SharedArrayBuffer
    if (napi_get_typedarray_info(array.Env(), array, nullptr, nullptr, &data, nullptr, nullptr) != napi_ok)
      throw Napi::Error::New(array.Env());
    size_t element_bytes = array.ElementSize() ? array.ElementSize() : 2;  // 0: Float16Array, unknown to the library
    return std::span(static_cast<std::byte*>(data), array.ElementLength() * element_bytes);
  }
  if (!value.IsDataView()) return std::nullopt;
  auto view = value.As<Napi::DataView>();
  return std::span(static_cast<std::byte*>(view.Data()), view.ByteLength());
}

std::span<std::byte> to_bytes(Napi::Value value, const std::string& what) {
  std::optional<std::span<std::byte>> bytes = find_bytes(value);
  if (!bytes) throw wrong_type(value.Env(), what + " must be a typed array");
  return *bytes;
}

Napi::TypeError wrong_type(Napi::Env env, const std::string& message) {
  return with_code<Napi::TypeError>(env, TREFOIL_INVALID_ARGUMENT, message.c_str());
}

Napi::Error to_error(Napi::Env env, std::exception_ptr exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const runtime::Error& error) {
    auto result = with_code<Napi::Error>(env, error.code, error.what());
    if (!error.op.empty()) result.Set("op", error.op);
    if (error.instruction >= 0) result.Set("instruction", static_cast<double>(error.instruction));
    return result;
  } catch (const std::bad_alloc&) {
    return with_code<Napi::Error>(env, TREFOIL_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return with_code<Napi::Error>(env, TREFOIL_INTERNAL, error.what());
  }
}

void throw_current(Napi::Env env) noexcept {
  try {
    try {
      throw;
    } catch (const Napi::Error& error) {
      error.ThrowAsJavaScriptException();
    } catch (...) {
      to_error(env, std::current_exception()).ThrowAsJavaScriptException();
    }
  } catch (...) {
    // JavaScript can no longer run here (a Worker is being terminated), or what was thrown threw when looked at.
    napi_throw_error(env, runtime::code_name(TREFOIL_INTERNAL), "an error could not be reported");
  }
}

}  // namespace trefoil::addon
