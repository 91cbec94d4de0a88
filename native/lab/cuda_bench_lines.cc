// The lines of cuda_bench.
#include "cuda_bench.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace {

// Lines that memory bounds move more than this, several times what a GPU's caches hold: else they would be measured from there.
constexpr int64_t kPastCaches = int64_t{1} << 28;

template <class... More>
std::vector<Tensor> list(Tensor first, More... more) {
  std::vector<Tensor> tensors;
  tensors.push_back(std::move(first));
  (tensors.push_back(std::move(more)), ...);
  return tensors;
}

Tensor ones(int64_t count, float value = 1) {
  return filled<float>({count}, TREFOIL_F32, [value](int64_t) { return value; });
}
// A value between ops, as it is stored in this precision: given, and to be made.
Tensor given(std::vector<int64_t> shape, float scale = 1) { return normal(std::move(shape), scale, activation); }
Tensor made(std::vector<int64_t> shape) { return empty(std::move(shape), activation); }

Tensor positions(int64_t batch, int64_t length) {
  return integers({batch, length}, [length](int64_t i) { return static_cast<int32_t>(i % length); });
}
Tensor generator_state() {
  return integers({4}, [](int64_t i) { return static_cast<int32_t>(i); });
}

// Weights too are stored as `given` stores: programs with an optimiser keep bf16 copies, which their products need not pack.
Work matmul_work(int64_t m, int64_t n, int64_t k) {
  Work work = one_op("matmul", list(given({m, k}, 0.1f), given({n, k}, 0.1f)), list(made({m, n})), {0, 1, 1, 0}, 2, 1);
  work.flops = 2.0 * double(m) * double(n) * double(k);
  return work;
}

// The gradient of a layer's weights: both operands across k, which are tokens.
Work weight_gradient_work(int64_t m, int64_t n, int64_t k) {
  Work work = one_op("matmul", list(given({k, m}, 0.1f), given({k, n}, 0.1f)), list(empty({m, n})), {1, 0, 1, 0}, 2, 1);
  work.flops = 2.0 * double(m) * double(n) * double(k);
  return work;
}

Work attention_work(int64_t batch, int64_t length, int64_t heads, int64_t size, bool backward) {
  const std::vector<int64_t> shape{batch, length, heads, size}, rows{batch, heads, length};
  const std::vector<double> attributes{1, 1 / std::sqrt(double(size))};
  Work work;
  if (backward) {
    Tensor lse = filled<float>(rows, TREFOIL_F32, [&](int64_t i) { return std::log(1.0f + static_cast<float>(i % length)) + 0.5f; });
    work = one_op("attention_grad", list(given(shape), given(shape), given(shape), given(shape), given(shape), std::move(lse)),
                  list(made(shape), made(shape), made(shape)), attributes, 2);
  } else {
    work = one_op("attention", list(given(shape), given(shape), given(shape)), list(made(shape), empty(rows)), attributes, 2);
  }
  // Two products forward, five backward, half of each under the causal mask.
  work.flops = (backward ? 5.0 : 2.0) * double(batch) * double(heads) * double(length) * double(length) * double(size);
  return work;
}

// One query per sequence against caches of `keys`, stored as f32 or bf16: bound by reading them. Small ones in several copies: the caches of
// the layers of a model do not stay in L2 from one token to the next.
Work decode_work(int64_t batch, int64_t keys, int64_t heads, int64_t kv_heads, int64_t size, bool bf16) {
  const std::vector<int64_t> q{batch, 1, heads, size}, kv{batch, keys, kv_heads, size};
  const int64_t bytes = 2 * batch * keys * kv_heads * size * (bf16 ? 2 : 4);
  Work work;
  work.copies = static_cast<int>(std::max<int64_t>(1, (kPastCaches + bytes - 1) / bytes));
  const int lengths = work.add(integers({batch}, [keys](int64_t) { return static_cast<int32_t>(keys); }));
  const auto cache = [&] { return work.add(normal(kv, 1, bf16 ? TREFOIL_BF16 : TREFOIL_F32)); };
  for (int copy = 0; copy < work.copies; ++copy) {
    const int query = work.add(given(q)), k = cache(), v = cache(), out = work.add(made(q)), lse = work.add(empty({batch, heads, 1}));
    work.calls.push_back({"attention", {query, k, v, lengths, -1}, {out, lse}, {1, 1 / std::sqrt(double(size))}});
  }
  return work;
}

