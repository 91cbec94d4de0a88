// What `elementwise` works out once per launch: the decoded program, where each register lives, how the output is cut into tiles.
#pragma once
#include "elementwise_ops.h"
#include "work_split.h"

namespace trefoil::cpu::TREFOIL_ISA {
namespace {  // one family includes this: its names stay out of the others' way

constexpr int64_t kTile = 512;            // elements of a register: 2 KiB, so that a dozen fit in L1
constexpr int64_t kRowTilingLeast = 256;  // inner dimensions shorter than this share tiles
constexpr int64_t kTaskWork = 262144;     // additions per task

// Operands are register numbers; `buffer` is the tile buffer of the result, or -1.
struct Instruction {
  int32_t op, a, b, c;
  float immediate;
  int32_t buffer;
  int32_t direct;  // output that this instruction writes in place, or -1
  bool needed;
};

struct Source {
  const void* data;
  int64_t stride[TREFOIL_MAX_RANK];  // in elements, over the collapsed dimensions; 0 where broadcast
  int32_t dtype;
  bool flat;   // laid out as the output is
  bool splat;  // one value
  bool same_rows;  // every tile reads the same: a row vector, and tiles of whole rows
};

struct Result {
  void* data;
  int32_t dtype, register_number;
  bool direct;
};

struct Plan {
  int input_count, instruction_count, output_count, buffer_count;
  Source* sources;
  Instruction* instructions;
  Result* results;
  bool stage_inputs;  // an output shares storage with an input: read inputs before any output is written
  int rank;           // of the collapsed output, inner dimension included
  int64_t size[TREFOIL_MAX_RANK];
  int64_t rows, inner;            // the output as [rows, inner]
  int64_t rows_per_tile, segments;  // a tile is either whole rows, or one of `segments` pieces of a row
  int64_t tiles, tiles_per_task;
};

// Carves arrays out of one scratch block.
struct Arena {
  char* next;
  template <class T>
  T* take(int64_t count) {
    T* result = reinterpret_cast<T*>(next);
    next += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return result;
  }
};

inline int32_t checked_register(double number, int defined) {
  if (!(number >= 0 && number < defined)) fail(TREFOIL_INVALID_ARGUMENT, "elementwise: register %g is not defined", number);
  return static_cast<int32_t>(number);
}

// Strides of every input over the output's dimensions, then merges neighbouring dimensions that all inputs walk alike.
inline void collapse(Plan& plan, const TrefoilLaunch& launch, const TrefoilView& shape) {
  int64_t count = elements(shape);
  for (int i = 0; i < plan.input_count; ++i) {
    const TrefoilView& view = launch.inputs[i];
    Source& source = plan.sources[i];
    source = {view.data, {}, view.dtype, elements(view) == count, elements(view) == 1, false};
    if (view.rank > shape.rank) fail(TREFOIL_INVALID_ARGUMENT, "elementwise: input %d has more dimensions than the output", i);
    int64_t stride = 1;
    for (int d = shape.rank - 1; d >= 0; --d) {
      int from = d - (shape.rank - view.rank);
      int64_t size = from < 0 ? 1 : view.shape[from];
      if (size != 1 && size != shape.shape[d])
        fail(TREFOIL_INVALID_ARGUMENT, "elementwise: input %d does not broadcast to the output: dimension %d is %lld, not %lld", i, d,
             static_cast<long long>(size), static_cast<long long>(shape.shape[d]));
      source.stride[d] = size == 1 ? 0 : stride;
      stride *= size;
    }
  }
  plan.rank = 0;
  for (int d = 0; d < shape.rank; ++d) {
    if (shape.shape[d] == 1) continue;
    int last = plan.rank - 1;
    bool merge = last >= 0;
    for (int i = 0; merge && i < plan.input_count; ++i)
      merge = plan.sources[i].stride[last] == plan.sources[i].stride[d] * shape.shape[d];
    int to = merge ? last : plan.rank++;
    plan.size[to] = merge ? plan.size[last] * shape.shape[d] : shape.shape[d];
    for (int i = 0; i < plan.input_count; ++i) plan.sources[i].stride[to] = plan.sources[i].stride[d];
  }
  plan.inner = plan.rank ? plan.size[plan.rank - 1] : 1;
  plan.rows = count / plan.inner;
}

// Decides which instructions are needed, where each result lives, and which go straight to an output.
inline void assign_buffers(Plan& plan, Arena& arena) {
  int registers = plan.input_count + plan.instruction_count;
  int32_t* last_use = arena.take<int32_t>(registers);
  int32_t* free_buffers = arena.take<int32_t>(registers);
  for (int r = 0; r < registers; ++r) last_use[r] = -1;
  for (int o = 0; o < plan.output_count; ++o)
    if (plan.results[o].data) last_use[plan.results[o].register_number] = plan.instruction_count;
  int last_needed = -1;
  for (int i = plan.instruction_count - 1; i >= 0; --i) {
    Instruction& instruction = plan.instructions[i];
    instruction.needed = last_use[plan.input_count + i] >= 0;
    if (!instruction.needed) continue;
    if (last_needed < 0) last_needed = i;
    const int32_t operands[] = {instruction.a, instruction.b, instruction.c};
    for (int k = 0; k < operand_count(instruction.op); ++k)
      if (last_use[operands[k]] < 0) last_use[operands[k]] = i;
  }

  int present = 0;
  bool shared = false;
  for (int o = 0; o < plan.output_count; ++o) {
    Result& result = plan.results[o];
    if (!result.data) continue;
    ++present;
    for (int i = 0; i < plan.input_count; ++i) shared |= plan.sources[i].data == result.data;
    int i = result.register_number - plan.input_count;
    result.direct = result.dtype == TREFOIL_F32 && i >= 0 && plan.instructions[i].op != kConstant && plan.instructions[i].direct < 0;
    if (result.direct) plan.instructions[i].direct = o;
  }
  // One output written by the last instruction overwrites each element just after its last read.
  plan.stage_inputs = shared && !(present == 1 && last_needed >= 0 && plan.instructions[last_needed].direct >= 0);

  // Inputs and constants keep a buffer of their own; results share buffers as they die.
  int free_count = 0;
  plan.buffer_count = plan.input_count;
  for (int i = 0; i < plan.instruction_count; ++i) {
    Instruction& instruction = plan.instructions[i];
    instruction.buffer = -1;
    if (!instruction.needed) continue;
    if (instruction.op == kConstant) {
      instruction.buffer = plan.buffer_count++;
      continue;
    }
    const int32_t operands[] = {instruction.a, instruction.b, instruction.c};
    for (int k = 0; k < operand_count(instruction.op); ++k) {
      int r = operands[k];
      bool repeated = (k > 0 && r == operands[0]) || (k > 1 && r == operands[1]);
      if (repeated || r < plan.input_count || last_use[r] != i) continue;
      const Instruction& producer = plan.instructions[r - plan.input_count];
      if (producer.op != kConstant && producer.buffer >= 0) free_buffers[free_count++] = producer.buffer;
    }
    if (instruction.direct < 0) instruction.buffer = free_count ? free_buffers[--free_count] : plan.buffer_count++;
  }
}

// Reads the attributes; returns false where there is nothing to compute.
inline bool make_plan(Context& context, const TrefoilLaunch& launch, Plan& plan) {
  const TrefoilView* shape = nullptr;
  for (int o = 0; o < launch.output_count && !shape; ++o)
    if (launch.outputs[o].data) shape = &launch.outputs[o];
  if (!shape || elements(*shape) == 0) return false;
  plan.input_count = launch.input_count;
  plan.output_count = launch.output_count;
  double declared = launch.attribute_count ? launch.attributes[0] : -1;
  if (!(declared >= 0 && declared * 5 + 1 + launch.output_count == launch.attribute_count))
    fail(TREFOIL_INVALID_ARGUMENT, "elementwise: %d attributes do not hold a program", launch.attribute_count);
  plan.instruction_count = static_cast<int>(declared);

  int registers = plan.input_count + plan.instruction_count;
  Arena arena{static_cast<char*>(context.scratch(
      0, sizeof(Source) * static_cast<size_t>(plan.input_count) + sizeof(Instruction) * static_cast<size_t>(plan.instruction_count) +
             sizeof(Result) * static_cast<size_t>(plan.output_count) + 2 * sizeof(int32_t) * static_cast<size_t>(registers) + 5 * 64))};
  plan.sources = arena.take<Source>(plan.input_count);
  plan.instructions = arena.take<Instruction>(plan.instruction_count);
  plan.results = arena.take<Result>(plan.output_count);

  int64_t cost = plan.input_count + plan.output_count;
  const double* attribute = launch.attributes + 1;
  for (int i = 0; i < plan.instruction_count; ++i, attribute += 5) {
    if (!(attribute[0] >= 0 && attribute[0] < static_cast<int32_t>(kOpcodeCount))) fail(TREFOIL_INVALID_ARGUMENT, "elementwise: unknown opcode %g", attribute[0]);
    Instruction& instruction = plan.instructions[i];
    instruction = {static_cast<int32_t>(attribute[0]), 0, 0, 0, static_cast<float>(attribute[4]), -1, -1, false};
    int operands = operand_count(instruction.op), defined = plan.input_count + i;
    if (operands > 0) instruction.a = checked_register(attribute[1], defined);
    if (operands > 1) instruction.b = checked_register(attribute[2], defined);
    if (operands > 2) instruction.c = checked_register(attribute[3], defined);
    cost += instruction_cost(instruction.op);
  }
  for (int o = 0; o < plan.output_count; ++o, ++attribute) {
    const TrefoilView& view = launch.outputs[o];
    if (view.data && elements(view) != elements(*shape)) fail(TREFOIL_INVALID_ARGUMENT, "elementwise: outputs differ in shape");
    plan.results[o] = {view.data, view.dtype, checked_register(*attribute, registers), false};
  }
  collapse(plan, launch, *shape);
  assign_buffers(plan, arena);

  bool whole_rows = plan.inner < kRowTilingLeast;
  plan.rows_per_tile = whole_rows ? kTile / plan.inner : 1;
  plan.segments = whole_rows ? 1 : ceil_divide(plan.inner, kTile);
  for (int i = 0; i < plan.input_count; ++i) {
    Source& source = plan.sources[i];
    source.same_rows = !source.flat && !source.splat && plan.segments == 1;
    for (int d = 0; d + 1 < plan.rank; ++d) source.same_rows &= source.stride[d] == 0;
  }
  plan.tiles = ceil_divide(plan.rows, plan.rows_per_tile) * plan.segments;
  plan.tiles_per_task = ceil_divide(kTaskWork, cost * kTile);
  return true;
}

}  // namespace
}  // namespace trefoil::cpu::TREFOIL_ISA
