// The one boundary where tensors turn into pointers. meon_ext/ops.py checks the same things first, with the errors
// a Python caller expects; these checks stand behind it for whoever calls torch.ops.meon_ext directly, so that no
// argument can make a kernel read or write outside its tensors.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "core/crop_grid.h"
#include "core/params.h"

namespace meon::torch_ops {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using IntList = std::vector<int64_t>;

template <class T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <class T>
T* out(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

inline std::string shape_of(const Tensor& t) {
  std::string out = "(";
  for (int64_t d = 0; d < t.dim(); ++d) out += (d ? ", " : "") + std::to_string(t.size(d));
  return out + ")";
}

// dims: what each must be, or -1 for any. `meaning` names them, e.g. "(out_channels,)".
inline void check_shape(const Tensor& t, const char* name, std::initializer_list<int64_t> dims, const char* meaning) {
  bool fits = t.dim() == static_cast<int64_t>(dims.size());
  int64_t d = 0;
  for (const int64_t want : dims) {
    if (fits && want >= 0) fits = t.size(d) == want;
    ++d;
  }
  STD_TORCH_CHECK(fits, name, " has shape ", shape_of(t), "; it must be ", meaning);
}

inline void check_same_kind(const Tensor& t, const char* name, const Tensor& like, const char* like_name) {
  STD_TORCH_CHECK(t.scalar_type() == like.scalar_type(), name, " and ", like_name,
                  " have different dtypes; convert one with .to(dtype)");
  STD_TORCH_CHECK(t.device() == like.device(), name, " and ", like_name,
                  " are on different devices; move one with .to(device)");
}

inline void check_cpu_floating(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.is_cpu(), name, " is not on the CPU");
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double, name,
                  " must be float32 or float64 on the CPU; convert it with .float() or .double()");
}

// x (N, C) or (N, C, H, W), beta (C,), gamma (C, C).
inline void check_gdn(const Tensor& x, const Tensor& beta, const Tensor& gamma) {
  STD_TORCH_CHECK(x.dim() == 2 || x.dim() == 4, "x has shape ", shape_of(x), "; it must be (N, C) or (N, C, H, W)");
  check_shape(beta, "beta", {x.size(1)}, "(channels,), as many as x has");
  check_shape(gamma, "gamma", {x.size(1), x.size(1)}, "(channels, channels), as many as x has");
  check_same_kind(beta, "beta", x, "x");
  check_same_kind(gamma, "gamma", x, "x");
}

// The layout that gdn works in and gives back: channels_last stays channels_last, whatever is dense in neither
// order is made contiguous. meon_ext/ops.py's fake kernels follow the same rule.
inline bool is_channels_last_only(const Tensor& x) {
  if (x.dim() != 4 || x.is_contiguous()) return false;
  const int64_t C = x.size(1), H = x.size(2), W = x.size(3);
  return x.stride(1) == 1 && x.stride(3) == C && x.stride(2) == W * C && x.stride(0) == H * W * C;
}

inline MemoryFormat gdn_format(const Tensor& x) {
  return is_channels_last_only(x) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

inline GdnShape gdn_shape(const Tensor& x, MemoryFormat format) {
  const int64_t channels = x.size(1);
  const int64_t spatial = x.dim() == 4 ? x.size(2) * x.size(3) : 1;
  const bool last = format == MemoryFormat::ChannelsLast;
  return {.batch = x.size(0),
          .channels = channels,
          .spatial = spatial,
          .stride_c = last ? 1 : spatial,
          .stride_s = last ? channels : 1};
}

inline Tensor empty_like_format(const Tensor& x, MemoryFormat format) {
  return torch::stable::empty(x.sizes(), x.scalar_type(), std::nullopt, x.device(), std::nullopt, format);
}

inline Tensor new_empty(const Tensor& like, std::initializer_list<int64_t> sizes) {
  return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(sizes.begin(), sizes.size()));
}

// No side, stride or padding reaches this, so that no sum or product of two of them overflows.
inline constexpr int64_t kSideLimit = int64_t{1} << 31;

