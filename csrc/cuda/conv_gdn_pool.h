// The fused stages of MEON on CUDA: what csrc/torch calls. No torch here, and nothing that needs nvcc.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>

#include "core/params.h"
#include "cuda/launch_result.h"

namespace meon::cuda {

// Whether a shape is that of one of MEON's four stages, for images of any size: the functions below take no other.
bool has_fused_stage(const ConvShape& s);

// T is float, __half or __nv_bfloat16; sums are taken in float. All pointers are to memory of the current device, and
// everything is queued on `stream` without waiting for it. Results are the same bits on every run, and those of a
// sample do not depend on the rest of the batch. `kept` is not used.

template <class T>
LaunchResult conv_gdn_pool_forward(const ConvGdnPoolForward<T>& p, cudaStream_t stream);

// Crops of the first stage. One whose box is not in the image or not of the shape's input size comes out as NaN.
template <class T>
LaunchResult crop_conv_gdn_pool_forward(const CropConvGdnPoolForward<T>& p, cudaStream_t stream);

// Bytes of device memory that the backward works in. What is in them at the start does not matter.
size_t conv_gdn_pool_backward_workspace(const ConvShape& shape);

// p.grad_x may be null: its computation is left out.
template <class T>
LaunchResult conv_gdn_pool_backward(const ConvGdnPoolBackward<T>& p, void* workspace, cudaStream_t stream);

template <class T>
LaunchResult crop_conv_gdn_pool_backward(const CropConvGdnPoolBackward<T>& p, void* workspace, cudaStream_t stream);

}  // namespace meon::cuda
