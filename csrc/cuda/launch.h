// How kernels are started, and how they get their shared memory: the two things that g++ cannot compile as nvcc does.
// Kernels and launchers that go through here can also be built for the host and tested without a GPU
// (tests/cuda_on_host).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>
#include <utility>

#include "cuda/launch_result.h"

namespace meon::cuda {

// Blocks along each axis, before anybody has checked that CUDA can count so far.
struct Grid {
  int64_t x = 1, y = 1, z = 1;
};

// Fewer blocks than these leave multiprocessors of a large GPU idle, and what counts is how long one block takes. A
// constant, so that what is computed is the same everywhere.
inline constexpr int64_t kFewBlocks = 128;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Params come from the kernel and Args are converted to them, so that an int may stand for an int64_t.
template <class... Params, class... Args>
LaunchResult launch(const char* name, void (*kernel)(Params...), Grid grid, int threads, cudaStream_t stream,
                    Args&&... args) {
  constexpr int64_t kMaxX = std::numeric_limits<int32_t>::max(), kMaxYZ = 65535;
  if (grid.x > kMaxX || grid.y > kMaxYZ || grid.z > kMaxYZ) return {cudaErrorInvalidConfiguration, name};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
  // A failed launch is also remembered by the runtime, and would be blamed on the next one if it were not fetched.
  const cudaError_t remembered = cudaGetLastError();
  return {error != cudaSuccess ? error : remembered, name};
}

#if defined(__CUDACC__)
// The block's shared memory: one Storage for each kernel, of a type without constructors. It starts out undefined.
template <class Storage>
__device__ __forceinline__ Storage& block_shared() {
  static_assert(sizeof(Storage) <= 48 * 1024, "more than a block gets without asking");
  __shared__ Storage storage;
  return storage;
}
#else
template <class Storage>
Storage& block_shared() {
  static_assert(sizeof(Storage) <= 48 * 1024, "more than a block gets without asking");
  return *static_cast<Storage*>(cuda_on_host::block_shared(sizeof(Storage), alignof(Storage)));
}
#endif

}  // namespace meon::cuda
