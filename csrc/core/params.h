// Plain parameter structs: all that a kernel knows. They hold pointers and sizes, own nothing, and are filled
// in by csrc/torch and csrc/python after every check is done. No torch here.
#pragma once

#include <cstdint>

namespace meon {

// y_i = x_i / sqrt(beta_i + sum_j gamma[i, j] x_j^2), at every one of batch * spatial positions.
// Element (n, c, s) of x, y and of their gradients lies at n * channels * spatial + c * stride_c + s * stride_s:
// (stride_c, stride_s) is (spatial, 1) for NCHW and (1, channels) for channels_last.
struct GdnShape {
  int64_t batch = 0;
  int64_t channels = 0;
  int64_t spatial = 0;
  int64_t stride_c = 0;
  int64_t stride_s = 0;
};

template <class T>
struct GdnForward {
  GdnShape shape;
  const T* x = nullptr;      // [N, C, S]
  const T* beta = nullptr;   // [C]
  const T* gamma = nullptr;  // [C, C]
  T* y = nullptr;            // [N, C, S]
};

template <class T>
struct GdnBackward {
  GdnShape shape;
  const T* grad_y = nullptr;  // [N, C, S]
  const T* x = nullptr;       // [N, C, S]
  const T* beta = nullptr;    // [C]
  const T* gamma = nullptr;   // [C, C]
  T* grad_x = nullptr;        // [N, C, S]
  T* grad_beta = nullptr;     // [C]
  T* grad_gamma = nullptr;    // [C, C]
};

// GDN -> pool x pool max-pool (stride pool, floor mode); pool = 1 is GDN alone.
struct GdnPoolShape {
  int64_t batch = 0;
  int64_t channels = 0;
  int64_t height = 0, width = 0;
  int64_t pool = 1;
  bool x_channels_last = false;  // x and its gradient are [N, H, W, C], otherwise [N, C, H, W]
  bool y_channels_last = false;  // y and its gradient are [N, Hp, Wp, C], otherwise [N, C, Hp, Wp]

  int64_t out_h() const { return height / pool; }
  int64_t out_w() const { return width / pool; }
};

template <class T>
struct GdnPoolForward {
  GdnPoolShape shape;
  const T* x = nullptr;      // [N, C, H, W]
  const T* beta = nullptr;   // [C]
  const T* gamma = nullptr;  // [C, C]
  T* y = nullptr;            // [N, C, Hp, Wp]
};

template <class T>
struct GdnPoolBackward {
  GdnPoolShape shape;
  const T* grad_y = nullptr;  // [N, C, Hp, Wp]
  const T* x = nullptr;       // [N, C, H, W]
  const T* beta = nullptr;    // [C]
  const T* gamma = nullptr;   // [C, C]
  T* grad_x = nullptr;        // [N, C, H, W]
  T* grad_beta = nullptr;     // [C]
  T* grad_gamma = nullptr;    // [C, C]
};

// Cross-correlation + bias -> GDN -> pool x pool max-pool (stride pool, floor mode).
struct ConvShape {
  int64_t batch = 0;
  int64_t in_channels = 0, in_h = 0, in_w = 0;
  int64_t out_channels = 0;
  int64_t kernel_h = 0, kernel_w = 0;
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_h = 0, pad_w = 0;
  int64_t pool = 1;

  constexpr int64_t conv_h() const { return (in_h + 2 * pad_h - kernel_h) / stride_h + 1; }
  constexpr int64_t conv_w() const { return (in_w + 2 * pad_w - kernel_w) / stride_w + 1; }
  int64_t out_h() const { return conv_h() / pool; }
  int64_t out_w() const { return conv_w() / pool; }
  int64_t weight_numel() const { return out_channels * in_channels * kernel_h * kernel_w; }
};

template <class T>
struct ConvGdnPoolForward {
  ConvShape shape;
  const T* x = nullptr;       // [N, Cin, H, W]
  const T* weight = nullptr;  // [Cout, Cin, Kh, Kw]
  const T* bias = nullptr;    // [Cout]
  const T* beta = nullptr;    // [Cout]
  const T* gamma = nullptr;   // [Cout, Cout]
  T* y = nullptr;             // [N, Cout, Hp, Wp]
  T* kept = nullptr;          // [cpu::kept_numel] what the backward would compute again, or null; CUDA keeps nothing
};

template <class T>
struct ConvGdnPoolBackward {
  ConvShape shape;
  const T* grad_y = nullptr;  // [N, Cout, Hp, Wp]
  const T* x = nullptr;       // [N, Cin, H, W]
  const T* weight = nullptr;  // [Cout, Cin, Kh, Kw]
  const T* bias = nullptr;    // [Cout]
  const T* beta = nullptr;    // [Cout]
  const T* gamma = nullptr;   // [Cout, Cout]
  T* grad_x = nullptr;        // [N, Cin, H, W], or null where it is not needed
  T* grad_weight = nullptr;   // [Cout, Cin, Kh, Kw]
  T* grad_bias = nullptr;     // [Cout]
  T* grad_beta = nullptr;     // [Cout]
  T* grad_gamma = nullptr;    // [Cout, Cout]
  const T* kept = nullptr;    // [cpu::kept_numel] of the forward on the same inputs, or null
};

// Windows of one uint8 image, the input of a stage in place of x; no crop is ever materialised.
struct CropInput {
  const uint8_t* image = nullptr;  // [H, W, C], C = shape.in_channels
  int64_t image_w = 0;
  const int64_t* boxes = nullptr;  // [K, 4] as (x0, y0, x1, y1), inside the image, all of shape.in_w x shape.in_h
  int64_t image_h = 0;             // for kernels that look at the boxes themselves; others need not know
};

template <class T>
struct CropConvGdnPoolForward {
  ConvShape shape;  // batch = K, in_h x in_w = the crop size
  CropInput crops;
  const T* weight = nullptr;  // [Cout, C, Kh, Kw]
  const T* bias = nullptr;    // [Cout]
  const T* beta = nullptr;    // [Cout]
  const T* gamma = nullptr;   // [Cout, Cout]
  T* y = nullptr;             // [K, Cout, Hp, Wp]
  T* kept = nullptr;          // [cpu::kept_numel] likewise
};

// An image of uint8 has no gradient, so there is none with respect to it.
template <class T>
struct CropConvGdnPoolBackward {
  ConvShape shape;
  CropInput crops;
  const T* grad_y = nullptr;  // [K, Cout, Hp, Wp]
  const T* weight = nullptr;  // [Cout, C, Kh, Kw]
  const T* bias = nullptr;    // [Cout]
  const T* beta = nullptr;    // [Cout]
  const T* gamma = nullptr;   // [Cout, Cout]
  T* grad_weight = nullptr;   // [Cout, C, Kh, Kw]
  T* grad_bias = nullptr;     // [Cout]
  T* grad_beta = nullptr;     // [Cout]
  T* grad_gamma = nullptr;    // [Cout, Cout]
  const T* kept = nullptr;    // [cpu::kept_numel] of the forward on the same inputs, or null
};

// Square crops on the grid of core/crop_grid.h.
struct CropExtraction {
  int64_t height = 0, width = 0, channels = 0;  // image [H, W, C]
  int64_t size = 0, stride = 0;                 // pixels
};

}  // namespace meon
