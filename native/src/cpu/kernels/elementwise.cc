// elementwise: a fused chain run tile by tile, so that intermediates stay in L1. The program is decoded once per launch into
// a Plan that all tasks read; each task then resolves the registers of a tile to pointers and runs the instructions on them.
#include "convert.h"
#include "elementwise_plan.h"

namespace trefoil::cpu::TREFOIL_ISA {

namespace {

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
