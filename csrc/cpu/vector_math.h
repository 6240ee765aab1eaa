// Loops over short contiguous vectors, written so that the compiler turns them into SIMD at any instruction set
// without being allowed to reorder floating-point sums.
#pragma once

#include <cstdint>

namespace meon::cpu {

// y += a * x
template <class T>
inline void axpy(int64_t n, T a, const T* __restrict x, T* __restrict y) {
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

// Sum of a * b in a fixed order: kLanes independent sums, then those in order. Shorter chains than a plain loop, so
// also less rounding error.
template <class T>
inline T dot(int64_t n, const T* __restrict a, const T* __restrict b) {
  constexpr int64_t kLanes = 16;
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t k = 0; k < kLanes; ++k) lanes[k] += a[i + k] * b[i + k];
  }
  for (int64_t k = 0; i < n; ++i, ++k) lanes[k] += a[i] * b[i];
  T sum = 0;
  for (int64_t k = 0; k < kLanes; ++k) sum += lanes[k];
  return sum;
}

}  // namespace meon::cpu
