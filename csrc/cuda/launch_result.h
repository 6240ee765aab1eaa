// What became of a launch, and of which kernel: "invalid configuration" alone says nothing to whoever reads it.
#pragma once

#include <cuda_runtime_api.h>

namespace meon::cuda {

struct LaunchResult {
  cudaError_t error = cudaSuccess;
  const char* kernel = "";
};

}  // namespace meon::cuda
