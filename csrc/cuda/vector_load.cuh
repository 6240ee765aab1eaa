// Loads and stores that are asked for in so many words: 8 or 16 bytes of shared memory, and constant global memory.
#pragma once

#include <cuda_runtime.h>

#include <cstring>
#include <type_traits>

namespace meon::cuda {

// From global memory that nobody writes to while the kernel runs. Said so, because a load that might be of what the
// thread itself is about to store cannot be moved before that: loads would wait for each other.
template <class T>
__device__ __forceinline__ T fetch(const T* from) {
#if defined(__CUDA_ARCH__)
  static_assert(std::is_trivially_copyable_v<T>);
  using Bits = std::conditional_t<
      sizeof(T) == 8, unsigned long long,
      std::conditional_t<sizeof(T) == 4, unsigned, std::conditional_t<sizeof(T) == 2, unsigned short, unsigned char>>>;
  static_assert(sizeof(Bits) == sizeof(T) && alignof(T) == alignof(Bits));
  const Bits bits = __ldg(reinterpret_cast<const Bits*>(from));
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#else
  return *from;
#endif
}

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
