// Where the operands of a convolution's products come from: windows of an image and taps of a kernel, read as matrices that are
// nowhere stored. Images are [N, height, width, channels], kernels [O, kernel rows, kernel columns, channels].
#pragma once
#include "gemm_problem.h"

namespace trefoil::cuda {

// Row: an output position (n, u, v). Column: (i, j, c), the channels of tap (i, j) together. Outside the image: zero.
template <class T>
struct Windows {
  using Element = T;
  const T* data = nullptr;
  int height, width, channels;
  int out_rows, out_columns, kernel_columns;
  int stride, before_rows, before_columns;  // before: padding above and to the left
  struct Outer {
    int64_t image;  // its first pixel
    int row, column;
  };
  struct Inner {
    int row, column, channel;
  };
  __device__ __forceinline__ void select(int) {}
  __device__ __forceinline__ Outer outer(int position) const {
    const int v = position % out_columns, rest = position / out_columns, u = rest % out_rows, n = rest / out_rows;
    return {static_cast<int64_t>(n) * height * width, u * stride - before_rows, v * stride - before_columns};
  }
  __device__ __forceinline__ Inner inner(int at) const {
    const int tap = at / channels;
    return {tap / kernel_columns, tap % kernel_columns, at % channels};
  }
  __device__ __forceinline__ const T* at(const Outer& o, const Inner& i) const {
    const int row = o.row + i.row, column = o.column + i.column;
    if (row < 0 || row >= height || column < 0 || column >= width) return nullptr;
    return data + (o.image + static_cast<int64_t>(row) * width + column) * channels + i.channel;
  }
  __device__ __forceinline__ bool vectors() const { return channels % 4 == 0; }
};

// Row: (i, j, o), every step-th tap from the last to the first, output channels innermost (`depth` of them, those past
// out_channels zero). Column: an input channel.
template <class T>
struct Taps {
  using Element = T;
  const T* data = nullptr;
  int kernel_rows, kernel_columns, channels, out_channels, depth;
  int first_row, first_column, rows, columns, step;
  using Outer = const T*;
  using Inner = int;
  __device__ __forceinline__ void select(int) {}
  __device__ __forceinline__ Outer outer(int at) const {
    const int o = at % depth, tap = at / depth, i = rows - 1 - tap / columns, j = columns - 1 - tap % columns;
    if (o >= out_channels) return nullptr;
    return data + ((static_cast<int64_t>(o) * kernel_rows + first_row + i * step) * kernel_columns + first_column + j * step) * channels;
  }
  __device__ __forceinline__ Inner inner(int channel) const { return channel; }
  __device__ __forceinline__ const T* at(Outer o, Inner i) const { return o ? o + i : nullptr; }
  __device__ __forceinline__ bool vectors() const { return channels % 4 == 0; }
};

// y = windows wᵀ, dx = windows of dy times taps, dw = dyᵀ windows. conv2d_f32.cu, conv2d_bf16.cu.
void gemm_conv(const Context& context, const Windows<float>& x, const Rows<float>& w, const Product& p, bool large);
void gemm_conv(const Context& context, const Windows<float>& dy, const Taps<float>& w, const Product& p, bool large);
void gemm_conv(const Context& context, const Rows<float>& dy, const Windows<float>& x, const Product& p, bool large);
void gemm_conv(const Context& context, const Windows<bf16>& x, const Rows<bf16>& w, const Product& p, bool large);
void gemm_conv(const Context& context, const Windows<bf16>& dy, const Taps<bf16>& w, const Product& p, bool large);
void gemm_conv(const Context& context, const Rows<bf16>& dy, const Windows<bf16>& x, const Product& p, bool large);

}  // namespace trefoil::cuda
