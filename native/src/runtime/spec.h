// A program as it is handed in: numbered values and a flat list of instructions. native/addon.ts says what each field means.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/buffer.h"

namespace trefoil::runtime {

enum class ValueKind { input, state, constant, temporary };

struct ValueSpec {
  int32_t dtype = TREFOIL_F32;
  std::vector<int64_t> shape;
  ValueKind kind = ValueKind::temporary;
  int64_t index = -1;              // input
  std::shared_ptr<Buffer> buffer;  // state
  const void* data = nullptr;      // constant: read while the program is made
  size_t data_bytes = 0;
  int64_t alias = -1;  // the value whose storage this one shares; its own kind then does not matter
};

struct InstructionSpec {
  std::string op;
  std::vector<int64_t> inputs;   // -1: absent
  std::vector<int64_t> outputs;  // -1: unread
  std::vector<double> attributes;
};

struct ProgramSpec {
  std::vector<ValueSpec> values;
  std::vector<InstructionSpec> instructions;
  std::vector<int64_t> outputs;
};

// A value after checking. Values that alias one another form a group, named by its root, which owns the storage.
struct Resolved {
  struct Value {
    size_t bytes;
    int32_t root;
    // Of the group, set at its root: the instructions between which a temporary is alive.
    int32_t first = -1, last = -1;
  };
  std::vector<Value> values;
  std::vector<int32_t> inputs;  // value number by input index
};

// Checks everything that can be known without a backend: numbers in range, shapes, dtypes, sizes, alias cycles, that every
// value is written before it is read, that only state and temporaries are written. Throws TREFOIL_INVALID_ARGUMENT.
Resolved resolve(const ProgramSpec& spec, const Device& device);

}  // namespace trefoil::runtime
