// The CPU kernels. Parameters are taken as checked; see csrc/core/params.h for their shapes. T is float or double.
// A result does not depend on how Parallel shares the work out, nor on the rest of the batch.
#pragma once

#include "core/parallel.h"
#include "core/params.h"

namespace meon::cpu {

template <class T>
void gdn_forward(const GdnForward<T>& p, const Parallel& parallel);

template <class T>
void gdn_backward(const GdnBackward<T>& p, const Parallel& parallel);

// Whether conv_gdn_pool of floats has kernels made for this shape: cpu/simd_stage.h, cpu/matrix_stage.h.
bool has_own_stage(const ConvShape& s);

// How many elements the forwards below write to `kept`, in a layout of their own, for the backwards to read. 0 for
// shapes that have no use for it: they ignore it. One for tensors, the other for crops.
template <class T>
int64_t kept_numel(const ConvShape& s);

template <class T>
int64_t crop_kept_numel(const ConvShape& s);

// shape.pool is at most kGdnMaxPool (cpu/gdn_tiles.h).
template <class T>
void gdn_pool_forward(const GdnPoolForward<T>& p, const Parallel& parallel);

template <class T>
void gdn_pool_backward(const GdnPoolBackward<T>& p, const Parallel& parallel);

template <class T>
void conv_gdn_pool_forward(const ConvGdnPoolForward<T>& p, const Parallel& parallel);

template <class T>
void conv_gdn_pool_backward(const ConvGdnPoolBackward<T>& p, const Parallel& parallel);

template <class T>
void crop_conv_gdn_pool_forward(const CropConvGdnPoolForward<T>& p, const Parallel& parallel);

template <class T>
void crop_conv_gdn_pool_backward(const CropConvGdnPoolBackward<T>& p, const Parallel& parallel);

// crops [K, C, size, size] of an image [H, W, C], and its adjoint: the gradients of overlapping crops are added
// up in crop order.
template <class P, class T>
void extract_crops_forward(const CropExtraction& s, const P* image, T* crops, const Parallel& parallel);

template <class T>
void extract_crops_backward(const CropExtraction& s, const T* grad_crops, T* grad_image, const Parallel& parallel);

}  // namespace meon::cpu
