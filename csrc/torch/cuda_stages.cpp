// The CUDA kernels of the stage ops whose schemas are in ops.cpp: for the stages of MEON. meon_ext/ops.py computes
// others with torch's convolution and pooling around gdn.
#include <optional>
#include <tuple>

#include "core/layers.h"
#include "cuda/conv_gdn_pool.h"
#include "torch/box.h"
#include "torch/cuda_device.h"
#include "torch/stage_tensors.h"

namespace meon::torch_ops {
namespace {

void check_stage(const char* op, const Tensor& weight, const ConvShape& s) {
  STD_TORCH_CHECK(weight.scalar_type() != ScalarType::Double && cuda::has_fused_stage(s), "torch.ops.meon_ext.", op,
                  " takes on CUDA only the stages of MEON, in float32, float16 or bfloat16; meon_ext.ops.", op,
                  " takes everything");
}

ConvShape check_conv_input(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& beta,
                           const Tensor& gamma, const IntList& stride, const IntList& padding, int64_t pool) {
  check_cuda_floating(x, "x");
  check_shape(x, "x", {-1, -1, -1, -1}, "(N, in_channels, H, W)");
  check_same_kind(weight, "weight", x, "x");
  const ConvShape s =
      check_conv(x.size(0), x.size(1), x.size(2), x.size(3), weight, bias, beta, gamma, stride, padding, pool);
  check_stage("conv_gdn_pool", weight, s);
  return s;
}

// The values of the boxes are left to the kernels: looking at them here would wait for the device.
ConvShape check_crops(const Tensor& image, const Tensor& boxes, const Tensor& weight, const Tensor& bias,
                      const Tensor& beta, const Tensor& gamma, const IntList& crop, const IntList& stride,
                      const IntList& padding, int64_t pool) {
  check_on_cuda(image, "image");
  check_shape(image, "image", {-1, -1, -1}, "(H, W, C)");
  STD_TORCH_CHECK(image.scalar_type() == ScalarType::Byte, "image must be uint8");
  STD_TORCH_CHECK(boxes.scalar_type() == ScalarType::Long && boxes.device() == image.device(),
                  "boxes must be int64 on the image's device");
  check_shape(boxes, "boxes", {-1, 4}, "(K, 4), rows (x0, y0, x1, y1)");
  check_cuda_floating(weight, "weight");
  STD_TORCH_CHECK(weight.device() == image.device(), "weight and image are on different devices; move one with .to()");
  STD_TORCH_CHECK(crop.size() == 2 && crop[0] > 0 && crop[1] > 0, "crop must hold two positive numbers");
  const ConvShape s =
      check_conv(boxes.size(0), image.size(2), crop[0], crop[1], weight, bias, beta, gamma, stride, padding, pool);
  check_stage("crop_conv_gdn_pool", weight, s);
  STD_TORCH_CHECK(s.in_channels == kImageChannels, "image must have ", kImageChannels, " channels on CUDA");
  return s;
}

void check_kept(const std::optional<Tensor>& kept) {
  STD_TORCH_CHECK(!kept.has_value() || kept->numel() == 0, "kept must be empty: nothing is kept on CUDA");
}

Tensor conv_gdn_pool(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& beta, const Tensor& gamma,
                     const IntList& stride, const IntList& padding, int64_t pool) {
  const ConvShape s = check_conv_input(x, weight, bias, beta, gamma, stride, padding, pool);
  const OnDeviceOf device(x);
  const Tensor xc = torch::stable::contiguous(x);
  const StageTensors p(weight, bias, beta, gamma);
  Tensor y = new_output(x, s);
  check_launch(dispatch_summed_in_float(x, [&](auto tag) {
    using T = decltype(tag);
    return cuda::conv_gdn_pool_forward<T>(
        {s, in<T>(xc), in<T>(p.weight), in<T>(p.bias), in<T>(p.beta), in<T>(p.gamma), out<T>(y)}, device.stream());
  }));
  return y;
}

// Nothing is kept: the backward computes the convolution again.
std::tuple<Tensor, Tensor> conv_gdn_pool_train(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                               const Tensor& beta, const Tensor& gamma, const IntList& stride,
                                               const IntList& padding, int64_t pool) {
  Tensor y = conv_gdn_pool(x, weight, bias, beta, gamma, stride, padding, pool);
  return {y, new_empty(x, {0})};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> conv_gdn_pool_backward(const Tensor& grad, const Tensor& x,
                                                                          const Tensor& weight, const Tensor& bias,
                                                                          const Tensor& beta, const Tensor& gamma,
                                                                          const IntList& stride, const IntList& padding,
                                                                          int64_t pool, bool input_grad,
                                                                          const std::optional<Tensor>& kept) {
  const ConvShape s = check_conv_input(x, weight, bias, beta, gamma, stride, padding, pool);
  check_grad(grad, x, "x", s);
  check_kept(kept);
  const OnDeviceOf device(x);
  const Tensor gr = torch::stable::contiguous(grad), xc = torch::stable::contiguous(x);
  const StageTensors p(weight, bias, beta, gamma);
  Tensor grad_x = new_input_gradient(x, s, input_grad);
  StageGradients g(x, s);
  const Tensor workspace = new_workspace(x, cuda::conv_gdn_pool_backward_workspace(s));
  check_launch(dispatch_summed_in_float(x, [&](auto tag) {
    using T = decltype(tag);
    return cuda::conv_gdn_pool_backward<T>(
        {s, in<T>(gr), in<T>(xc), in<T>(p.weight), in<T>(p.bias), in<T>(p.beta), in<T>(p.gamma),
         input_grad ? out<T>(grad_x) : nullptr, out<T>(g.weight), out<T>(g.bias), out<T>(g.beta), out<T>(g.gamma)},
        workspace.mutable_data_ptr(), device.stream());
  }));
  return {grad_x, g.weight, g.bias, g.beta, g.gamma};
}

// image and boxes are contiguous.
CropInput crop_input(const Tensor& image, const Tensor& boxes) {
  return {in<uint8_t>(image), image.size(1), in<int64_t>(boxes), image.size(0)};
}

Tensor crop_conv_gdn_pool(const Tensor& image, const Tensor& boxes, const Tensor& weight, const Tensor& bias,
                          const Tensor& beta, const Tensor& gamma, const IntList& crop, const IntList& stride,
                          const IntList& padding, int64_t pool) {
  const ConvShape s = check_crops(image, boxes, weight, bias, beta, gamma, crop, stride, padding, pool);
  const OnDeviceOf device(image);
  const Tensor im = torch::stable::contiguous(image), bx = torch::stable::contiguous(boxes);
  const StageTensors p(weight, bias, beta, gamma);
  Tensor y = new_output(weight, s);
  check_launch(dispatch_summed_in_float(weight, [&](auto tag) {
    using T = decltype(tag);
    return cuda::crop_conv_gdn_pool_forward<T>(
        {s, crop_input(im, bx), in<T>(p.weight), in<T>(p.bias), in<T>(p.beta), in<T>(p.gamma), out<T>(y)},
        device.stream());
  }));
  return y;
}

std::tuple<Tensor, Tensor> crop_conv_gdn_pool_train(const Tensor& image, const Tensor& boxes, const Tensor& weight,
                                                    const Tensor& bias, const Tensor& beta, const Tensor& gamma,
                                                    const IntList& crop, const IntList& stride, const IntList& padding,
                                                    int64_t pool) {
  Tensor y = crop_conv_gdn_pool(image, boxes, weight, bias, beta, gamma, crop, stride, padding, pool);
  return {y, new_empty(weight, {0})};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> crop_conv_gdn_pool_backward(
    const Tensor& grad, const Tensor& image, const Tensor& boxes, const Tensor& weight, const Tensor& bias,
    const Tensor& beta, const Tensor& gamma, const IntList& crop, const IntList& stride, const IntList& padding,
    int64_t pool, const std::optional<Tensor>& kept) {
  const ConvShape s = check_crops(image, boxes, weight, bias, beta, gamma, crop, stride, padding, pool);
  check_grad(grad, weight, "weight", s);
  check_kept(kept);
  const OnDeviceOf device(image);
  const Tensor gr = torch::stable::contiguous(grad);
  const Tensor im = torch::stable::contiguous(image), bx = torch::stable::contiguous(boxes);
  const StageTensors p(weight, bias, beta, gamma);
  StageGradients g(weight, s);
  const Tensor workspace = new_workspace(weight, cuda::conv_gdn_pool_backward_workspace(s));
  check_launch(dispatch_summed_in_float(weight, [&](auto tag) {
    using T = decltype(tag);
    return cuda::crop_conv_gdn_pool_backward<T>(
        {s, crop_input(im, bx), in<T>(gr), in<T>(p.weight), in<T>(p.bias), in<T>(p.beta), in<T>(p.gamma),
         out<T>(g.weight), out<T>(g.bias), out<T>(g.beta), out<T>(g.gamma)},
        workspace.mutable_data_ptr(), device.stream());
  }));
  return {g.weight, g.bias, g.beta, g.gamma};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meon_ext, CUDA, m) {
  m.impl("conv_gdn_pool", MEON_BOX(&conv_gdn_pool));
  m.impl("conv_gdn_pool_train", MEON_BOX(&conv_gdn_pool_train));
  m.impl("conv_gdn_pool_backward", MEON_BOX(&conv_gdn_pool_backward));
  m.impl("crop_conv_gdn_pool", MEON_BOX(&crop_conv_gdn_pool));
  m.impl("crop_conv_gdn_pool_train", MEON_BOX(&crop_conv_gdn_pool_train));
  m.impl("crop_conv_gdn_pool_backward", MEON_BOX(&crop_conv_gdn_pool_backward));
}

}  // namespace meon::torch_ops
