// A product of small matrices on the tensor cores, as mma.sync has it, and the same in plain C++ for the host.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#if !defined(__CUDACC__)
#include <bit>
#endif

namespace meon::cuda {

inline constexpr int kMmaArchitecture = 80;  // the first whose tensor cores take bfloat16

// d += a b for matrices that a warp holds between its lanes, a 16 x 16 and b 16 x 8 of bfloat16, d 16 x 8 of float.
// Lane 4 g + t has, two neighbours in each word, the lower half first:
//   a: (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8) and the column after each
//   b: (2t, g), (2t + 8, g) and the row after each
//   d: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
// Products are exact. Sums are taken in at least single precision, says the PTX manual, and not how they are rounded.
__device__ __forceinline__ void multiply_add(const uint32_t (&a)[4], const uint32_t (&b)[2], float (&d)[4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(__CUDACC__)
  __trap();  // code for older devices, which nobody starts: kernel_uses_mma
#else
  const int lane = cuda_on_host::lane(), g = lane / 4, t = lane % 4;
  const auto pair = [](uint32_t low, uint32_t high) { return uint64_t{high} << 32 | low; };
  const auto value = [](uint64_t words, int i) {  // of four halves
    return std::bit_cast<float>(static_cast<uint32_t>(words >> 16 * i & 0xffffu) << 16);
  };
  float rows[2][16], columns[2][16];  // g and g + 8 of a, 2t and 2t + 1 of b
  for (int from = 0; from < 4; ++from) {
    for (int r = 0; r < 2; ++r) {
      const uint64_t of_a = cuda_on_host::shuffle_bits(pair(a[r], a[r + 2]), 4 * g + from);
      const uint64_t of_b = cuda_on_host::shuffle_bits(pair(b[0], b[1]), 4 * (2 * t + r) + from);
      for (int i = 0; i < 4; ++i) {
        const int k = 8 * (i / 2) + 2 * from + i % 2;
        rows[r][k] = value(of_a, i);
        columns[r][k] = value(of_b, i);
      }
    }
  }
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 16; ++k) d[i] += rows[i / 2][k] * columns[i % 2][k];
  }
#endif
}

// Whether a kernel was compiled for an architecture on which multiply_add works, and so runs on one.
template <class Kernel>
bool kernel_uses_mma(Kernel kernel) {
  cudaFuncAttributes attributes = {};
  // A failure is remembered by the runtime; whatever it is, the launch that follows meets it too.
  if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return attributes.ptxVersion >= kMmaArchitecture;
}

}  // namespace meon::cuda
