// Between tensors on a CUDA device and kernels: which type, which device, which stream, and what went wrong.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>

#include "cuda/launch_result.h"
#include "torch/checks.h"

namespace meon::torch_ops {

inline void check_on_cuda(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.is_cuda(), name, " is not on a CUDA device; move it with .to(\"cuda\")");
}

inline void check_cuda_floating(const Tensor& t, const char* name) {
  check_on_cuda(t, name);
  const ScalarType type = t.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
                      type == ScalarType::BFloat16,
                  name, " must be float32, float64, float16 or bfloat16 on CUDA; convert it with .float()");
}

// Calls f with a value of the tensor's element type, as CUDA names it: float, __half or __nv_bfloat16.
template <class F>
auto dispatch_summed_in_float(const Tensor& t, F&& f) {
  switch (t.scalar_type()) {
    case ScalarType::Half:
      return f(__half{});
    case ScalarType::BFloat16:
      return f(__nv_bfloat16{});
    default:
      return f(float{});
  }
}

// The same, or double; check_cuda_floating has passed.
template <class F>
auto dispatch_floating(const Tensor& t, F&& f) {
  return t.scalar_type() == ScalarType::Double ? f(double{}) : dispatch_summed_in_float(t, f);
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

// Device memory for a backward to work in. It is queued on the same stream as the kernels, so that freeing it on return
// is safe.
inline Tensor new_workspace(const Tensor& like, size_t bytes) {
  const auto size = static_cast<int64_t>(bytes);
  return torch::stable::empty({&size, 1}, ScalarType::Byte, std::nullopt, like.device(), std::nullopt, std::nullopt);
}

inline void check_launch(const cuda::LaunchResult& result) {
  STD_TORCH_CHECK(result.error != cudaErrorNoKernelImageForDevice, result.kernel,
                  " was not built for this GPU; rebuild meon_ext with TORCH_CUDA_ARCH_LIST set to its compute "
                  "capability (torch.cuda.get_device_capability())");
  STD_TORCH_CHECK(result.error == cudaSuccess, result.kernel,
                  " could not be launched, or work before it failed: ", cudaGetErrorString(result.error),
                  " (set CUDA_LAUNCH_BLOCKING=1 to have the error reported where it happens)");
}

}  // namespace meon::torch_ops
