#include <algorithm>

#include "core/crop_grid.h"
#include "cpu/kernels.h"

namespace meon::cpu {

template <class P, class T>
void extract_crops_forward(const CropExtraction& s, const P* image, T* crops, const Parallel& parallel) {
  const int64_t columns = crop_count(s.width, s.size, s.stride);
  const int64_t count = crop_count(s.height, s.size, s.stride) * columns;
  parallel.for_each(count, [&](int64_t k) {
    const int64_t y0 = crop_position(k / columns, s.height, s.size, s.stride);
    const int64_t x0 = crop_position(k % columns, s.width, s.size, s.stride);
    T* out = crops + k * s.channels * s.size * s.size;
    for (int64_t c = 0; c < s.channels; ++c) {
      for (int64_t y = 0; y < s.size; ++y) {
        const P* row = image + ((y0 + y) * s.width + x0) * s.channels + c;
        for (int64_t x = 0; x < s.size; ++x) *out++ = static_cast<T>(row[x * s.channels]);
      }
    }
  });
}

template <class T>
void extract_crops_backward(const CropExtraction& s, const T* grad_crops, T* grad_image, const Parallel& parallel) {
  const int64_t rows = crop_count(s.height, s.size, s.stride);
  const int64_t columns = crop_count(s.width, s.size, s.stride);
  // A task owns one image row, so that no two tasks add to one element.
  parallel.for_each(s.height, [&](int64_t y) {
    T* out = grad_image + y * s.width * s.channels;
    std::fill_n(out, s.width * s.channels, T(0));
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t y0 = crop_position(row, s.height, s.size, s.stride);
      if (y < y0 || y >= y0 + s.size) continue;
      for (int64_t column = 0; column < columns; ++column) {
        const int64_t x0 = crop_position(column, s.width, s.size, s.stride);
        const T* crop = grad_crops + (row * columns + column) * s.channels * s.size * s.size;
        for (int64_t c = 0; c < s.channels; ++c) {
          const T* line = crop + (c * s.size + y - y0) * s.size;
          for (int64_t x = 0; x < s.size; ++x) out[(x0 + x) * s.channels + c] += line[x];
        }
      }
    }
  });
}

template void extract_crops_forward<uint8_t, float>(const CropExtraction&, const uint8_t*, float*, const Parallel&);
template void extract_crops_forward<uint8_t, double>(const CropExtraction&, const uint8_t*, double*, const Parallel&);
template void extract_crops_forward<float, float>(const CropExtraction&, const float*, float*, const Parallel&);
template void extract_crops_forward<double, double>(const CropExtraction&, const double*, double*, const Parallel&);
template void extract_crops_backward<float>(const CropExtraction&, const float*, float*, const Parallel&);
template void extract_crops_backward<double>(const CropExtraction&, const double*, double*, const Parallel&);

}  // namespace meon::cpu