// Flops of the scores alone; the kernel multiplies three times, in halves of bf16.
Work vq_work(int64_t rows, int64_t codes, int64_t width) {
  Work work = one_op("vq_lookup", list(normal({rows, width}), normal({codes, width})), list(empty({rows}, TREFOIL_I32), empty({rows})));
  work.flops = 2.0 * double(rows) * double(codes) * double(width);
  return work;
}

// Offsets of groups that are uneven by a third, as routers are.
Tensor uneven_groups(int64_t rows, int64_t experts) {
  std::vector<int32_t> offsets(static_cast<size_t>(experts) + 1);
  for (int64_t e = 0; e < experts; ++e)
    offsets[static_cast<size_t>(e) + 1] = static_cast<int32_t>(std::min<int64_t>(rows, offsets[static_cast<size_t>(e)] + rows / experts * (3 + (e % 3 - 1)) / 3));
  offsets.back() = static_cast<int32_t>(rows);
  return integers({experts + 1}, [&](int64_t i) { return offsets[static_cast<size_t>(i)]; });
}

Work grouped_work(int64_t tokens, int64_t experts, int64_t choices, int64_t k, int64_t n, bool weight_gradient) {
  const int64_t rows = tokens * choices;
  Work work = weight_gradient ? one_op("grouped_matmul_weight_grad", list(given({rows, n}, 0.1f), given({rows, k}, 0.1f), uneven_groups(rows, experts)), list(empty({experts, n, k})), {}, 2)
                              : one_op("grouped_matmul", list(given({rows, k}, 0.1f), given({experts, n, k}, 0.1f), uneven_groups(rows, experts)), list(made({rows, n})), {1}, 1);
  work.flops = 2.0 * double(rows) * double(n) * double(k);
  return work;
}

Work diffusion_work(int64_t batch, int64_t length, int64_t codes) {
  const std::vector<int64_t> logits{batch, length, codes}, tokens{batch, length};
  return one_op("masked_diffusion_step",
                list(normal(logits), normal(logits), integers(tokens, [](int64_t) { return -1; }), integers({batch}, [=](int64_t) { return static_cast<int32_t>(length / 2); }),
                     filled<float>({3}, TREFOIL_F32, [](int64_t i) { return i == 0 ? 2.0f : 1.0f; }), generator_state()),
                list(empty(tokens, TREFOIL_I32), empty(tokens, TREFOIL_I32), empty(tokens)), {-1, 0, 1, 0, 0}, 1);
}

Work cross_entropy_work(int64_t rows, int64_t width, int64_t vocabulary) {
  Tensor targets = integers({rows}, [vocabulary](int64_t i) { return static_cast<int32_t>(scramble(i) % vocabulary); });
  Work work = one_op("linear_cross_entropy", list(given({rows, width}, 0.05f), given({vocabulary, width}, 0.05f), std::move(targets), ones(rows, 1 / float(rows))),
                     list(empty({}), empty({rows}), made({rows, width}), empty({vocabulary, width})));
  work.flops = 3 * 2.0 * double(rows) * double(width) * double(vocabulary);
  return work;
}

// 3 x 3 over pictures of side x side. 0: forward, 1: gradient of the pictures, 2: of the kernel.
Work conv_work(int64_t images, int64_t side, int64_t channels, int pass) {
  const std::vector<int64_t> pictures{images, side, side, channels}, kernel{channels, 3, 3, channels};
  const std::vector<double> attributes{1, 1};
  Work work = pass == 0   ? one_op("conv2d", list(given(pictures), given(kernel, 0.02f)), list(made(pictures)), attributes, 1)
              : pass == 1 ? one_op("conv2d_input_grad", list(given(pictures), given(kernel, 0.02f)), list(made(pictures)), attributes)
                          : one_op("conv2d_weight_grad", list(given(pictures), given(pictures)), list(empty(kernel)), attributes);
  work.flops = 2.0 * double(images * side * side) * 9 * double(channels) * double(channels);
  return work;
}

