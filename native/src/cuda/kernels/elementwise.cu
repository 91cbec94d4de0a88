// elementwise: a fused chain, interpreted by every thread for one or four elements at a time. The program travels as a kernel argument;
// registers live in shared memory, one column to a thread, except that the value made last is also at hand in a register.
#include <algorithm>

#include "convert.h"
#include "divisor.h"
#include "kernel.h"

namespace trefoil::cuda {

namespace {

// Numbers are those of docs/ops.md.
enum Opcode : int32_t {
  kCopy, kConstant, kAdd, kSubtract, kMultiply, kDivide, kMaximum, kMinimum, kPower, kNegate, kAbsolute, kExp, kLog, kSqrt,
  kRsqrt, kSin, kCos, kTanh, kSigmoid, kSilu, kGelu, kErf, kRelu, kSquare, kReciprocal, kFloor, kRound, kSign, kLess, kLessEqual,
  kEqual, kNotEqual, kWhere, kAddImmediate, kMultiplyImmediate, kSoftplus, kMultiplyAdd, kSiluGrad, kGeluGrad, kLogicalNot,
  kOpcodeCount
};

int operand_count(int32_t op) {
  switch (op) {
    case kConstant: return 0;
    case kAdd: case kSubtract: case kMultiply: case kDivide: case kMaximum: case kMinimum: case kPower: case kLess:
    case kLessEqual: case kEqual: case kNotEqual: case kSiluGrad: case kGeluGrad: return 2;
    case kWhere: case kMultiplyAdd: return 3;
    default: return 1;
  }
}

constexpr int kMaxInputs = 24, kMaxInstructions = 160, kMaxOutputs = 16;  // a kernel's arguments hold 4 KiB
constexpr int kLast = 255;                                               // operand: the value made last

// Operands and results are slots of shared memory.
struct Instruction {
  uint8_t op, a, b, c;
  uint8_t slot, stored;  // stored: someone reads the result from its slot
  float immediate;
};
enum class Layout : uint8_t { flat, splat, strided };  // as the output is, one value, or by strides
struct Source {
  const void* data;
  int32_t stride[TREFOIL_MAX_RANK];  // in elements, over the merged dimensions; 0 where broadcast
  uint8_t dtype, slot;
  Layout layout;
};
struct Result {
  void* data;
  uint8_t dtype, slot;
};
struct Plan {
  int64_t items;
  int32_t inputs, instructions, outputs, rank, slots;
  bool strided;
  Divisor size[TREFOIL_MAX_RANK];  // merged output dimensions; the last in items
  Source source[kMaxInputs];
  Instruction instruction[kMaxInstructions];
  Result result[kMaxOutputs];
};
static_assert(sizeof(Plan) < 4000);

__device__ __forceinline__ float sigmoid(float x) { return reciprocal_fast(1.0f + expf(-x)); }
// The tanh form of gelu is x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3); clamped where the sigmoid has long saturated. NaN stays.
__device__ __forceinline__ float gelu_range(float x) { return x != x ? x : fminf(20.0f, fmaxf(-20.0f, x)); }
__device__ __forceinline__ float gelu_argument(float x) { return x * (x * x * (2 * 0.7978845608f * 0.044715f) + 2 * 0.7978845608f); }
__device__ __forceinline__ float gelu(float x) { return x * sigmoid(gelu_argument(gelu_range(x))); }
__device__ __forceinline__ float gelu_derivative(float x) {
  const float near = gelu_range(x), s = sigmoid(gelu_argument(near));
  return near * (near * near * (6 * 0.7978845608f * 0.044715f) + 2 * 0.7978845608f) * (s * (1.0f - s)) + s;
}

__device__ __forceinline__ float apply(int op, float a, float b, float c, float immediate) {
  switch (op) {
    case kConstant: return immediate;
    case kAdd: return a + b;
    case kSubtract: return a - b;
    case kMultiply: return a * b;
    case kDivide: return a / b;
    case kMaximum: return a != a || a > b ? a : b;
    case kMinimum: return a != a || a < b ? a : b;
    case kPower: return powf(a, b);
    case kNegate: return -a;
    case kAbsolute: return fabsf(a);
    case kExp: return expf(a);
    case kLog: return logf(a);
    case kSqrt: return sqrtf(a);
    case kRsqrt: return 1.0f / sqrtf(a);
    case kSin: return sinf(a);
    case kCos: return cosf(a);
    case kTanh: return tanhf(a);
    case kSigmoid: return sigmoid(a);
    case kSilu: return a * sigmoid(a);
    case kGelu: return gelu(a);
    case kErf: return erff(a);
    case kRelu: return a > 0.0f || a != a ? a : 0.0f;
    case kSquare: return a * a;
    case kReciprocal: return 1.0f / a;
    case kFloor: return floorf(a);
    case kRound: return rintf(a);
    case kSign: return a > 0.0f ? 1.0f : a < 0.0f ? -1.0f : a;  // zero and NaN are their own sign
    case kLess: return a < b ? 1.0f : 0.0f;
    case kLessEqual: return a <= b ? 1.0f : 0.0f;
    case kEqual: return a == b ? 1.0f : 0.0f;
    case kNotEqual: return a != b ? 1.0f : 0.0f;
    case kWhere: return a != 0.0f ? b : c;
    case kAddImmediate: return a + immediate;
    case kMultiplyImmediate: return a * immediate;
    case kSoftplus: return a != a ? a : fmaxf(a, 0.0f) + log1pf(expf(-fabsf(a)));
    case kMultiplyAdd: return fmaf(a, b, c);
    case kSiluGrad: {
      const float s = sigmoid(a);
      return s * (a * (1.0f - s) + 1.0f) * b;
    }
    case kGeluGrad: return gelu_derivative(a) * b;
    case kLogicalNot: return a == 0.0f ? 1.0f : 0.0f;
    default: return a;
  }
}

__device__ __forceinline__ float zip(float a, float b, float c, float immediate, int op) { return apply(op, a, b, c, immediate); }
__device__ __forceinline__ float4 zip(float4 a, float4 b, float4 c, float immediate, int op) {
  // The cheap ones by name, so that one switch serves four elements.
  switch (op) {
    case kAdd: return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
    case kSubtract: return make_float4(a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w);
    case kMultiply: return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
    case kAddImmediate: return make_float4(a.x + immediate, a.y + immediate, a.z + immediate, a.w + immediate);
    case kMultiplyImmediate: return make_float4(a.x * immediate, a.y * immediate, a.z * immediate, a.w * immediate);
    case kMultiplyAdd: return make_float4(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y), fmaf(a.z, b.z, c.z), fmaf(a.w, b.w, c.w));
    case kSilu: return make_float4(a.x * sigmoid(a.x), a.y * sigmoid(a.y), a.z * sigmoid(a.z), a.w * sigmoid(a.w));
    case kGelu: return make_float4(gelu(a.x), gelu(a.y), gelu(a.z), gelu(a.w));
    default:
      return make_float4(apply(op, a.x, b.x, c.x, immediate), apply(op, a.y, b.y, c.y, immediate), apply(op, a.z, b.z, c.z, immediate),
                         apply(op, a.w, b.w, c.w, immediate));
  }
}

__device__ __forceinline__ void assign(float value, float& to) { to = value; }
__device__ __forceinline__ void assign(float value, float4& to) { to = make_float4(value, value, value, value); }

// Elements from `at` on: one, or four neighbours; bf16 ones (packed) as they are stored, to be widened when the next input is under way too.
__device__ __forceinline__ void load_values(const void* data, int32_t dtype, int64_t at, float& to, bool&) { to = load_as_f32(data, dtype, at); }
__device__ __forceinline__ void load_values(const void* data, int32_t dtype, int64_t at, float4& to, bool& packed) {
  if (dtype == TREFOIL_F32) {
    to = load4(static_cast<const float*>(data) + at);
  } else if (dtype == TREFOIL_BF16) {
    const float2 words = *reinterpret_cast<const float2*>(static_cast<const bf16*>(data) + at);
    to.x = words.x, to.y = words.y;
    packed = true;
  } else {
    to = make_float4(load_as_f32(data, dtype, at), load_as_f32(data, dtype, at + 1), load_as_f32(data, dtype, at + 2), load_as_f32(data, dtype, at + 3));
  }
}
__device__ __forceinline__ float widened(float value, bool) { return value; }
__device__ __forceinline__ float4 widened(float4 value, bool packed) {
  if (!packed) return value;
  const uint32_t low = __float_as_uint(value.x), high = __float_as_uint(value.y);
  return make_float4(__uint_as_float(low << 16), __uint_as_float(low & 0xffff0000u), __uint_as_float(high << 16), __uint_as_float(high & 0xffff0000u));
}
__device__ __forceinline__ void store_values(void* data, int32_t dtype, int64_t at, float value) { store_from_f32(data, dtype, at, value); }
__device__ __forceinline__ void store_values(void* data, int32_t dtype, int64_t at, float4 value) {
  if (dtype == TREFOIL_F32) return store4(static_cast<float*>(data) + at, value);
  if (dtype == TREFOIL_BF16) return store4(static_cast<bf16*>(data) + at, value);
  store_from_f32(data, dtype, at, value.x);
  store_from_f32(data, dtype, at + 1, value.y);
  store_from_f32(data, dtype, at + 2, value.z);
  store_from_f32(data, dtype, at + 3, value.w);
}

template <class Values>
struct Fetched {
  Values values;
  bool packed = false;
};
// What `source` has for an item, whose place is `index` where some input is strided.
template <class Values>
__device__ __forceinline__ Fetched<Values> fetch(const Plan& plan, const Source& source, int64_t item, const uint32_t* index) {
  constexpr int width = sizeof(Values) / sizeof(float);
  int64_t at = source.layout == Layout::flat ? item * width : 0;
  bool neighbours = source.layout == Layout::flat;
  if (source.layout == Layout::strided) {
#pragma unroll
    for (int d = 0; d < TREFOIL_MAX_RANK; ++d)
      if (d < plan.rank) at += static_cast<int64_t>(index[d]) * source.stride[d] * (d == plan.rank - 1 ? width : 1);
    neighbours = source.stride[plan.rank - 1] != 0;
  }
  Fetched<Values> fetched;
  if (neighbours)
    load_values(source.data, source.dtype, at, fetched.values, fetched.packed);
  else
    assign(load_as_f32(source.data, source.dtype, at), fetched.values);
  return fetched;
}

// Values: float, or float4 where the innermost dimension is a multiple of four.
template <class Values>
__global__ void __launch_bounds__(kLoopThreads, kLoopBlocks) elementwise_kernel(const __grid_constant__ Plan plan) {
  constexpr int width = sizeof(Values) / sizeof(float);
  Values* slots = dynamic_shared<Values>() + threadIdx.x;
  const unsigned pitch = blockDim.x;
  for (int64_t item = first_index(); item < plan.items; item += index_stride()) {
    uint32_t index[TREFOIL_MAX_RANK] = {};
    if (plan.strided) {
      int64_t rest = item;
#pragma unroll
      for (int d = TREFOIL_MAX_RANK - 1; d >= 0; --d) {
        if (d >= plan.rank) continue;
        const Divided at = plan.size[d].divide(rest);
        index[d] = static_cast<uint32_t>(at.remainder);
        rest = at.quotient;
      }
    }
    // Two inputs under way at once.
    for (int i = 0; i < plan.inputs; i += 2) {
      const Source &one = plan.source[i], &other = plan.source[i + 1];
      const Fetched<Values> first = fetch<Values>(plan, one, item, index);
      if (i + 1 < plan.inputs) {
        const Fetched<Values> second = fetch<Values>(plan, other, item, index);
        slots[other.slot * pitch] = widened(second.values, second.packed);
      }
      slots[one.slot * pitch] = widened(first.values, first.packed);
    }
    Values last{};
    for (int i = 0; i < plan.instructions; ++i) {
      const Instruction instruction = plan.instruction[i];
      const Values a = instruction.a == kLast ? last : slots[instruction.a * pitch];
      const Values b = instruction.b == kLast ? last : slots[instruction.b * pitch];
      const Values c = instruction.c == kLast ? last : slots[instruction.c * pitch];
      last = zip(a, b, c, instruction.immediate, instruction.op);
      if (instruction.stored) slots[instruction.slot * pitch] = last;
    }
    for (int o = 0; o < plan.outputs; ++o) store_values(plan.result[o].data, plan.result[o].dtype, item * width, slots[plan.result[o].slot * pitch]);
  }
}

// Registers of the launch's program that must be kept, and until which instruction; then slots for them, reused as they die.
class Compiler {
 public:
  Compiler(const TrefoilLaunch& args, int instructions) : args_(args), inputs_(args.input_count), instructions_(instructions) {}

