#include "addon/js.h"

#include <cmath>
#include <new>

#include "runtime/error.h"

namespace trefoil::addon {

namespace {

constexpr double kMaxSafeInteger = 9007199254740991.0;

napi_valuetype type_of(napi_env env, napi_value value) {
  napi_valuetype type;
  check(env, napi_typeof(env, value, &type));
  return type;
}

size_t element_bytes(napi_typedarray_type type) {
  switch (type) {
    case napi_int8_array:
    case napi_uint8_array:
    case napi_uint8_clamped_array: return 1;
    case napi_int16_array:
    case napi_uint16_array: return 2;
    case napi_int32_array:
    case napi_uint32_array:
    case napi_float32_array: return 4;
    case napi_float64_array:
    case napi_bigint64_array:
    case napi_biguint64_array: return 8;
    default: return type == 11 ? 2 : 0;  // 11: Float16Array, in newer headers
  }
}

napi_value make_plain_error(napi_env env, const char* code, const char* message, bool type_error) {
  napi_value error = nullptr, js_code = make_string(env, code), js_message = make_string(env, message);
  check(env, type_error ? napi_create_type_error(env, js_code, js_message, &error) : napi_create_error(env, js_code, js_message, &error));
  return error;
}

}  // namespace

void check(napi_env env, napi_status status) {
  if (status == napi_ok) return;
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (pending || status == napi_pending_exception) throw PendingException{};
  const napi_extended_error_info* info = nullptr;
  napi_get_last_error_info(env, &info);
  throw std::runtime_error(info && info->error_message ? info->error_message : "a Node-API call failed");
}

double to_number(napi_env env, napi_value value, const std::string& what) {
  double result;
  napi_status status = napi_get_value_double(env, value, &result);
  if (status == napi_number_expected) throw WrongType(what + " must be a number");
  check(env, status);
  return result;
}

int64_t to_integer(napi_env env, napi_value value, const std::string& what) {
  double number = to_number(env, value, what);
  if (!(std::fabs(number) <= kMaxSafeInteger) || number != std::trunc(number))
    throw runtime::Error(TREFOIL_INVALID_ARGUMENT, what + " must be a whole number");
  return static_cast<int64_t>(number);
}

size_t to_size(napi_env env, napi_value value, const std::string& what) {
  int64_t number = to_integer(env, value, what);
  if (number < 0) throw runtime::Error(TREFOIL_INVALID_ARGUMENT, what + " must not be negative");
  return static_cast<size_t>(number);
}

int32_t to_int32(napi_env env, napi_value value, const std::string& what) {
  int64_t number = to_integer(env, value, what);
  if (number < INT32_MIN || number > INT32_MAX) throw runtime::Error(TREFOIL_INVALID_ARGUMENT, what + " is out of range");
  return static_cast<int32_t>(number);
}

std::string to_string(napi_env env, napi_value value, const std::string& what) {
  size_t length = 0;
  napi_status status = napi_get_value_string_utf8(env, value, nullptr, 0, &length);
  if (status == napi_string_expected) throw WrongType(what + " must be a string");
  check(env, status);
  std::string text(length, '\0');
  check(env, napi_get_value_string_utf8(env, value, text.data(), length + 1, &length));
  if (text.find('\0') != std::string::npos) throw runtime::Error(TREFOIL_INVALID_ARGUMENT, what + " contains a NUL character");
  return text;
}

uint32_t array_length(napi_env env, napi_value value, const std::string& what) {
  uint32_t length = 0;
  napi_status status = napi_get_array_length(env, value, &length);
  if (status == napi_array_expected) throw WrongType(what + " must be an array");
  check(env, status);
  return length;
}

std::vector<int64_t> to_integers(napi_env env, napi_value value, const std::string& what) {
  std::vector<int64_t> result(array_length(env, value, what));
  for (uint32_t i = 0; i < result.size(); ++i) result[i] = to_integer(env, element(env, value, i), what);
  return result;
}

std::vector<double> to_numbers(napi_env env, napi_value value, const std::string& what) {
  std::vector<double> result(array_length(env, value, what));
  for (uint32_t i = 0; i < result.size(); ++i) result[i] = to_number(env, element(env, value, i), what);
  return result;
}

napi_value element(napi_env env, napi_value array, uint32_t index) {
  napi_value result;
  check(env, napi_get_element(env, array, index, &result));
  return result;
}

napi_value property(napi_env env, napi_value object, const char* name, const std::string& what) {
  if (type_of(env, object) != napi_object) throw WrongType(what + " must be an object");
  napi_value result;
  check(env, napi_get_named_property(env, object, name, &result));
  return result;
}

bool is_undefined(napi_env env, napi_value value) { return type_of(env, value) == napi_undefined; }
bool is_number(napi_env env, napi_value value) { return type_of(env, value) == napi_number; }

bool find_bytes(napi_env env, napi_value value, Bytes* bytes) {
  bool is_typed_array = false;
  check(env, napi_is_typedarray(env, value, &is_typed_array));
  if (is_typed_array) {
    napi_typedarray_type type;
    size_t length;
    check(env, napi_get_typedarray_info(env, value, &type, &length, &bytes->data, nullptr, nullptr));
    bytes->size = length * element_bytes(type);
    return true;
  }
  bool is_data_view = false;
  check(env, napi_is_dataview(env, value, &is_data_view));
  if (is_data_view) check(env, napi_get_dataview_info(env, value, &bytes->size, &bytes->data, nullptr, nullptr));
  return is_data_view;
}

Bytes to_bytes(napi_env env, napi_value value, const std::string& what) {
  Bytes bytes;
  if (!find_bytes(env, value, &bytes)) throw WrongType(what + " must be a typed array");
  return bytes;
}

napi_value make_number(napi_env env, double number) {
  napi_value result;
  check(env, napi_create_double(env, number, &result));
  return result;
}

napi_value make_string(napi_env env, const std::string& text) {
  napi_value result;
  check(env, napi_create_string_utf8(env, text.data(), text.size(), &result));
  return result;
}

void set(napi_env env, napi_value object, const char* name, napi_value value) {
  check(env, napi_set_named_property(env, object, name, value));
}

napi_value make_error(napi_env env, std::exception_ptr exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const runtime::Error& error) {
    napi_value result = make_plain_error(env, runtime::code_name(error.code), error.what(), false);
    if (!error.op.empty()) set(env, result, "op", make_string(env, error.op));
    if (error.instruction >= 0) set(env, result, "instruction", make_number(env, static_cast<double>(error.instruction)));
    return result;
  } catch (const WrongType& error) {
    return make_plain_error(env, runtime::code_name(TREFOIL_INVALID_ARGUMENT), error.what(), true);
  } catch (const std::bad_alloc&) {
    return make_plain_error(env, runtime::code_name(TREFOIL_OUT_OF_MEMORY), "out of memory", false);
  } catch (const std::exception& error) {
    return make_plain_error(env, runtime::code_name(TREFOIL_INTERNAL), error.what(), false);
  }
}

void throw_current(napi_env env) noexcept {
  try {
    throw;
  } catch (const PendingException&) {
  } catch (...) {
    try {
      napi_throw(env, make_error(env, std::current_exception()));
    } catch (...) {
      napi_throw_error(env, runtime::code_name(TREFOIL_INTERNAL), "an error could not be reported");
    }
  }
}

}  // namespace trefoil::addon
