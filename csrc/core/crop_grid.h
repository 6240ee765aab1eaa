// Where the crops of an image lie.
#pragma once

#include <cstdint>
#include <vector>

namespace meon {

// Positions along one side: 0, stride, 2 stride, ..., the last one flush with the border.
// Requires length >= size > 0 and stride > 0.
constexpr int64_t crop_count(int64_t length, int64_t size, int64_t stride) {
  return (length - size + stride - 1) / stride + 1;
}

constexpr int64_t crop_position(int64_t index, int64_t length, int64_t size, int64_t stride) {
  const int64_t last = length - size;
  return index * stride < last ? index * stride : last;
}

// [K, 4] rows (x0, y0, x1, y1), x1 and y1 exclusive, row-major. Throws std::invalid_argument, naming the
// argument, unless 0 < size <= both sides < 2^31 and stride > 0, and where there would be more than 2^32 crops.
std::vector<int64_t> crop_grid(int64_t height, int64_t width, int64_t size, int64_t stride);

}  // namespace meon
