// elementwise: a fused chain run tile by tile, so that intermediates stay in L1. The program is decoded once per launch into
// a Plan that all tasks read; each task then resolves the registers of a tile to pointers and runs the instructions on them.
#include "convert.h"
#include "elementwise_ops.h"
#include "work_split.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

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

int32_t checked_register(double number, int defined) {
  if (!(number >= 0 && number < defined)) fail(TREFOIL_INVALID_ARGUMENT, "elementwise: register %g is not defined", number);
  return static_cast<int32_t>(number);
}

// Strides of every input over the output's dimensions, then merges neighbouring dimensions that all inputs walk alike.
void collapse(Plan& plan, const TrefoilLaunch& launch, const TrefoilView& shape) {
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
void assign_buffers(Plan& plan, Arena& arena) {
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
bool make_plan(Context& context, const TrefoilLaunch& launch, Plan& plan) {
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

void fill(float* to, int64_t n, float value) {
  for (int64_t i = 0; i < n; ++i) to[i] = value;
}

// The elements of a broadcast source for rows [row, row + rows) and columns [column, column + length): a pointer to them, or a copy.
const float* broadcast_tile(const Plan& plan, const Source& source, int64_t row, int64_t rows, int64_t column, int64_t length, float* buffer) {
  int outer_rank = plan.rank - 1;
  int64_t index[TREFOIL_MAX_RANK], offset = 0, rest = row;
  for (int d = outer_rank - 1; d >= 0; --d) {
    index[d] = rest % plan.size[d];
    rest /= plan.size[d];
    offset += index[d] * source.stride[d];
  }
  bool repeats = source.stride[outer_rank] == 0;
  if (!repeats && rows == 1 && source.dtype == TREFOIL_F32 && !plan.stage_inputs) return static_cast<const float*>(source.data) + offset + column;
  float* to = buffer;
  for (int64_t r = 0; r < rows; ++r, to += length) {
    if (repeats) {
      float value;
      widen(source.dtype, source.data, offset, &value, 1);
      fill(to, length, value);
    } else if (source.dtype == TREFOIL_F32) {
      const float* from = static_cast<const float*>(source.data) + offset + column;
      for (int64_t i = 0; i < length; ++i) to[i] = from[i];
    } else {
      widen(source.dtype, source.data, offset + column, to, length);
    }
    for (int d = outer_rank - 1; d >= 0; --d) {
      offset += source.stride[d];
      if (++index[d] < plan.size[d]) break;
      offset -= index[d] * source.stride[d];
      index[d] = 0;
    }
  }
  return buffer;
}

void run_tiles(Context& context, const Plan& plan, int64_t tile, int64_t last_tile) {
  int registers = plan.input_count + plan.instruction_count;
  size_t pointer_bytes = (static_cast<size_t>(registers) * sizeof(float*) + 63) / 64 * 64;
  char* scratch = static_cast<char*>(context.scratch(1, pointer_bytes + static_cast<size_t>(plan.buffer_count) * kTile * sizeof(float)));
  const float** values = reinterpret_cast<const float**>(scratch);
  float* buffers = reinterpret_cast<float*>(scratch + pointer_bytes);
  auto buffer_of = [&](int64_t number) { return buffers + number * kTile; };

  // What is the same for every tile: single values, row vectors and constants.
  for (int i = 0; i < plan.input_count; ++i) {
    const Source& source = plan.sources[i];
    if (source.splat) {
      float value;
      widen(source.dtype, source.data, 0, &value, 1);
      fill(buffer_of(i), kTile, value);
      values[i] = buffer_of(i);
    } else if (source.same_rows) {
      int64_t rows = plan.rows < plan.rows_per_tile ? plan.rows : plan.rows_per_tile;
      values[i] = broadcast_tile(plan, source, 0, rows, 0, plan.inner, buffer_of(i));
    }
  }
  for (int i = 0; i < plan.instruction_count; ++i) {
    const Instruction& instruction = plan.instructions[i];
    if (!instruction.needed || instruction.op != kConstant) continue;
    fill(buffer_of(instruction.buffer), kTile, instruction.immediate);
    values[plan.input_count + i] = buffer_of(instruction.buffer);
  }

  for (; tile < last_tile; ++tile) {
    int64_t row = tile / plan.segments * plan.rows_per_tile, column = tile % plan.segments * kTile;
    int64_t rows = plan.rows - row < plan.rows_per_tile ? plan.rows - row : plan.rows_per_tile;
    int64_t length = plan.segments == 1 ? plan.inner : plan.inner - column < kTile ? plan.inner - column : kTile;
    int64_t flat = row * plan.inner + column, n = rows * length;
    for (int i = 0; i < plan.input_count; ++i) {
      const Source& source = plan.sources[i];
      if (source.splat || source.same_rows) continue;
      if (!source.flat) {
        values[i] = broadcast_tile(plan, source, row, rows, column, length, buffer_of(i));
      } else if (source.dtype == TREFOIL_F32 && !plan.stage_inputs) {
        values[i] = static_cast<const float*>(source.data) + flat;
      } else {
        widen(source.dtype, source.data, flat, buffer_of(i), n);
        values[i] = buffer_of(i);
      }
    }
    for (int i = 0; i < plan.instruction_count; ++i) {
      const Instruction& instruction = plan.instructions[i];
      if (!instruction.needed || instruction.op == kConstant) continue;
      float* to = instruction.direct >= 0 ? static_cast<float*>(plan.results[instruction.direct].data) + flat : buffer_of(instruction.buffer);
      run_instruction(instruction.op, values[instruction.a], values[instruction.b], values[instruction.c], instruction.immediate, to,
                      static_cast<int>(n));
      values[plan.input_count + i] = to;
    }
    for (int o = 0; o < plan.output_count; ++o) {
      const Result& result = plan.results[o];
      if (result.data && !result.direct) narrow(result.dtype, values[result.register_number], result.data, flat, n);
    }
  }
}

void elementwise(Context& context, const TrefoilLaunch& launch) {
  Plan plan{};
  if (!make_plan(context, launch, plan)) return;
  parallel_ranges(context, plan.tiles, plan.tiles_per_task, [&](int64_t begin, int64_t end) { run_tiles(context, plan, begin, end); });
}

}  // namespace

extern const KernelEntry elementwise_kernels[];
const KernelEntry elementwise_kernels[] = {{"elementwise", elementwise, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cpu::TREFOIL_ISA
