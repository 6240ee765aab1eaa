// What the kernels do to one number: element types, and the formulas that several of them share.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

namespace meon::cuda {

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ double widen(double v) { return v; }
__device__ __forceinline__ float widen(uint8_t v) { return v; }
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

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

// dL/dn = -1/2 g x n^-3/2, from inverse = n^-1/2, one factor at a time: x * inverse is bounded however large x is,
// while inverse^3 may leave the range that the whole product stays in.
template <class Acc>
__device__ __forceinline__ Acc norm_gradient(Acc g, Acc x, Acc inverse) {
  return Acc(-0.5) * g * (x * inverse) * inverse * inverse;
}

}  // namespace meon::cuda
