// Neighbouring floats of shared memory in loads and stores of 8 or 16 bytes.
#pragma once

#include <cuda_runtime.h>

namespace meon::cuda {

// N neighbours, in loads of 16 or 8 bytes.
template <int N>
__device__ __forceinline__ void load(const float* from, float* to) {
  if constexpr (N == 2) {
    const float2 v = *reinterpret_cast<const float2*>(from);
    to[0] = v.x, to[1] = v.y;
  } else {
    static_assert(N % 4 == 0);
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float4 v = *reinterpret_cast<const float4*>(from + i);
      to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
    }
  }
}

__device__ __forceinline__ void store4(const float* from, float* to) {
  *reinterpret_cast<float4*>(to) = float4{from[0], from[1], from[2], from[3]};
}

}  // namespace meon::cuda
