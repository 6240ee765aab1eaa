// The parameters of a stage as kernels take them, and where their gradients go: the same on every device.
#pragma once

#include "torch/checks.h"

namespace meon::torch_ops {

// Contiguous; weight in that format.
struct StageTensors {
  Tensor weight, bias, beta, gamma;

  StageTensors(const Tensor& w, const Tensor& b, const Tensor& be, const Tensor& g,
               MemoryFormat format = MemoryFormat::Contiguous)
      : weight(torch::stable::contiguous(w, format)),
        bias(torch::stable::contiguous(b)),
        beta(torch::stable::contiguous(be)),
        gamma(torch::stable::contiguous(g)) {}
};

// Not written yet.
struct StageGradients {
  Tensor weight, bias, beta, gamma;

  StageGradients(const Tensor& like, const ConvShape& s)
      : weight(new_empty(like, {s.out_channels, s.in_channels, s.kernel_h, s.kernel_w})),
        bias(new_empty(like, {s.out_channels})),
        beta(new_empty(like, {s.out_channels})),
        gamma(new_empty(like, {s.out_channels, s.out_channels})) {}
};

inline Tensor new_output(const Tensor& like, const ConvShape& s) {
  return new_empty(like, {s.batch, s.out_channels, s.out_h(), s.out_w()});
}

// Of shape (0,) where it is not asked for: its computation is left out.
inline Tensor new_input_gradient(const Tensor& x, const ConvShape& s, bool asked) {
  return asked ? new_empty(x, {s.batch, s.in_channels, s.in_h, s.in_w}) : new_empty(x, {0});
}

// grad: of the op's output.
inline void check_grad(const Tensor& grad, const Tensor& like, const char* name, const ConvShape& s) {
  check_same_kind(grad, "grad", like, name);
  check_shape(grad, "grad", {s.batch, s.out_channels, s.out_h(), s.out_w()}, "that of the op's output");
}

}  // namespace meon::torch_ops
