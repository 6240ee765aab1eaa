// The CUDA kernel of gdn, whose schema is in ops.cpp.
#include <tuple>

#include "cuda/gdn.h"
#include "torch/box.h"
#include "torch/cuda_device.h"

namespace meon::torch_ops {
namespace {

Tensor gdn(const Tensor& x, const Tensor& beta, const Tensor& gamma) {
  check_cuda_floating(x, "x");
  check_gdn(x, beta, gamma);
  const OnDeviceOf device(x);
  const MemoryFormat format = gdn_format(x);
  const Tensor xc = torch::stable::contiguous(x, format);
  const Tensor b = torch::stable::contiguous(beta), g = torch::stable::contiguous(gamma);
  Tensor y = empty_like_format(x, format);
  check_launch(dispatch_floating(x, [&](auto tag) {
    using T = decltype(tag);
    return cuda::gdn_forward<T>({gdn_shape(x, format), in<T>(xc), in<T>(b), in<T>(g), out<T>(y)}, device.stream());
  }));
  return y;
}

std::tuple<Tensor, Tensor, Tensor> gdn_backward(const Tensor& grad, const Tensor& x, const Tensor& beta,
                                                const Tensor& gamma) {
  check_cuda_floating(x, "x");
  check_gdn(x, beta, gamma);
  check_same_kind(grad, "grad", x, "x");
  STD_TORCH_CHECK(grad.sizes().vec() == x.sizes().vec(), "grad has shape ", shape_of(grad), " but x has ", shape_of(x));
  const OnDeviceOf device(x);
  const MemoryFormat format = gdn_format(x);
  const Tensor gc = torch::stable::contiguous(grad, format), xc = torch::stable::contiguous(x, format);
  const Tensor b = torch::stable::contiguous(beta), g = torch::stable::contiguous(gamma);
  Tensor grad_x = empty_like_format(x, format);
  Tensor grad_beta = new_empty(beta, {beta.size(0)});
  Tensor grad_gamma = new_empty(gamma, {gamma.size(0), gamma.size(1)});
  check_launch(dispatch_floating(x, [&](auto tag) {
    using T = decltype(tag);
    const GdnShape shape = gdn_shape(x, format);
    const Tensor workspace = new_workspace(x, cuda::gdn_backward_workspace<T>(shape));
    return cuda::gdn_backward<T>(
        {shape, in<T>(gc), in<T>(xc), in<T>(b), in<T>(g), out<T>(grad_x), out<T>(grad_beta), out<T>(grad_gamma)},
        workspace.mutable_data_ptr(), device.stream());
  }));
  return {grad_x, grad_beta, grad_gamma};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meon_ext, CUDA, m) {
  m.impl("gdn", MEON_BOX(&gdn));
  m.impl("gdn_backward", MEON_BOX(&gdn_backward));
}

}  // namespace meon::torch_ops
