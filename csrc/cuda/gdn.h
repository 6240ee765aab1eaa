// GDN on CUDA: what csrc/torch calls. No torch here, and nothing that needs nvcc.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>

#include "core/params.h"
#include "cuda/launch_result.h"

namespace meon::cuda {

// T is float, double, __half or __nv_bfloat16; sums are taken in double for double, in float for the others. All
// pointers are to memory of the current device, and everything is queued on `stream` without waiting for it. Results
// are the same bits on every run.

template <class T>
LaunchResult gdn_forward(const GdnForward<T>& p, cudaStream_t stream);

// Bytes of device memory that gdn_backward works in. What is in them at the start does not matter.
template <class T>
size_t gdn_backward_workspace(const GdnShape& shape);

template <class T>
LaunchResult gdn_backward(const GdnBackward<T>& p, void* workspace, cudaStream_t stream);

}  // namespace meon::cuda