Work adamw_work(int64_t n) {
  Tensor hyper = filled<float>({3}, TREFOIL_F32, [](int64_t i) { return i == 2 ? 10.0f : i == 1 ? 1.0f : 1e-4f; });
  Work work = one_op("adamw_", list(std::move(hyper), normal({n}), normal({n}), normal({n}), empty({n})), {}, {0.9, 0.95, 1e-8, 0.1}, 0, 3);
  work.bytes = 7.0 * 4 * double(n);  // p, g, m, v read; p, m, v written
  return work;
}

}  // namespace

std::vector<Line> all_lines() {
  std::vector<Line> lines;
  auto add = [&](std::string name, std::function<Work()> make) { lines.push_back({std::move(name), std::move(make)}); };
  const auto text = [](int64_t n) { return std::to_string(n); };
  for (auto [rows, n] : {std::array<int64_t, 2>{65536, 1024}, {16384, 4096}, {16384, 8192}}) {
    const std::string shape = " " + text(rows) + "x" + text(n);
    add("rms_norm" + shape, [=] { return one_op("rms_norm", list(normal({rows, n}), normal({n})), list(made({rows, n}), empty({rows})), {1e-5}); });
    add("rms_norm_grad" + shape, [=] {
      return one_op("rms_norm_grad", list(given({rows, n}), normal({rows, n}), normal({n}), ones(rows)), list(empty({rows, n}), empty({n})));
    });
  }
  add("layer_norm 16384x4096", [] {
    return one_op("layer_norm", list(normal({16384, 4096}), normal({4096}), normal({4096})), list(made({16384, 4096}), empty({16384}), empty({16384})), {1e-5});
  });
  add("group_norm 128x64x64x128, 32 groups", [] {
    return one_op("group_norm", list(normal({128, 64, 64, 128}), normal({128}), normal({128})), list(made({128, 64, 64, 128}), empty({128, 32}), empty({128, 32})), {32, 1e-5});
  });
  for (auto [rows, n] : {std::array<int64_t, 2>{8192, 4096}, {4096, 32000}})
    add("softmax " + text(rows) + "x" + text(n), [=] { return one_op("softmax", list(normal({rows, n})), list(empty({rows, n}))); });
  add("swiglu 16384x11008", [] { return one_op("swiglu", list(given({16384, 22016})), list(made({16384, 11008}))); });
  add("swiglu_grad 16384x11008", [] { return one_op("swiglu_grad", list(given({16384, 22016}), given({16384, 11008})), list(made({16384, 22016}))); });
  add("rope 8x2048x32x128", [] {
    return one_op("rope", list(given({8, 2048, 32, 128}), normal({2048, 64}), normal({2048, 64}), positions(8, 2048)), list(made({8, 2048, 32, 128})), {0, 0});
  });
  add("adamw 256M", [] { return adamw_work(int64_t{1} << 28); });
  add("sum_squares 256M", [] { return one_op("sum_squares", list(normal({int64_t{1} << 28})), list(empty({}))); });
  add("elementwise a*b+c, gelu 256M", [] {
    constexpr int64_t n = int64_t{1} << 28;
    return one_op("elementwise", list(given({n}), given({n})), list(made({n})), {3, 4, 0, 1, 0, 0, 33, 2, 0, 0, 0.5, 20, 3, 0, 0, 0, 4});
  });
  add("transpose 8x4096x4096", [] { return one_op("transpose", list(normal({8, 4096, 4096})), list(empty({8, 4096, 4096})), {0, 2, 1}); });
  add("reduce columns 65536x4096", [] { return one_op("reduce", list(normal({65536, 4096})), list(empty({4096})), {0, 1, 65536, 4096}); });
  add("gather_rows 16384 of 128000x4096", [] {
    Work work = one_op("gather_rows", list(normal({128000, 4096}), integers({16384}, [](int64_t i) { return static_cast<int32_t>(scramble(i) % 128000); })), list(empty({16384, 4096})));
    work.bytes = 2.0 * 16384 * 4096 * 4;
    return work;
  });
  add("scatter_add_rows 16384 to 32000x4096", [] {
    return one_op("scatter_add_rows", list(normal({16384, 4096}), integers({16384}, [](int64_t i) { return static_cast<int32_t>(scramble(i) % 32000); })), list(empty({32000, 4096})));
  });
  for (int64_t batch : {128, 1024})
    add("masked_diffusion_step " + text(batch) + "x256x8192", [batch] { return diffusion_work(batch, 256, 8192); });
  // 33 MB, which L2 holds, as it does after the product that makes them.
  add("sample_tokens 64x128000", [] {
    return one_op("sample_tokens", list(normal({64, 128000}, 3.0f), generator_state()), list(empty({64}, TREFOIL_I32), empty({64})), {1, 50, 0.95, 0});
  });
  for (int64_t n : {1024, 4096, 8192}) add("matmul " + text(n), [n] { return matmul_work(n, n, n); });
  add("matmul 16384x4096x11008", [] { return matmul_work(16384, 11008, 4096); });
  add("matmul 4096x16384x11008 (weight gradient)", [] { return weight_gradient_work(4096, 11008, 16384); });
  add("matmul 64x4096x4096 (decode)", [] { return matmul_work(64, 4096, 4096); });
  for (int pass : {0, 1, 2}) {
    constexpr const char* kOps[] = {"conv2d", "conv2d_input_grad", "conv2d_weight_grad"};
    add(std::string(kOps[pass]) + " 16x64x64x128, 3x3", [pass] { return conv_work(16, 64, 128, pass); });
  }
  for (int64_t size : {64, 128})
    for (int64_t length : {1024, 2048, 4096, 8192, 16384}) {
      const int64_t batch = 16384 / length, heads = 2048 / size;
      const std::string shape = " " + text(batch) + "x" + text(length) + "x" + text(heads) + "x" + text(size);
      for (bool backward : {false, true}) add((backward ? "attention_grad" : "attention") + shape, [=] { return attention_work(batch, length, heads, size, backward); });
    }
  for (bool bf16 : {true, false}) {
    const std::string suffix = bf16 ? " bf16 keys" : " f32 keys";
    add("attention decode 64x2048x32/8x128" + suffix, [=] { return decode_work(64, 2048, 32, 8, 128, bf16); });
    add("attention decode 1x16384x32/8x128" + suffix, [=] { return decode_work(1, 16384, 32, 8, 128, bf16); });
  }
  // Mixtral's layer, and many small experts.
  add("moe layer 4096 tokens 4096x14336, 8 experts top-2", [] { return mixture_layer(4096, 4096, 14336, 8, 2); });
  add("moe layer 8192 tokens 2048x1024, 64 experts top-8", [] { return mixture_layer(8192, 2048, 1024, 64, 8); });
  for (bool weight_gradient : {false, true}) {
    const std::string op = weight_gradient ? "grouped_matmul_weight_grad" : "grouped_matmul";
    add(op + " mixtral 4096 tokens", [=] { return grouped_work(4096, 8, 2, 4096, 14336, weight_gradient); });
    add(op + " 64 experts top-8", [=] { return grouped_work(8192, 64, 8, 2048, 1024, weight_gradient); });
  }
  add("vq_lookup 16384x8192x256", [] { return vq_work(16384, 8192, 256); });
  for (int64_t vocabulary : {32000, 128000})
    add("linear_cross_entropy 8192x2048x" + text(vocabulary), [vocabulary] { return cross_entropy_work(8192, 2048, vocabulary); });
  return lines;
}