  // Keeps `plan.items` and the layout to the caller.
  void compile(Plan& plan) {
    const int registers = inputs_ + instructions_;
    if (inputs_ > kMaxInputs || instructions_ > kMaxInstructions || args_.output_count > kMaxOutputs)
      fail(TREFOIL_INVALID_ARGUMENT, "elementwise: a chain of %d inputs, %d instructions and %d outputs is too long; at most %d, %d and %d", inputs_,
           instructions_, args_.output_count, kMaxInputs, kMaxInstructions, kMaxOutputs);
    const double* outputs = args_.attributes + 1 + 5 * instructions_;
    for (int r = 0; r < registers; ++r) last_use_[r] = -1;
    for (int o = 0; o < args_.output_count; ++o) {
      const int from = checked(outputs[o], registers);
      if (args_.outputs[o].data) last_use_[from] = instructions_;
    }
    for (int i = instructions_ - 1; i >= 0; --i) {
      if (last_use_[inputs_ + i] < 0) continue;
      for (int k = 0; k < operand_count(opcode(i)); ++k)
        if (int r = checked(attribute(i)[1 + k], inputs_ + i); last_use_[r] < 0) last_use_[r] = i;
    }
    for (int i = 0; i < instructions_; ++i)
      for (int k = 0; k < operand_count(opcode(i)); ++k) checked(attribute(i)[1 + k], inputs_ + i);

    for (int i = 0; i < inputs_; ++i)
      if (last_use_[i] >= 0) {
        slot_[i] = take();
        Source& source = plan.source[plan.inputs++];
        source.data = args_.inputs[i].data;
        source.dtype = static_cast<uint8_t>(args_.inputs[i].dtype);
        source.slot = static_cast<uint8_t>(slot_[i]);
        input_of_[plan.inputs - 1] = i;
      }
    int previous = -1;
    for (int i = 0; i < instructions_; ++i) {
      if (last_use_[inputs_ + i] < 0) continue;
      Instruction& to = plan.instruction[plan.instructions++];
      to = {static_cast<uint8_t>(opcode(i)), kLast, kLast, kLast, 0, 0, static_cast<float>(attribute(i)[4])};
      uint8_t* operands[] = {&to.a, &to.b, &to.c};
      int used[3] = {-1, -1, -1};
      for (int k = 0; k < operand_count(opcode(i)); ++k) {
        used[k] = static_cast<int>(attribute(i)[1 + k]);
        if (used[k] == previous) continue;
        *operands[k] = static_cast<uint8_t>(slot_[used[k]]);
        if (used[k] >= inputs_) plan.instruction[made_by_[used[k] - inputs_]].stored = 1;
      }
      for (int k = 0; k < 3; ++k)
        if (used[k] >= 0 && last_use_[used[k]] == i && !(k > 0 && used[k] == used[0]) && !(k > 1 && used[k] == used[1])) give_back(used[k]);
      const int result = inputs_ + i;
      slot_[result] = take();
      to.slot = static_cast<uint8_t>(slot_[result]);
      made_by_[i] = plan.instructions - 1;
      previous = result;
    }
    for (int o = 0; o < args_.output_count; ++o)
      if (args_.outputs[o].data) {
        const int from = static_cast<int>(outputs[o]);
        if (from >= inputs_) plan.instruction[made_by_[from - inputs_]].stored = 1;
        plan.result[plan.outputs++] = {args_.outputs[o].data, static_cast<uint8_t>(args_.outputs[o].dtype), static_cast<uint8_t>(slot_[from])};
      }
    plan.slots = slots_ ? slots_ : 1;
  }

