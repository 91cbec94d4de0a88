// Counter-based random numbers: element i depends on state, stream and i alone. The uniform ones are those of the CPU bit for bit.
#include "kernel.h"
#include "philox.h"

namespace trefoil::cuda {

namespace {

// Box–Muller; u1 is in (0, 1], so that its logarithm is finite.
__device__ __forceinline__ float2 normal_pair(uint32_t first, uint32_t second) {
  const float radius = sqrtf(-2.0f * logf(unit_interval(first) + 0x1p-24f));
  float sine, cosine;
  sincospif(2.0f * unit_interval(second), &sine, &cosine);
  return make_float2(radius * cosine, radius * sine);
}

template <bool normal>
__global__ void random_kernel(const int32_t* state, float* y, int64_t count, uint32_t stream) {
  for (int64_t block = first_index(); block * 4 < count; block += index_stride()) {
    const uint4 words = philox(state, stream, static_cast<uint32_t>(block));
    float4 values;
    if constexpr (normal) {
      const float2 first = normal_pair(words.x, words.y), second = normal_pair(words.z, words.w);
      values = make_float4(first.x, first.y, second.x, second.y);
    } else {
      values = make_float4(unit_interval(words.x), unit_interval(words.y), unit_interval(words.z), unit_interval(words.w));
    }
    const int64_t i = block * 4;
    if (i + 4 <= count) {
      store4(y + i, values);
    } else {
      y[i] = values.x;
      if (i + 1 < count) y[i + 1] = values.y;
      if (i + 2 < count) y[i + 2] = values.z;
    }
  }
}

__global__ void random_advance_kernel(int32_t* states, int64_t count, const ErrorRecord* errors) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= count || errors->set) return;
  int32_t* state = states + 4 * i;
  const uint32_t low = static_cast<uint32_t>(state[2]) + 1;
  state[2] = static_cast<int32_t>(low);
  if (low == 0) state[3] = static_cast<int32_t>(static_cast<uint32_t>(state[3]) + 1);
}

template <bool normal>
void random(const Context& context, const TrefoilLaunch& args) {
  const int64_t count = elements(args.outputs[0]);
  if (!args.outputs[0].data || count == 0) return;
  launch(context, {context.grid(ceil_divide(count, 4), 256), 256}, random_kernel<normal>, data<int32_t>(args.inputs[0]), data<float>(args.outputs[0]),
         count, static_cast<uint32_t>(static_cast<int64_t>(args.attributes[0])));
}

void random_advance(const Context& context, const TrefoilLaunch& args) {
  const int64_t states = elements(args.inputs[0]) / 4;
  if (states == 0) return;
  launch(context, {static_cast<unsigned>(ceil_divide(states, 128)), 128}, random_advance_kernel, data<int32_t>(args.inputs[0]), states, context.errors);
}

}  // namespace

extern const KernelEntry random_kernels[] = {{"random_uniform", random<false>, nullptr},
                                             {"random_normal", random<true>, nullptr},
                                             {"random_advance_", random_advance, nullptr},
                                             {nullptr, nullptr, nullptr}};

}  // namespace trefoil::cuda
