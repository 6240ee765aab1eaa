// Test-only stand-in for CUDA's header of the same name; see cuda_on_host.h. Only what csrc/cuda uses.
#pragma once

#include <cmath>
#include <cstddef>
#include <tuple>

#include "cuda_on_host.h"
#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Blocks run one after another, so one copy serves them all. Unlike what launch.h's block_shared gives, it is not
// poisoned between blocks.
#define __shared__ static

constexpr int warpSize = ::cuda_on_host::kWarp;

#define __syncthreads() ::cuda_on_host::sync_threads(__FILE__, __LINE__)

// Further off than the 2^-22.9 of the PTX manual's rsqrt.approx: one way or the other as the operand's last bit has it,
// so that equal operands have equal roots; exact at the powers of four.
inline float rsqrtf(float n) {
  int exponent = 0;
  const float fraction = std::frexp(n, &exponent);
  const double root = 1 / std::sqrt(static_cast<double>(n));
  if (!std::isfinite(root) || (fraction == 0.5F && exponent % 2 != 0)) return static_cast<float>(root);
  const bool odd = static_cast<int>(std::ldexp(fraction, 24)) % 2 != 0;
  return static_cast<float>(root * (1 + (odd ? 0x1.13p-23 : -0x1.13p-23)));
}

// Every lane of the warp that has not returned must take part, whatever the mask: nothing here needs less.
inline void __syncwarp(unsigned = 0xffffffffu) { ::cuda_on_host::sync_warp(); }
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return ::cuda_on_host::shuffle(value, lane);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int lane_mask) {
  return ::cuda_on_host::shuffle(value, ::cuda_on_host::lane() ^ lane_mask);
}
// A lane whose source lies outside the warp keeps its own value.
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
  const int from = ::cuda_on_host::lane() + static_cast<int>(delta);
  return ::cuda_on_host::shuffle(value, from < ::cuda_on_host::kWarp ? from : ::cuda_on_host::lane());
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned delta) {
  const int from = ::cuda_on_host::lane() - static_cast<int>(delta);
  return ::cuda_on_host::shuffle(value, from >= 0 ? from : ::cuda_on_host::lane());
}

// Kernels count as compiled for what the options say.
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel*) {
  attributes->ptxVersion = ::cuda_on_host::options().ptx_version;
  return attributes->ptxVersion > 0 ? cudaSuccess : cudaErrorInvalidValue;
}

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args&&... args) {
  // As on the device, every thread gets its own copy of the parameters.
  const std::tuple<Params...> params(std::forward<Args>(args)...);
  return ::cuda_on_host::run_grid(config->gridDim, config->blockDim, [&] { std::apply(kernel, params); });
}