  int input_of(int source) const { return input_of_[source]; }

 private:
  const double* attribute(int instruction) const { return args_.attributes + 1 + 5 * instruction; }
  int32_t opcode(int instruction) const {
    const double op = attribute(instruction)[0];
    if (!(op >= 0 && op < static_cast<double>(kOpcodeCount))) fail(TREFOIL_INVALID_ARGUMENT, "elementwise: unknown opcode %g", op);
    return static_cast<int32_t>(op);
  }
  int checked(double number, int defined) const {
    if (!(number >= 0 && number < defined)) fail(TREFOIL_INVALID_ARGUMENT, "elementwise: register %g is not defined", number);
    return static_cast<int>(number);
  }
  int take() { return free_count_ ? free_[--free_count_] : slots_++; }
  void give_back(int r) { free_[free_count_++] = slot_[r]; }

  const TrefoilLaunch& args_;
  int inputs_, instructions_, slots_ = 0, free_count_ = 0;
  int last_use_[kMaxInputs + kMaxInstructions], slot_[kMaxInputs + kMaxInstructions] = {}, free_[kMaxInputs + kMaxInstructions], input_of_[kMaxInputs];
  int made_by_[kMaxInstructions];  // by instruction of the launch: its number in the plan
};

// Strides of every source over the output's dimensions; neighbouring dimensions that all walk alike become one.
void lay_out(Plan& plan, const Compiler& compiler, const TrefoilLaunch& args, const TrefoilView& shape) {
  const int64_t count = elements(shape);
  int64_t stride[kMaxInputs][TREFOIL_MAX_RANK] = {}, size[TREFOIL_MAX_RANK];
  for (int i = 0; i < args.input_count; ++i) {
    const TrefoilView& view = args.inputs[i];
    if (view.rank > shape.rank) fail(TREFOIL_INVALID_ARGUMENT, "elementwise: input %d has more dimensions than the output", i);
    for (int d = 0; d < shape.rank; ++d) {
      const int from = d - (shape.rank - view.rank);
      const int64_t length = from < 0 ? 1 : view.shape[from];
      if (length != 1 && length != shape.shape[d])
        fail(TREFOIL_INVALID_ARGUMENT, "elementwise: input %d does not broadcast to the output: dimension %d is %lld, not %lld", i, d,
             static_cast<long long>(length), static_cast<long long>(shape.shape[d]));
    }
  }
  for (int s = 0; s < plan.inputs; ++s) {
    const TrefoilView& view = args.inputs[compiler.input_of(s)];
    int64_t next = 1;
    for (int d = shape.rank - 1; d >= 0; --d) {
      const int from = d - (shape.rank - view.rank);
      const int64_t length = from < 0 ? 1 : view.shape[from];
      stride[s][d] = length == 1 ? 0 : next;
      next *= length;
    }
    plan.source[s].layout = elements(view) == count ? Layout::flat : elements(view) == 1 ? Layout::splat : Layout::strided;
    plan.strided |= plan.source[s].layout == Layout::strided;
  }
  for (int d = 0; d < shape.rank; ++d) {
    if (shape.shape[d] == 1) continue;
    const int last = plan.rank - 1;
    bool merge = last >= 0;
    for (int s = 0; merge && s < plan.inputs; ++s) merge = stride[s][last] == stride[s][d] * shape.shape[d];
    const int to = merge ? last : plan.rank++;
    size[to] = merge ? size[last] * shape.shape[d] : shape.shape[d];
    for (int s = 0; s < plan.inputs; ++s) stride[s][to] = stride[s][d];
  }
  for (int d = 0; d < plan.rank; ++d) {
    plan.size[d] = Divisor(size[d]);
    for (int s = 0; s < plan.inputs; ++s) {
      if (plan.source[s].layout == Layout::strided && (size[d] > 0x7fffffff || stride[s][d] > 0x7fffffff))
        fail(TREFOIL_INVALID_ARGUMENT, "elementwise: a broadcast tensor of more than 2^31 elements along one dimension is not supported on CUDA");
      plan.source[s].stride[d] = static_cast<int32_t>(stride[s][d]);
    }
  }
}

void elementwise(const Context& context, const TrefoilLaunch& args) {
  const TrefoilView* shape = nullptr;
  for (int o = 0; o < args.output_count && !shape; ++o)
    if (args.outputs[o].data) shape = &args.outputs[o];
  if (!shape || elements(*shape) == 0) return;
  const double declared = args.attribute_count ? args.attributes[0] : -1;
  if (!(declared >= 0 && declared * 5 + 1 + args.output_count == args.attribute_count))
    fail(TREFOIL_INVALID_ARGUMENT, "elementwise: %d attributes do not hold a program", args.attribute_count);
  for (int o = 0; o < args.output_count; ++o)
    if (args.outputs[o].data && elements(args.outputs[o]) != elements(*shape)) fail(TREFOIL_INVALID_ARGUMENT, "elementwise: outputs differ in shape");
  Plan plan{};
  Compiler compiler(args, static_cast<int>(declared));
  compiler.compile(plan);
  lay_out(plan, compiler, args, *shape);

  const int64_t count = elements(*shape);
  const bool four = (plan.strided ? plan.size[plan.rank - 1].value : count) % 4 == 0;
  plan.items = four ? count / 4 : count;
  if (four && plan.rank) plan.size[plan.rank - 1] = Divisor(plan.size[plan.rank - 1].value / 4);
  const size_t per_thread = static_cast<size_t>(plan.slots) * (four ? 16 : 4);
  unsigned threads = kLoopThreads;
  while (threads > 32 && threads * per_thread > 48 * 1024) threads /= 2;
  // As many blocks as a multiprocessor holds: by registers, or by shared memory, of which a block takes 1 KiB more.
  const size_t bytes = threads * per_thread, by_registers = kLoopBlocks * kLoopThreads / threads, by_memory = context.shared_limit / (bytes + 1024);
  const Shape grid{context.grid(plan.items, threads, static_cast<int>(std::min(by_registers, by_memory))), threads, bytes};
  if (four)
    launch(context, grid, elementwise_kernel<float4>, plan);
  else
    launch(context, grid, elementwise_kernel<float>, plan);
}

}  // namespace

extern const KernelEntry elementwise_kernels[] = {{"elementwise", elementwise, nullptr}, {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
