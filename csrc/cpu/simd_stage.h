// conv_gdn_pool of MEON's shared stages with the SIMD kernels, whole batches forward and backward.
#pragma once

#include "core/parallel.h"
#include "core/params.h"

namespace meon::cpu {

// Whether the functions below take this shape: 5 x 5 kernel, stride 2, pad 2, 2 x 2 pool, 8, 16 or 32 output channels;
// any size and any number of input channels. Every other shape, and float64, goes through conv_gdn_pool.cpp.
bool has_simd_stage(const ConvShape& s);

// The elements of `kept` in the structs below: the convolution's output, whose computation is a third of a training
// step. meon_ext/ops.py's fake kernels follow the same formula.
int64_t simd_stage_kept_numel(const ConvShape& s);

// All throw std::invalid_argument where MEON_ISA names no usable instruction set.
void simd_stage_forward(const ConvGdnPoolForward<float>& p, const Parallel& parallel);
void simd_stage_forward(const CropConvGdnPoolForward<float>& p, const Parallel& parallel);
void simd_stage_backward(const ConvGdnPoolBackward<float>& p, const Parallel& parallel);
void simd_stage_backward(const CropConvGdnPoolBackward<float>& p, const Parallel& parallel);

}  // namespace meon::cpu
