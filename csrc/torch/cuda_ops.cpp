// The CUDA kernels of the ops whose schemas are in ops.cpp.
#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/gdn.h"
#include "torch/checks.h"

namespace meon::torch_ops {
namespace {

void check_cuda_floating(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.is_cuda(), name, " is not on a CUDA device; move it with .to(\"cuda\")");
  const ScalarType type = t.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
                      type == ScalarType::BFloat16,
                  name, " must be float32, float64, float16 or bfloat16 on CUDA; convert it with .float()");
}

// Calls f with a value of the tensor's element type, as CUDA names it; check_cuda_floating has passed.
template <class F>
auto dispatch(const Tensor& t, F&& f) {
  switch (t.scalar_type()) {
    case ScalarType::Double:
      return f(double{});
    case ScalarType::Half:
      return f(__half{});
    case ScalarType::BFloat16:
      return f(__nv_bfloat16{});
    default:
      return f(float{});
  }
}

template <class T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <class T>
T* out(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// Makes the tensor's device the current one, in torch and in the CUDA runtime that is linked into this library: each
// copy of the runtime keeps its own idea of the current device, and launches go where this one points.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(const Tensor& t) : index_(t.get_device_index()), guard_(index_) {
    const cudaError_t error = cudaSetDevice(index_);
    STD_TORCH_CHECK(error == cudaSuccess, "cuda:", index_, " cannot be used: ", cudaGetErrorString(error));
  }

  // The stream that the caller has made current, e.g. with torch.cuda.stream().
  cudaStream_t stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    return static_cast<cudaStream_t>(stream);
  }

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
};

void check_launch(const cuda::LaunchResult& result) {
  STD_TORCH_CHECK(result.error != cudaErrorNoKernelImageForDevice, result.kernel,
                  " was not built for this GPU; rebuild meon_ext with TORCH_CUDA_ARCH_LIST set to its compute "
                  "capability (torch.cuda.get_device_capability())");
  STD_TORCH_CHECK(result.error == cudaSuccess, result.kernel,
                  " could not be launched, or work before it failed: ", cudaGetErrorString(result.error),
                  " (set CUDA_LAUNCH_BLOCKING=1 to have the error reported where it happens)");
}

Tensor gdn(const Tensor& x, const Tensor& beta, const Tensor& gamma) {
  check_cuda_floating(x, "x");
  check_gdn(x, beta, gamma);
  const OnDeviceOf device(x);
  const MemoryFormat format = gdn_format(x);
  const Tensor xc = torch::stable::contiguous(x, format);
  const Tensor b = torch::stable::contiguous(beta), g = torch::stable::contiguous(gamma);
  Tensor y = empty_like_format(x, format);
  check_launch(dispatch(x, [&](auto tag) {
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
  check_launch(dispatch(x, [&](auto tag) {
    using T = decltype(tag);
    const GdnShape shape = gdn_shape(x, format);
    const int64_t bytes = static_cast<int64_t>(cuda::gdn_backward_workspace<T>(shape));
    // Queued on the same stream as the kernels, so that freeing it on return is safe.
    const Tensor workspace =
        torch::stable::empty({&bytes, 1}, ScalarType::Byte, std::nullopt, x.device(), std::nullopt, std::nullopt);
    return cuda::gdn_backward<T>(
        {shape, in<T>(gc), in<T>(xc), in<T>(b), in<T>(g), out<T>(grad_x), out<T>(grad_beta), out<T>(grad_gamma)},
        workspace.mutable_data_ptr(), device.stream());
  }));
  return {grad_x, grad_beta, grad_gamma};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meon_ext, CUDA, m) {
  m.impl("gdn", TORCH_BOX(&gdn));
  m.impl("gdn_backward", TORCH_BOX(&gdn_backward));
}

}  // namespace meon::torch_ops
