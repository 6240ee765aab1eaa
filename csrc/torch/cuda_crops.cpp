// The CUDA kernels of extract_crops, whose schema is in ops.cpp.
#include "cuda/extract_crops.h"
#include "torch/box.h"
#include "torch/cuda_device.h"

namespace meon::torch_ops {
namespace {

void check_float_or_double(const Tensor& t, const char* name) {
  check_on_cuda(t, name);
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double, name,
                  " must be float32 or float64; convert it with .float() or .double()");
}

// Calls f with a value of the tensor's element type; the tensor is float or double.
template <class F>
auto dispatch(const Tensor& t, F&& f) {
  return t.scalar_type() == ScalarType::Double ? f(double{}) : f(float{});
}

// image (H, W, C): uint8, or the output's dtype. double_out: float64 crops of a uint8 image.
Tensor extract_crops(const Tensor& image, int64_t size, int64_t stride, bool double_out) {
  check_on_cuda(image, "image");
  check_shape(image, "image", {-1, -1, -1}, "(H, W, C)");
  const bool bytes = image.scalar_type() == ScalarType::Byte;
  if (!bytes) check_float_or_double(image, "image");
  const CropExtraction s = check_extraction(image.size(0), image.size(1), image.size(2), size, stride);
  const ScalarType type = !bytes ? image.scalar_type() : double_out ? ScalarType::Double : ScalarType::Float;
  const OnDeviceOf device(image);
  const Tensor im = torch::stable::contiguous(image);
  const std::array<int64_t, 4> sizes{crop_total(s), s.channels, size, size};
  Tensor crops = torch::stable::empty({sizes.data(), sizes.size()}, type, std::nullopt, image.device(), std::nullopt,
                                      std::nullopt);
  check_launch(dispatch(crops, [&](auto tag) {
    using T = decltype(tag);
    return bytes ? cuda::extract_crops_forward<uint8_t, T>(s, in<uint8_t>(im), out<T>(crops), device.stream())
                 : cuda::extract_crops_forward<T, T>(s, in<T>(im), out<T>(crops), device.stream());
  }));
  return crops;
}

Tensor extract_crops_backward(const Tensor& grad, int64_t height, int64_t width, int64_t stride) {
  check_float_or_double(grad, "grad");
  check_shape(grad, "grad", {-1, -1, -1, -1}, "(K, C, size, size)");
  const CropExtraction s = check_extraction(height, width, grad.size(1), grad.size(2), stride);
  check_shape(grad, "grad", {crop_total(s), s.channels, s.size, s.size}, "that of the op's output");
  const OnDeviceOf device(grad);
  const Tensor g = torch::stable::contiguous(grad);
  Tensor grad_image = new_empty(grad, {height, width, s.channels});
  check_launch(dispatch(grad, [&](auto tag) {
    using T = decltype(tag);
    return cuda::extract_crops_backward<T>(s, in<T>(g), out<T>(grad_image), device.stream());
  }));
  return grad_image;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meon_ext, CUDA, m) {
  m.impl("extract_crops", MEON_BOX(&extract_crops));
  m.impl("extract_crops_backward", MEON_BOX(&extract_crops_backward));
}

}  // namespace meon::torch_ops
