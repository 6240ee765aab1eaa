// What the programs for ThreadSanitizer have in common: every kernel once, with real threads. A pair of accesses to
// shared memory that no barrier orders is reported, whatever came out.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda/launch.h"
#include "cuda_on_host.h"

namespace race {

inline std::vector<float> ramp(int64_t size) {
  std::vector<float> v(static_cast<size_t>(size));
  for (size_t i = 0; i < v.size(); ++i) v[i] = 0.01f + static_cast<float>(i % 17) / 17;
  return v;
}

template <class... Params, class... Args>
void run(void (*kernel)(Params...), meon::cuda::Grid grid, int threads, Args... args) {
  if (meon::cuda::launch("", kernel, grid, threads, nullptr, args...).error != cudaSuccess) {
    std::fprintf(stderr, "launch failed: %s\n", cuda_on_host::last_failure().c_str());
    std::exit(2);
  }
}

// The arguments FILE LINE name a __syncthreads() that then does nothing. Succeeding would mean that the barrier is not
// needed, or that nothing here needs it.
inline void skip_barrier(int argc, char** argv) {
  if (argc != 3) return;
  cuda_on_host::options().skipped_file = argv[1];
  cuda_on_host::options().skipped_line = std::atoi(argv[2]);
}

}  // namespace race
