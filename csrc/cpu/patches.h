// A convolution without padding as a product of matrices: what an output pixel reads is one row, [Kh][Kw][Cin].
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/params.h"

namespace meon::cpu {

// f(pixel, tap, at) for each stretch of Kw * Cin numbers that lie one after the other both in the pixel's row, from
// `tap` on, and in a sample's map [H][W][Cin], from `at` on.
template <class F>
void for_each_run(const ConvShape& s, const F& f) {
  for (int64_t y = 0, pixel = 0; y < s.conv_h(); ++y) {
    for (int64_t x = 0; x < s.conv_w(); ++x, ++pixel) {
      for (int64_t kh = 0; kh < s.kernel_h; ++kh) {
        f(pixel, kh * s.kernel_w * s.in_channels, ((y * s.stride_h + kh) * s.in_w + x * s.stride_w) * s.in_channels);
      }
    }
  }
}

// map [H][W][Cin] -> rows of conv_h * conv_w pixels, `length` apart
inline void to_patches(const ConvShape& s, const float* map, int64_t length, float* rows) {
  const int64_t run = s.kernel_w * s.in_channels;
  for_each_run(
      s, [&](int64_t pixel, int64_t tap, int64_t at) { std::copy_n(map + at, run, rows + pixel * length + tap); });
}

}  // namespace meon::cpu
