// conv_gdn_pool of maps too small for rows of vectors, such as MEON's fourth stage has: the convolution of some samples
// at a time as a product of matrices, with GDN and pool behind it; whole batches forward and backward.
#pragma once

#include "core/parallel.h"
#include "core/params.h"

namespace meon::cpu {

// Whether the functions below take this shape: 64 output channels, at most as many input channels, sides of at most 8
// pixels, a kernel of at most 3 x 3, no padding, pool 1 or 2. For these the time was measured to be less than torch's
// convolution takes (docs/performance.md).
bool has_matrix_stage(const ConvShape& s);

// The elements of `kept` in the structs below: the convolution's output. As many as torch's convolution would have
// (csrc/torch/library_stage.h), so that meon_ext/ops.py's fake kernels need not know which of the two it is.
int64_t matrix_stage_kept_numel(const ConvShape& s);

// Both throw std::invalid_argument where MEON_ISA names no usable instruction set.
void matrix_stage_forward(const ConvGdnPoolForward<float>& p, const Parallel& parallel);
void matrix_stage_backward(const ConvGdnPoolBackward<float>& p, const Parallel& parallel);

}  // namespace meon::cpu
