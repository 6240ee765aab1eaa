// The crops of an image, and their adjoint. One thread writes one number; nothing is shared.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/params.h"

namespace meon::cuda {

inline constexpr int kCropThreads = 256;  // of every block

// Positions along one side, as core/crop_grid.h has them.
struct CropAxis {
  int64_t count = 0;
  int64_t stride = 0;
  int64_t last = 0;  // flush with the border

  __device__ __forceinline__ int64_t position(int64_t index) const {
    return index * stride < last ? index * stride : last;
  }
};

// image: [H, W, C]; crops: [K, C, size, size]   grid: (elements of crops / kCropThreads)
template <class P, class T>
__global__ void __launch_bounds__(kCropThreads, 1)
    extract_crops_kernel(CropExtraction s, CropAxis rows, CropAxis columns, const P* image, T* crops) {
  const int64_t at = int64_t{blockIdx.x} * kCropThreads + threadIdx.x;
  if (at >= rows.count * columns.count * s.channels * s.size * s.size) return;
  const int64_t x = at % s.size, y = at / s.size % s.size, plane = at / (s.size * s.size);
  const int64_t channel = plane % s.channels, crop = plane / s.channels;
  const int64_t row = rows.position(crop / columns.count) + y, column = columns.position(crop % columns.count) + x;
  crops[at] = static_cast<T>(image[(row * s.width + column) * s.channels + channel]);
}

// The gradients of overlapping crops are added up in crop order.
// grad_crops: [K, C, size, size]; grad_image: [H, W, C]   grid: (elements of grad_image / kCropThreads)
template <class T>
__global__ void __launch_bounds__(kCropThreads, 1)
    extract_crops_backward_kernel(CropExtraction s, CropAxis rows, CropAxis columns, const T* grad_crops,
                                  T* grad_image) {
  const int64_t at = int64_t{blockIdx.x} * kCropThreads + threadIdx.x;
  if (at >= s.height * s.width * s.channels) return;
  const int64_t channel = at % s.channels, x = at / s.channels % s.width, y = at / s.channels / s.width;
  // The first crop of a side that reaches so far, unless that one was moved back to the border.
  const auto first = [&](int64_t coordinate) { return coordinate < s.size ? 0 : (coordinate - s.size) / s.stride + 1; };
  T sum = 0;
  for (int64_t i = first(y); i < rows.count && rows.position(i) <= y; ++i) {
    for (int64_t j = first(x); j < columns.count && columns.position(j) <= x; ++j) {
      const int64_t row = y - rows.position(i), column = x - columns.position(j);
      if (row >= s.size || column >= s.size) continue;
      sum += grad_crops[(((i * columns.count + j) * s.channels + channel) * s.size + row) * s.size + column];
    }
  }
  grad_image[at] = sum;
}

}  // namespace meon::cuda
