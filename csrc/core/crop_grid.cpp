#include "core/crop_grid.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace meon {

std::vector<int64_t> crop_grid(int64_t height, int64_t width, int64_t size, int64_t stride) {
  using std::to_string;
  if (size <= 0) throw std::invalid_argument("size must be positive, got " + to_string(size));
  if (stride <= 0) throw std::invalid_argument("stride must be positive, got " + to_string(stride));
  if (height < size || width < size) {
    throw std::invalid_argument("an image of " + to_string(width) + " x " + to_string(height) +
                                " pixels is smaller than one crop of " + to_string(size) + " x " + to_string(size) +
                                "; pad the image or ask for a smaller size");
  }
  constexpr int64_t kMaxSide = (int64_t{1} << 31) - 1;
  if (height > kMaxSide || width > kMaxSide) {
    throw std::invalid_argument("an image of " + to_string(width) + " x " + to_string(height) +
                                " pixels is too large; its sides may be at most " + to_string(kMaxSide));
  }
  // A stride past the side means the same as one that reaches its end, and keeps index * stride from overflowing.
  const int64_t step = std::min(stride, std::max(height, width));
  const int64_t rows = crop_count(height, size, step);
  const int64_t columns = crop_count(width, size, step);
  constexpr int64_t kMaxCrops = int64_t{1} << 32;
  if (rows > kMaxCrops / columns) {
    throw std::invalid_argument(to_string(rows) + " x " + to_string(columns) +
                                " crops are too many; ask for a larger stride");
  }
  std::vector<int64_t> boxes;
  boxes.reserve(static_cast<size_t>(rows * columns * 4));
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t y = crop_position(row, height, size, step);
    for (int64_t column = 0; column < columns; ++column) {
      const int64_t x = crop_position(column, width, size, step);
      boxes.insert(boxes.end(), {x, y, x + size, y + size});
    }
  }
  return boxes;
}

}  // namespace meon
