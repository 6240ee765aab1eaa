// Parameters in the order in which the SIMD kernels read them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace meon::cpu {

// [rows][columns] -> [columns][rows]
inline void transpose(const float* from, int64_t rows, int64_t columns, float* to) {
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) to[c * rows + r] = from[r * columns + c];
  }
}

inline std::vector<float> transposed(std::span<const float> m, int64_t rows, int64_t columns) {
  std::vector<float> out(m.size());
  transpose(m.data(), rows, columns, out.data());
  return out;
}

// A convolution's weight [Cout][Cin][places] -> [places][Cin][Cout], for a product with the rows of cpu/patches.h.
inline std::vector<float> as_matrix(std::span<const float> weight, int64_t out, int64_t in, int64_t places) {
  std::vector<float> matrix(weight.size());
  for (int64_t ci = 0; ci < in; ++ci) {
    for (int64_t place = 0; place < places; ++place) {
      for (int64_t co = 0; co < out; ++co) {
        matrix[static_cast<size_t>((place * in + ci) * out + co)] =
            weight[static_cast<size_t>((co * in + ci) * places + place)];
      }
    }
  }
  return matrix;
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
