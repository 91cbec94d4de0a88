// Reading JavaScript values with checks, and turning C++ exceptions into JavaScript errors.
#pragma once
#include <node_api.h>

#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

namespace trefoil::addon {

// An argument of the wrong JavaScript type: becomes a TypeError.
struct WrongType : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// A JavaScript exception is pending already (a getter threw): leave it to the engine.
struct PendingException {};

// Throws for any status but napi_ok.
void check(napi_env env, napi_status status);

// `what` names the argument in messages: "offset", "values[3].shape".
double to_number(napi_env env, napi_value value, const std::string& what);
int64_t to_integer(napi_env env, napi_value value, const std::string& what);  // a safe integer
size_t to_size(napi_env env, napi_value value, const std::string& what);      // a safe integer, not negative
int32_t to_int32(napi_env env, napi_value value, const std::string& what);
std::string to_string(napi_env env, napi_value value, const std::string& what);
uint32_t array_length(napi_env env, napi_value value, const std::string& what);
std::vector<int64_t> to_integers(napi_env env, napi_value value, const std::string& what);
std::vector<double> to_numbers(napi_env env, napi_value value, const std::string& what);
napi_value element(napi_env env, napi_value array, uint32_t index);
napi_value property(napi_env env, napi_value object, const char* name, const std::string& what);  // object must be one
bool is_undefined(napi_env env, napi_value value);
bool is_number(napi_env env, napi_value value);

// The bytes of a typed array, DataView or Buffer; valid until JavaScript runs again.
struct Bytes {
  void* data;
  size_t size;
};
Bytes to_bytes(napi_env env, napi_value value, const std::string& what);
bool find_bytes(napi_env env, napi_value value, Bytes* bytes);  // false: it is none of these

napi_value make_number(napi_env env, double number);
napi_value make_string(napi_env env, const std::string& text);
void set(napi_env env, napi_value object, const char* name, napi_value value);

// The Error for an exception of the runtime: `code`, and `op` and `instruction` where they are known.
napi_value make_error(napi_env env, std::exception_ptr error);
// The same, thrown. Call in a catch block.
void throw_current(napi_env env) noexcept;

}  // namespace trefoil::addon
