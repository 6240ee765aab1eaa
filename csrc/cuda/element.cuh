// What the kernels do to one number: element types, and the formulas that several of them share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace meon::cuda {

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ double widen(double v) { return v; }
__device__ __forceinline__ float widen(uint8_t v) { return v; }
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

__device__ __forceinline__ uint32_t bits_of(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}
__device__ __forceinline__ float float_of(uint32_t bits) {
  float v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

template <class T>
struct Element {
  using Acc = float;
};
template <>
struct Element<double> {
  using Acc = double;
};
template <class T>
using AccOf = typename Element<T>::Acc;

template <class T>
__device__ __forceinline__ T narrow(AccOf<T> v) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(v);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(v);
  } else {
    return v;
  }
}

template <class Acc>
__device__ __forceinline__ Acc square(Acc v) {
  return v * v;
}

// n^-1/2. In float this is the device's own, one instruction and two that care for subnormal n: off by 2^-22.9 at most
// (PTX manual), where a square root and a division, correctly rounded and some twenty instructions, are off by 2^-23.
// Zero, infinite, negative and NaN norms give what these give.
__device__ __forceinline__ float inverse_root(float n) { return rsqrtf(n); }
__device__ __forceinline__ double inverse_root(double n) { return 1.0 / std::sqrt(n); }

// x n^-1/2: the forward's, and the backward's where it looks for the maximum.
__device__ __forceinline__ float divide_by_root(float x, float n) { return x * inverse_root(n); }
__device__ __forceinline__ double divide_by_root(double x, double n) { return x / std::sqrt(n); }

// dL/dn = -1/2 g x n^-3/2, from inverse = n^-1/2, one factor at a time: x * inverse is bounded however large x is,
// while inverse^3 may leave the range that the whole product stays in.
template <class Acc>
__device__ __forceinline__ Acc norm_gradient(Acc g, Acc x, Acc inverse) {
  return Acc(-0.5) * g * (x * inverse) * inverse * inverse;
}

}  // namespace meon::cuda
