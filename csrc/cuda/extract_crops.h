// Crops on CUDA: what csrc/torch calls. No torch here, and nothing that needs nvcc.
#pragma once

#include "core/params.h"
#include "cuda/launch_result.h"

namespace meon::cuda {

// All pointers are to memory of the current device, and everything is queued on `stream` without waiting for it.

// image: [H, W, C]; crops: [K, C, size, size]. P is uint8_t or T, T is float or double.
template <class P, class T>
LaunchResult extract_crops_forward(const CropExtraction& s, const P* image, T* crops, cudaStream_t stream);

// Results are the same bits on every run.
template <class T>
LaunchResult extract_crops_backward(const CropExtraction& s, const T* grad_crops, T* grad_image, cudaStream_t stream);

}  // namespace meon::cuda
