// Schemas of the ops, and their CPU kernels. Autograd, autocast and fake kernels are registered by meon_ext/ops.py.
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/kernels.h"
#include "torch/box.h"
#include "torch/library_stage.h"
#include "torch/parallel.h"
#include "torch/stage_tensors.h"

namespace meon::torch_ops {
namespace {

// Calls f with a value of the tensor's element type; the tensor is float or double.
template <class F>
void dispatch(const Tensor& t, F&& f) {
  if (t.scalar_type() == ScalarType::Double) {
    f(double{});
  } else {
    f(float{});
  }
}

Tensor gdn(const Tensor& x, const Tensor& beta, const Tensor& gamma) {
  check_cpu_floating(x, "x");
  check_gdn(x, beta, gamma);
  const MemoryFormat format = gdn_format(x);
  const Tensor xc = torch::stable::contiguous(x, format);
  const Tensor b = torch::stable::contiguous(beta), g = torch::stable::contiguous(gamma);
  Tensor y = empty_like_format(x, format);
  dispatch(x, [&](auto tag) {
    using T = decltype(tag);
    cpu::gdn_forward<T>({gdn_shape(x, format), in<T>(xc), in<T>(b), in<T>(g), out<T>(y)}, TorchParallel());
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> gdn_backward(const Tensor& grad, const Tensor& x, const Tensor& beta,
                                                const Tensor& gamma) {
  check_cpu_floating(x, "x");
  check_gdn(x, beta, gamma);
  check_same_kind(grad, "grad", x, "x");
  STD_TORCH_CHECK(grad.sizes().vec() == x.sizes().vec(), "grad has shape ", shape_of(grad), " but x has ", shape_of(x));
  const MemoryFormat format = gdn_format(x);
  const Tensor gc = torch::stable::contiguous(grad, format), xc = torch::stable::contiguous(x, format);
  const Tensor b = torch::stable::contiguous(beta), g = torch::stable::contiguous(gamma);
  Tensor grad_x = empty_like_format(x, format);
  Tensor grad_beta = new_empty(beta, {beta.size(0)});
  Tensor grad_gamma = new_empty(gamma, {gamma.size(0), gamma.size(1)});
  dispatch(x, [&](auto tag) {
    using T = decltype(tag);
    cpu::gdn_backward<T>({gdn_shape(x, format), in<T>(gc), in<T>(xc), in<T>(b), in<T>(g), out<T>(grad_x),
                          out<T>(grad_beta), out<T>(grad_gamma)},
                         TorchParallel());
  });
  return {grad_x, grad_beta, grad_gamma};
}

ConvShape check_conv_input(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& beta,
                           const Tensor& gamma, const IntList& stride, const IntList& padding, int64_t pool) {
  check_cpu_floating(x, "x");
  check_shape(x, "x", {-1, -1, -1, -1}, "(N, in_channels, H, W)");
  check_same_kind(weight, "weight", x, "x");
  return check_conv(x.size(0), x.size(1), x.size(2), x.size(3), weight, bias, beta, gamma, stride, padding, pool);
}

// What a forward keeps for its backward: an opaque row of numbers, empty for shapes that keep nothing.
Tensor new_kept(const Tensor& like, const ConvShape& s) {
  int64_t numel = 0;
  dispatch(like, [&](auto tag) { numel = cpu::kept_numel<decltype(tag)>(s); });
  return new_empty(like, {numel});
}

Tensor new_crop_kept(const Tensor& like, const ConvShape& s) {
  int64_t numel = 0;
  dispatch(like, [&](auto tag) { numel = cpu::crop_kept_numel<decltype(tag)>(s); });
  return new_empty(like, {numel});
}

void check_kept(const Tensor& kept, const Tensor& like, int64_t numel) {
  check_same_kind(kept, "kept", like, "weight");
  check_shape(kept, "kept", {numel}, "that of the training forward's second output");
  STD_TORCH_CHECK(kept.is_contiguous(), "kept must be contiguous");
}

// What the backward was given, or null.
template <class T>
const T* checked_kept(const std::optional<Tensor>& kept, const Tensor& like, int64_t numel) {
  if (!kept.has_value()) return nullptr;
  check_kept(*kept, like, numel);
  return kept->numel() == 0 ? nullptr : in<T>(*kept);
}

// With `kept`, that is made and filled too.
Tensor conv_gdn_pool_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& beta,
                             const Tensor& gamma, const IntList& stride, const IntList& padding, int64_t pool,
                             Tensor* kept) {
  const ConvShape s = check_conv_input(x, weight, bias, beta, gamma, stride, padding, pool);
  if (has_library_stage(s, x.scalar_type())) {
    const StageTensors p(weight, bias, beta, gamma, library_format(s, x));
    return library_stage_forward(s, x, p, TorchParallel(), kept);
  }
  const StageTensors p(weight, bias, beta, gamma);
  const Tensor xc = torch::stable::contiguous(x);
  Tensor y = new_output(x, s);
  if (kept != nullptr) *kept = new_kept(x, s);
  dispatch(x, [&](auto tag) {
    using T = decltype(tag);
    cpu::conv_gdn_pool_forward<T>({s, in<T>(xc), in<T>(p.weight), in<T>(p.bias), in<T>(p.beta), in<T>(p.gamma),
                                   out<T>(y), kept != nullptr ? out<T>(*kept) : nullptr},
                                  TorchParallel());
  });
  return y;
}

Tensor conv_gdn_pool(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& beta, const Tensor& gamma,
                     const IntList& stride, const IntList& padding, int64_t pool) {
  return conv_gdn_pool_forward(x, weight, bias, beta, gamma, stride, padding, pool, nullptr);
}

std::tuple<Tensor, Tensor> conv_gdn_pool_train(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                               const Tensor& beta, const Tensor& gamma, const IntList& stride,
                                               const IntList& padding, int64_t pool) {
  Tensor kept;
  Tensor y = conv_gdn_pool_forward(x, weight, bias, beta, gamma, stride, padding, pool, &kept);
  return {y, kept};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> conv_gdn_pool_backward(const Tensor& grad, const Tensor& x,
                                                                          const Tensor& weight, const Tensor& bias,
                                                                          const Tensor& beta, const Tensor& gamma,
                                                                          const IntList& stride, const IntList& padding,
                                                                          int64_t pool, bool input_grad,
                                                                          const std::optional<Tensor>& kept) {
  const ConvShape s = check_conv_input(x, weight, bias, beta, gamma, stride, padding, pool);
  check_grad(grad, x, "x", s);
  StageGradients g(x, s);
  if (has_library_stage(s, x.scalar_type())) {
    if (kept.has_value()) check_kept(*kept, x, library_kept_numel(s));
    const StageTensors p(weight, bias, beta, gamma, library_format(s, x));
    const Tensor grad_x = library_stage_backward(s, grad, x, p, input_grad, kept, TorchParallel(), g);
    return {grad_x, torch::stable::contiguous(g.weight, gdn_format(weight)), g.bias, g.beta, g.gamma};
  }
  const StageTensors p(weight, bias, beta, gamma);
  const Tensor gr = torch::stable::contiguous(grad), xc = torch::stable::contiguous(x);
  Tensor grad_x = new_input_gradient(x, s, input_grad);
  dispatch(x, [&](auto tag) {
    using T = decltype(tag);
    cpu::conv_gdn_pool_backward<T>(
        {s, in<T>(gr), in<T>(xc), in<T>(p.weight), in<T>(p.bias), in<T>(p.beta), in<T>(p.gamma),
         input_grad ? out<T>(grad_x) : nullptr, out<T>(g.weight), out<T>(g.bias), out<T>(g.beta), out<T>(g.gamma),
         checked_kept<T>(kept, x, cpu::kept_numel<T>(s))},
        TorchParallel());
  });
  return {grad_x, g.weight, g.bias, g.beta, g.gamma};
}

void check_image(const Tensor& image, const char* name) {
  STD_TORCH_CHECK(image.is_cpu(), name, " is not on the CPU");
  check_shape(image, name, {-1, -1, -1}, "(H, W, C)");
}

// The crop size is given beside the boxes so that the output's shape does not depend on the boxes' values.
ConvShape check_crops(const Tensor& image, const Tensor& boxes, const Tensor& weight, const Tensor& bias,
                      const Tensor& beta, const Tensor& gamma, const IntList& crop, const IntList& stride,
                      const IntList& padding, int64_t pool) {
  check_image(image, "image");
  STD_TORCH_CHECK(image.scalar_type() == ScalarType::Byte, "image must be uint8");
  STD_TORCH_CHECK(boxes.is_cpu() && boxes.scalar_type() == ScalarType::Long, "boxes must be int64 on the CPU");
  check_shape(boxes, "boxes", {-1, 4}, "(K, 4), rows (x0, y0, x1, y1)");
  check_cpu_floating(weight, "weight");
  STD_TORCH_CHECK(crop.size() == 2 && crop[0] > 0 && crop[1] > 0, "crop must hold two positive numbers");
  return check_conv(boxes.size(0), image.size(2), crop[0], crop[1], weight, bias, beta, gamma, stride, padding, pool);
}

// boxes is contiguous. Every box must be of the shape's input size and lie inside the image.
CropInput checked_crops(const Tensor& image, const Tensor& boxes, const ConvShape& s) {
  const int64_t* box = in<int64_t>(boxes);
  const int64_t height = image.size(0), width = image.size(1);
  for (int64_t k = 0; k < s.batch; ++k, box += 4) {
    STD_TORCH_CHECK(box[0] >= 0 && box[1] >= 0 && box[2] <= width && box[3] <= height && box[0] <= box[2] &&
                        box[1] <= box[3] && box[2] - box[0] == s.in_w && box[3] - box[1] == s.in_h,
                    "boxes[", k, "] = (", box[0], ", ", box[1], ", ", box[2], ", ", box[3],
                    ") must be (x0, y0, x1, y1), ", s.in_w, " x ", s.in_h, " pixels, inside the image of ", width,
                    " x ", height);
  }
  return {in<uint8_t>(image), width, in<int64_t>(boxes)};
}

Tensor crop_conv_gdn_pool_forward(const Tensor& image, const Tensor& boxes, const Tensor& weight, const Tensor& bias,
                                  const Tensor& beta, const Tensor& gamma, const IntList& crop, const IntList& stride,
                                  const IntList& padding, int64_t pool, Tensor* kept) {
  const ConvShape s = check_crops(image, boxes, weight, bias, beta, gamma, crop, stride, padding, pool);
  const Tensor im = torch::stable::contiguous(image), bx = torch::stable::contiguous(boxes);
  const CropInput crops = checked_crops(im, bx, s);
  const StageTensors p(weight, bias, beta, gamma);
  Tensor y = new_output(weight, s);
  if (kept != nullptr) *kept = new_crop_kept(weight, s);
  dispatch(weight, [&](auto tag) {
    using T = decltype(tag);
    cpu::crop_conv_gdn_pool_forward<T>({s, crops, in<T>(p.weight), in<T>(p.bias), in<T>(p.beta), in<T>(p.gamma),
                                        out<T>(y), kept != nullptr ? out<T>(*kept) : nullptr},
                                       TorchParallel());
  });
  return y;
}

Tensor crop_conv_gdn_pool(const Tensor& image, const Tensor& boxes, const Tensor& weight, const Tensor& bias,
                          const Tensor& beta, const Tensor& gamma, const IntList& crop, const IntList& stride,
                          const IntList& padding, int64_t pool) {
  return crop_conv_gdn_pool_forward(image, boxes, weight, bias, beta, gamma, crop, stride, padding, pool, nullptr);
}

std::tuple<Tensor, Tensor> crop_conv_gdn_pool_train(const Tensor& image, const Tensor& boxes, const Tensor& weight,
                                                    const Tensor& bias, const Tensor& beta, const Tensor& gamma,
                                                    const IntList& crop, const IntList& stride, const IntList& padding,
                                                    int64_t pool) {
  Tensor kept;
  Tensor y = crop_conv_gdn_pool_forward(image, boxes, weight, bias, beta, gamma, crop, stride, padding, pool, &kept);
  return {y, kept};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> crop_conv_gdn_pool_backward(
    const Tensor& grad, const Tensor& image, const Tensor& boxes, const Tensor& weight, const Tensor& bias,
    const Tensor& beta, const Tensor& gamma, const IntList& crop, const IntList& stride, const IntList& padding,
    int64_t pool, const std::optional<Tensor>& kept) {
  const ConvShape s = check_crops(image, boxes, weight, bias, beta, gamma, crop, stride, padding, pool);
  check_grad(grad, weight, "weight", s);
  const Tensor im = torch::stable::contiguous(image), bx = torch::stable::contiguous(boxes);
  const CropInput crops = checked_crops(im, bx, s);
  const Tensor gr = torch::stable::contiguous(grad);
  const StageTensors p(weight, bias, beta, gamma);
  StageGradients g(weight, s);
  dispatch(weight, [&](auto tag) {
    using T = decltype(tag);
    cpu::crop_conv_gdn_pool_backward<T>(
        {s, crops, in<T>(gr), in<T>(p.weight), in<T>(p.bias), in<T>(p.beta), in<T>(p.gamma), out<T>(g.weight),
         out<T>(g.bias), out<T>(g.beta), out<T>(g.gamma), checked_kept<T>(kept, weight, cpu::crop_kept_numel<T>(s))},
        TorchParallel());
  });
  return {g.weight, g.bias, g.beta, g.gamma};
}

// image (H, W, C): uint8, or the output's dtype. double_out: float64 crops of a uint8 image.
Tensor extract_crops(const Tensor& image, int64_t size, int64_t stride, bool double_out) {
  check_image(image, "image");
  const bool bytes = image.scalar_type() == ScalarType::Byte;
  if (!bytes) check_cpu_floating(image, "image");
  const CropExtraction s = check_extraction(image.size(0), image.size(1), image.size(2), size, stride);
  const ScalarType type = !bytes ? image.scalar_type() : double_out ? ScalarType::Double : ScalarType::Float;
  const Tensor im = torch::stable::contiguous(image);
  const std::array<int64_t, 4> sizes{crop_total(s), s.channels, size, size};
  Tensor crops = torch::stable::empty({sizes.data(), sizes.size()}, type);
  dispatch(crops, [&](auto tag) {
    using T = decltype(tag);
    if (bytes) {
      cpu::extract_crops_forward<uint8_t, T>(s, in<uint8_t>(im), out<T>(crops), TorchParallel());
    } else {
      cpu::extract_crops_forward<T, T>(s, in<T>(im), out<T>(crops), TorchParallel());
    }
  });
  return crops;
}

Tensor extract_crops_backward(const Tensor& grad, int64_t height, int64_t width, int64_t stride) {
  check_cpu_floating(grad, "grad");
  check_shape(grad, "grad", {-1, -1, -1, -1}, "(K, C, size, size)");
  const CropExtraction s = check_extraction(height, width, grad.size(1), grad.size(2), stride);
  check_shape(grad, "grad", {crop_total(s), s.channels, s.size, s.size}, "that of the op's output");
  const Tensor g = torch::stable::contiguous(grad);
  Tensor grad_image = new_empty(grad, {height, width, s.channels});
  dispatch(grad, [&](auto tag) {
    using T = decltype(tag);
    cpu::extract_crops_backward<T>(s, in<T>(g), out<T>(grad_image), TorchParallel());
  });
  return grad_image;
}

}  // namespace

STABLE_TORCH_LIBRARY(meon_ext, m) {
  m.def("gdn(Tensor x, Tensor beta, Tensor gamma) -> Tensor");
  m.def("gdn_backward(Tensor grad, Tensor x, Tensor beta, Tensor gamma) -> (Tensor, Tensor, Tensor)");
  m.def(
      "conv_gdn_pool(Tensor x, Tensor weight, Tensor bias, Tensor beta, Tensor gamma, int[2] stride, int[2] padding, "
      "int pool) -> Tensor");
  m.def(
      "conv_gdn_pool_train(Tensor x, Tensor weight, Tensor bias, Tensor beta, Tensor gamma, int[2] stride, "
      "int[2] padding, int pool) -> (Tensor, Tensor)");
  m.def(
      "conv_gdn_pool_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor beta, Tensor gamma, "
      "int[2] stride, int[2] padding, int pool, bool input_grad, Tensor? kept=None) -> (Tensor, Tensor, Tensor, "
      "Tensor, "
      "Tensor)");
  m.def(
      "crop_conv_gdn_pool(Tensor image, Tensor boxes, Tensor weight, Tensor bias, Tensor beta, Tensor gamma, "
      "int[2] crop, int[2] stride, int[2] padding, int pool) -> Tensor");
  m.def(
      "crop_conv_gdn_pool_train(Tensor image, Tensor boxes, Tensor weight, Tensor bias, Tensor beta, Tensor gamma, "
      "int[2] crop, int[2] stride, int[2] padding, int pool) -> (Tensor, Tensor)");
  m.def(
      "crop_conv_gdn_pool_backward(Tensor grad, Tensor image, Tensor boxes, Tensor weight, Tensor bias, Tensor beta, "
      "Tensor gamma, int[2] crop, int[2] stride, int[2] padding, int pool, Tensor? kept=None) -> (Tensor, Tensor, "
      "Tensor, Tensor)");
  m.def("extract_crops(Tensor image, int size, int stride, bool double_out) -> Tensor");
  m.def("extract_crops_backward(Tensor grad, SymInt height, SymInt width, int stride) -> Tensor");
  m.def("score_crops(Tensor images, Tensor[] rows, Tensor[] columns, Tensor[] parameters) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(meon_ext, CPU, m) {
  m.impl("gdn", MEON_BOX(&gdn));
  m.impl("gdn_backward", MEON_BOX(&gdn_backward));
  m.impl("conv_gdn_pool", MEON_BOX(&conv_gdn_pool));
  m.impl("conv_gdn_pool_train", MEON_BOX(&conv_gdn_pool_train));
  m.impl("conv_gdn_pool_backward", MEON_BOX(&conv_gdn_pool_backward));
  m.impl("crop_conv_gdn_pool", MEON_BOX(&crop_conv_gdn_pool));
  m.impl("crop_conv_gdn_pool_train", MEON_BOX(&crop_conv_gdn_pool_train));
  m.impl("crop_conv_gdn_pool_backward", MEON_BOX(&crop_conv_gdn_pool_backward));
  m.impl("extract_crops", MEON_BOX(&extract_crops));
  m.impl("extract_crops_backward", MEON_BOX(&extract_crops_backward));
}

}  // namespace meon::torch_ops
