// Reading JavaScript values with checks, and turning C++ exceptions into JavaScript errors.
#pragma once
#include <napi.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace trefoil::addon {

// Each throws a TypeError for a value of another type and runtime::Error for one that does not fit.
// `what` names the argument in messages: "offset", "values[3].shape".
double to_number(Napi::Value value, const std::string& what);
int64_t to_integer(Napi::Value value, const std::string& what);  // a safe integer
size_t to_size(Napi::Value value, const std::string& what);      // a safe integer, not negative
int32_t to_int32(Napi::Value value, const std::string& what);
std::string to_string(Napi::Value value, const std::string& what);
Napi::Object to_object(Napi::Value value, const std::string& what);
Napi::Array to_array(Napi::Value value, const std::string& what);
std::vector<int64_t> to_integers(Napi::Value value, const std::string& what);
std::vector<double> to_numbers(Napi::Value value, const std::string& what);

// One by one, and never room for all of them beforehand: an array of holes may claim 2^32 elements.
template <class Body>
void for_each_element(Napi::Array array, const Body& body) {
  for (uint32_t i = 0, count = array.Length(); i < count; ++i) body(array.Get(i), i);
}

// The elements of an array of typed arrays, and handles where they will do. An accessor in the array runs JavaScript, after which no
// pointer to bytes could be trusted: so all elements come first, and their bytes later.
std::vector<Napi::Value> to_operands(Napi::Value value, const std::string& what, bool handles);

// The bytes of a typed array, DataView or Buffer; valid until JavaScript runs again.
std::span<std::byte> to_bytes(Napi::Value value, const std::string& what);
std::optional<std::span<std::byte>> find_bytes(Napi::Value value);  // nothing: it is none of these

// The TypeError for an argument of the wrong JavaScript type.
Napi::TypeError wrong_type(Napi::Env env, const std::string& message);
// The Error for an exception of the runtime: `code`, and `op` and `instruction` where they are known.
Napi::Error to_error(Napi::Env env, std::exception_ptr exception);
// Hands the current C++ exception to JavaScript. Call in a catch block.
void throw_current(Napi::Env env) noexcept;

}  // namespace trefoil::addon