inline int64_t checked_side(const char* axis, int64_t in, int64_t pad, int64_t kernel, int64_t stride) {
  STD_TORCH_CHECK(in < kSideLimit, "the input must be below 2^31 pixels along its ", axis, ", got ", in);
  STD_TORCH_CHECK(kernel > 0, "weight has an empty kernel along its ", axis);
  STD_TORCH_CHECK(stride > 0 && stride < kSideLimit, "stride must be from 1 to 2^31 - 1, got ", stride, " along the ",
                  axis);
  STD_TORCH_CHECK(pad >= 0 && pad < kSideLimit, "padding must be from 0 to 2^31 - 1, got ", pad, " along the ", axis);
  const int64_t room = in + 2 * pad - kernel;
  STD_TORCH_CHECK(room >= 0, "the padded input is ", in + 2 * pad, " pixels along its ", axis,
                  ", less than the kernel's ", kernel, "; use a larger input or more padding");
  return room / stride + 1;
}

// The shape of conv_gdn_pool over `batch` inputs of (in_channels, in_h, in_w), with every parameter checked.
inline ConvShape check_conv(int64_t batch, int64_t in_channels, int64_t in_h, int64_t in_w, const Tensor& weight,
                            const Tensor& bias, const Tensor& beta, const Tensor& gamma, const IntList& stride,
                            const IntList& padding, int64_t pool) {
  check_shape(weight, "weight", {-1, in_channels, -1, -1}, "(out_channels, in_channels, kernel_h, kernel_w)");
  const int64_t out = weight.size(0);
  STD_TORCH_CHECK(out > 0, "weight has no output channel");
  check_shape(bias, "bias", {out}, "(out_channels,)");
  check_shape(beta, "beta", {out}, "(out_channels,)");
  check_shape(gamma, "gamma", {out, out}, "(out_channels, out_channels)");
  check_same_kind(bias, "bias", weight, "weight");
  check_same_kind(beta, "beta", weight, "weight");
  check_same_kind(gamma, "gamma", weight, "weight");
  STD_TORCH_CHECK(stride.size() == 2 && padding.size() == 2, "stride and padding must each hold two numbers");
  STD_TORCH_CHECK(pool > 0, "pool must be positive, got ", pool);
  const int64_t conv_h = checked_side("height", in_h, padding[0], weight.size(2), stride[0]);
  const int64_t conv_w = checked_side("width", in_w, padding[1], weight.size(3), stride[1]);
  STD_TORCH_CHECK(conv_h >= pool && conv_w >= pool, "the convolution gives ", conv_h, " x ", conv_w,
                  " pixels, less than one pool window of ", pool, " x ", pool,
                  "; use a larger input or a smaller pool");
  // What a kernel works on at a time: the rows of one row of windows.
  STD_TORCH_CHECK(static_cast<double>(pool) * static_cast<double>(conv_w) * static_cast<double>(out) < 0x1p60,
                  "pool windows of ", pool, " x ", pool, " over rows of ", conv_w, " pixels of ", out,
                  " channels are too large; use a smaller pool or less padding");
  return {.batch = batch,
          .in_channels = in_channels,
          .in_h = in_h,
          .in_w = in_w,
          .out_channels = out,
          .kernel_h = weight.size(2),
          .kernel_w = weight.size(3),
          .stride_h = stride[0],
          .stride_w = stride[1],
          .pad_h = padding[0],
          .pad_w = padding[1],
          .pool = pool};
}

inline CropExtraction check_extraction(int64_t height, int64_t width, int64_t channels, int64_t size, int64_t stride) {
  STD_TORCH_CHECK(size > 0, "size must be positive, got ", size);
  STD_TORCH_CHECK(stride > 0 && stride < kSideLimit, "stride must be from 1 to 2^31 - 1, got ", stride);
  STD_TORCH_CHECK(height < kSideLimit && width < kSideLimit, "an image of ", width, " x ", height,
                  " pixels is too large; a side must be below 2^31");
  STD_TORCH_CHECK(height >= size && width >= size, "an image of ", width, " x ", height,
                  " pixels is smaller than one crop of ", size, " x ", size);
  return {height, width, channels, size, stride};
}

inline int64_t crop_total(const CropExtraction& s) {
  return crop_count(s.height, s.size, s.stride) * crop_count(s.width, s.size, s.stride);
}

}  // namespace meon::torch_ops
