// Runs CUDA kernels on the host, so that they can be tested on machines without a GPU.
//
// Blocks run one after another. The threads of a block are, as chosen at compile time,
//   fibers   (default)  of one thread: for checking values, and memory accesses with AddressSanitizer;
//   threads  (CUDA_ON_HOST_THREADS defined): so that ThreadSanitizer sees two accesses to shared memory that no
//            barrier orders, whether or not the values happened to come out right.
//
// What a kernel may not rely on is made to hurt: shared memory is full of NaN when a block starts and ends exactly
// where it was said to, fibers can run in either order, and threads that wait at different barriers, or for threads
// that have returned, make the launch fail.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>

#include "cuda_runtime_api.h"

// The variables of device code.
extern constinit thread_local uint3 threadIdx, blockIdx;
extern constinit thread_local dim3 blockDim, gridDim;

namespace cuda_on_host {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 1024;  // of a block

struct Options {
  bool reverse = false;  // fibers run from the last thread to the first
  std::optional<uint3> only_block;
  int ptx_version = 75;  // that kernels were compiled for; 0: asking for it fails
  // This barrier does nothing: the test that expects a report of the race. `file` is the end of a path.
  std::string skipped_file;
  int skipped_line = 0;
};
Options& options();

// What went wrong in the last launch that returned cudaErrorLaunchFailure.
const std::string& last_failure();

// NaN as float, double, __half and __nv_bfloat16, and an offset far outside of any tensor as int64_t.
void poison(void* memory, size_t bytes);

cudaError_t run_grid(dim3 grid, dim3 block, const std::function<void()>& thread);
void sync_threads(const char* file, int line);
void sync_warp();

// The running block's shared memory: the same for each of its threads, and not one byte longer than `bytes`.
void* block_shared(size_t bytes, size_t alignment);

// The calling thread's number in its block, and in its warp.
inline int rank() { return static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)); }
inline int lane() { return rank() % kWarp; }

// What the lane `from` hands in.
uint64_t shuffle_bits(uint64_t value, int from);

template <class T>
T shuffle(T value, int from) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle_bits(bits, from);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace cuda_on_host
