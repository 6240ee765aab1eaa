// Parameters in the order in which the SIMD kernels read them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace meon::cpu {

// [rows][columns] -> [columns][rows]
inline std::vector<float> transposed(std::span<const float> m, int64_t rows, int64_t columns) {
  std::vector<float> out(m.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      out[static_cast<size_t>(c * rows + r)] = m[static_cast<size_t>(r * columns + c)];
    }
  }
  return out;
}

// [rows][columns] -> [rows / block][columns][block]
inline std::vector<float> blocked(std::span<const float> m, int64_t rows, int64_t columns, int64_t block) {
  std::vector<float> out(m.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      out[static_cast<size_t>((r / block * columns + c) * block + r % block)] = m[static_cast<size_t>(r * columns + c)];
    }
  }
  return out;
}

}  // namespace meon::cpu
