// conv_gdn_pool on the CPU of shapes that have no kernels of their own: torch's own convolution, which for these is as
// fast as the processor, with GDN and max-pool behind it as one kernel, and the same the other way round.
#pragma once

#include <array>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/gdn_tiles.h"
#include "cpu/kernels.h"
#include "torch/stage_tensors.h"

namespace meon::torch_ops {

// Of kernel, stride and padding: torch's convolution dies of a stride of some ten thousand.
inline constexpr int64_t kLibraryLargest = 1024;

// float64 keeps to the kernel of csrc/cpu/stage.h, whose sums have one order whatever the batch and the threads.
inline bool has_library_stage(const ConvShape& s, ScalarType type) {
  for (const int64_t n : {s.kernel_h, s.kernel_w, s.stride_h, s.stride_w, s.pad_h, s.pad_w}) {
    if (n > kLibraryLargest) return false;
  }
  return type == ScalarType::Float && s.batch > 0 && s.in_h > 0 && s.in_w > 0 && s.pool <= cpu::kGdnMaxPool &&
         !cpu::has_own_stage(s);
}

// Elements of the convolution's output, which the training forward keeps. meon_ext/ops.py's fake kernels follow.
inline int64_t library_kept_numel(const ConvShape& s) { return s.batch * s.out_channels * s.conv_h() * s.conv_w(); }

// The arguments that aten::convolution and its backward share, behind the tensors.
struct LibraryConvolution {
  std::vector<int64_t> stride, padding, dilation{1, 1}, output_padding{0, 0};

  explicit LibraryConvolution(const ConvShape& s) : stride{s.stride_h, s.stride_w}, padding{s.pad_h, s.pad_w} {}

  // x [N, Cin, H, W], channels_last or contiguous, weight [Cout, Cin, Kh, Kw] -> [N, Cout, conv_h, conv_w], likewise.
  Tensor forward(const Tensor& x, const Tensor& weight, const Tensor& bias) const {
    using torch::stable::detail::from;
    std::array<StableIValue, 9> stack{from(x),      from(weight),         from(std::optional(bias)),
                                      from(stride), from(padding),        from(dilation),
                                      from(false),  from(output_padding), from(int64_t{1})};
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
    return torch::stable::detail::to<Tensor>(stack[0]);
  }

  // The gradients of x (an undefined tensor where it is not wanted), weight and bias.
  std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                              bool input_grad) const {
    using torch::stable::detail::from;
    using torch::stable::detail::to;
    const std::vector<int64_t> bias_sizes{weight.size(0)};
    const std::array<bool, 3> wanted{input_grad, true, true};
    std::array<StableIValue, 11> stack{from(grad),
                                       from(x),
                                       from(weight),
                                       from(std::optional(bias_sizes)),
                                       from(stride),
                                       from(padding),
                                       from(dilation),
                                       from(false),
                                       from(output_padding),
                                       from(int64_t{1}),
                                       from(torch::headeronly::HeaderOnlyArrayRef<bool>(wanted.data(), wanted.size()))};
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_ABI_VERSION));
    return {to<Tensor>(stack[0]), to<Tensor>(stack[1]), to<Tensor>(stack[2])};
  }
};

// Of the convolution's two sides and its weight. Where the input has few channels, channels_last is several times as
// fast. What goes in and comes out of the op, y and the gradients of x and weight, keeps the layout of x and of weight
// instead, by the rule of gdn_format.
inline MemoryFormat library_format(const ConvShape& s, const Tensor& x) {
  return s.in_channels <= 16 ? MemoryFormat::ChannelsLast : gdn_format(x);
}

inline GdnPoolShape gdn_pool_shape(const ConvShape& s, MemoryFormat format, const Tensor& x) {
  return {.batch = s.batch,
          .channels = s.out_channels,
          .height = s.conv_h(),
          .width = s.conv_w(),
          .pool = s.pool,
          .x_channels_last = format == MemoryFormat::ChannelsLast,
          .y_channels_last = gdn_format(x) == MemoryFormat::ChannelsLast};
}

// [N, C, H, W] in that format as a row of its elements as they lie.
inline Tensor as_row(const Tensor& z, MemoryFormat format) {
  using torch::stable::transpose;
  return torch::stable::flatten(format == MemoryFormat::ChannelsLast ? transpose(transpose(z, 1, 2), 2, 3) : z, 0, -1);
}

inline Tensor empty_planes(const Tensor& like, int64_t batch, int64_t channels, int64_t height, int64_t width,
                           MemoryFormat format) {
  const std::array<int64_t, 4> sizes{batch, channels, height, width};
  return torch::stable::empty({sizes.data(), sizes.size()}, like.scalar_type(), std::nullopt, like.device(),
                              std::nullopt, format);
}

// x as conv_gdn_pool takes it, checked; p.weight in library_format. With `kept`, the convolution's output goes there.
inline Tensor library_stage_forward(const ConvShape& s, const Tensor& x, const StageTensors& p,
                                    const Parallel& parallel, Tensor* kept) {
  const MemoryFormat format = library_format(s, x);
  const Tensor z = torch::stable::contiguous(
      LibraryConvolution(s).forward(torch::stable::contiguous(x, format), p.weight, p.bias), format);
  Tensor y = empty_planes(x, s.batch, s.out_channels, s.out_h(), s.out_w(), gdn_format(x));
  cpu::gdn_pool_forward<float>(
      {gdn_pool_shape(s, format, x), static_cast<const float*>(z.const_data_ptr()),
       static_cast<const float*>(p.beta.const_data_ptr()), static_cast<const float*>(p.gamma.const_data_ptr()),
       static_cast<float*>(y.mutable_data_ptr())},
      parallel);
  if (kept != nullptr) *kept = as_row(z, format);
  return y;
}

// grad [N, Cout, Hp, Wp]; p.weight in library_format; kept: of the training forward on the same inputs, or none. Fills
// `out` and returns the gradient of x, [0] where it is not wanted.
inline Tensor library_stage_backward(const ConvShape& s, const Tensor& grad, const Tensor& x, const StageTensors& p,
                                     bool input_grad, const std::optional<Tensor>& kept, const Parallel& parallel,
                                     StageGradients& out) {
  const MemoryFormat format = library_format(s, x);
  const Tensor xc = torch::stable::contiguous(x, format);
  const LibraryConvolution convolution(s);
  const Tensor z =
      kept.has_value() ? *kept : torch::stable::contiguous(convolution.forward(xc, p.weight, p.bias), format);
  const Tensor grad_y = torch::stable::contiguous(grad, gdn_format(x));
  Tensor grad_z = empty_planes(x, s.batch, s.out_channels, s.conv_h(), s.conv_w(), format);
  cpu::gdn_pool_backward<float>(
      {gdn_pool_shape(s, format, x), static_cast<const float*>(grad_y.const_data_ptr()),
       static_cast<const float*>(z.const_data_ptr()), static_cast<const float*>(p.beta.const_data_ptr()),
       static_cast<const float*>(p.gamma.const_data_ptr()), static_cast<float*>(grad_z.mutable_data_ptr()),
       static_cast<float*>(out.beta.mutable_data_ptr()), static_cast<float*>(out.gamma.mutable_data_ptr())},
      parallel);
  Tensor grad_x;
  std::tie(grad_x, out.weight, out.bias) = convolution.backward(grad_z, xc, p.weight, input_grad);
  return input_grad ? torch::stable::contiguous(grad_x, gdn_format(x)) : new_input_gradient(x, s, false);
}

}  // namespace meon::torch_ops
