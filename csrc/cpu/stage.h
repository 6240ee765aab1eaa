// One sample through convolution + bias -> GDN -> max-pool, a pooled row at a time: the body shared by the batch
// op, the crop op and the network. Pixels are kept as vectors over output channels, so the inner loops are
// contiguous for every kernel size, stride and pad.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/params.h"
#include "cpu/vector_math.h"

namespace meon::cpu {

// Where a stage's input comes from. at(c, y) points at element (c, y, 0); the next column is `step` further on.
template <class T>
struct PlanarSource {  // [C, H, W]
  const T* x;
  int64_t h, w;
  int64_t step = 1;
  const T* at(int64_t c, int64_t y) const { return x + (c * h + y) * w; }
};

struct CropSource {  // a window of an image [H, W, C]
  const uint8_t* top_left;
  int64_t row;   // bytes from one image row to the next
  int64_t step;  // bytes from one pixel to the next
  const uint8_t* at(int64_t c, int64_t y) const { return top_left + y * row + c; }
};

inline CropSource crop_source(const CropInput& in, int64_t channels, int64_t k) {
  const int64_t* box = in.boxes + 4 * k;
  return {in.image + (box[1] * in.image_w + box[0]) * channels, in.image_w * channels, channels};
}

// Weights as the inner loops want them, packed once for all samples.
template <class T>
struct PackedStage {
  ConvShape shape;
  std::vector<T> weight;      // [Cin, Kh, Kw, Cout]
  std::vector<T> gamma_t;     // [Cout, Cout], transposed
  std::vector<T> bias, beta;  // [Cout]

  // w [Cout, Cin, Kh, Kw], b [Cout], be [Cout], gamma [Cout, Cout]; all are copied.
  PackedStage(const ConvShape& s, const T* w, const T* b, const T* be, const T* gamma)
      : shape(s), bias(b, b + s.out_channels), beta(be, be + s.out_channels) {
    const int64_t C = s.out_channels;
    const int64_t taps = s.in_channels * s.kernel_h * s.kernel_w;
    weight.resize(static_cast<size_t>(taps * C));
    for (int64_t co = 0; co < C; ++co) {
      for (int64_t tap = 0; tap < taps; ++tap) weight[static_cast<size_t>(tap * C + co)] = w[co * taps + tap];
    }
    gamma_t.resize(static_cast<size_t>(C * C));
    for (int64_t i = 0; i < C; ++i) {
      for (int64_t j = 0; j < C; ++j) gamma_t[static_cast<size_t>(j * C + i)] = gamma[i * C + j];
    }
  }
};

// The output columns [first, last) for which tap kw reads inside the input.
struct ColumnRange {
  int64_t first, last;
};

inline ColumnRange valid_columns(const ConvShape& s, int64_t kw, int64_t columns) {
  const int64_t low = s.pad_w - kw;  // column * stride >= low
  const int64_t first = low > 0 ? (low + s.stride_w - 1) / s.stride_w : 0;
  const int64_t high = s.in_w - 1 + s.pad_w - kw;  // column * stride <= high
  const int64_t last = high < 0 ? 0 : high / s.stride_w + 1;
  return {first, std::min(last, columns)};
}

// z[column][Cout] = bias + convolution, for one output row. The sum runs over (Cin, Kh, Kw) in that order whatever
// the sample, crop or batch, so equal inputs give equal bits.
template <class T, class Source>
void conv_row(const PackedStage<T>& stage, const Source& source, int64_t out_row, int64_t columns, T* z) {
  const ConvShape& s = stage.shape;
  const int64_t C = s.out_channels;
  for (int64_t column = 0; column < columns; ++column) std::copy_n(stage.bias.data(), C, z + column * C);
  for (int64_t ci = 0; ci < s.in_channels; ++ci) {
    for (int64_t kh = 0; kh < s.kernel_h; ++kh) {
      const int64_t in_row = out_row * s.stride_h - s.pad_h + kh;
      if (in_row < 0 || in_row >= s.in_h) continue;
      const auto* x = source.at(ci, in_row);
      for (int64_t kw = 0; kw < s.kernel_w; ++kw) {
        const T* w = stage.weight.data() + ((ci * s.kernel_h + kh) * s.kernel_w + kw) * C;
        const auto [first, last] = valid_columns(s, kw, columns);
        for (int64_t column = first; column < last; ++column) {
          const int64_t in_column = column * s.stride_w - s.pad_w + kw;
          axpy(C, static_cast<T>(x[in_column * source.step]), w, z + column * C);
        }
      }
    }
  }
}

// norm[i] = beta_i + sum_j gamma_ij z_j^2 of one pixel.
template <class T>
void pixel_norm(const PackedStage<T>& stage, const T* z, T* norm) {
  const int64_t C = stage.shape.out_channels;
  std::copy_n(stage.beta.data(), C, norm);
  for (int64_t j = 0; j < C; ++j) axpy(C, z[j] * z[j], stage.gamma_t.data() + j * C, norm);
}

// Scratch of one thread for the forward.
template <class T>
struct StageScratch {
  std::vector<T> z, norm, best;
  explicit StageScratch(const ConvShape& s)
      : z(static_cast<size_t>(s.out_w() * s.pool * s.out_channels)),
        norm(static_cast<size_t>(s.out_channels)),
        best(static_cast<size_t>(s.out_w() * s.out_channels)) {}
};

// NaN wins over every number, as in torch's max_pool2d.
template <class T>
inline bool beats(T value, T best) {
  return value > best || std::isnan(value);
}

// y: [Cout, Hp, Wp]
template <class T, class Source>
void stage_forward(const PackedStage<T>& stage, const Source& source, StageScratch<T>& scratch, T* y) {
  const ConvShape& s = stage.shape;
  const int64_t C = s.out_channels, out_h = s.out_h(), out_w = s.out_w();
  const int64_t columns = out_w * s.pool;  // those past the last whole pool window are never needed
  T* z = scratch.z.data();
  T* norm = scratch.norm.data();
  T* best = scratch.best.data();
  for (int64_t row = 0; row < out_h; ++row) {
    std::fill(scratch.best.begin(), scratch.best.end(), -std::numeric_limits<T>::infinity());
    for (int64_t r = 0; r < s.pool; ++r) {
      conv_row(stage, source, row * s.pool + r, columns, z);
      for (int64_t column = 0; column < columns; ++column) {
        T* pixel = z + column * C;
        T* top = best + column / s.pool * C;
        pixel_norm(stage, pixel, norm);
        for (int64_t c = 0; c < C; ++c) {
          const T value = pixel[c] / std::sqrt(norm[c]);
          top[c] = beats(value, top[c]) ? value : top[c];
        }
      }
    }
    for (int64_t c = 0; c < C; ++c) {
      for (int64_t column = 0; column < out_w; ++column) y[(c * out_h + row) * out_w + column] = best[column * C + c];
    }
  }
}

}  // namespace meon::cpu
