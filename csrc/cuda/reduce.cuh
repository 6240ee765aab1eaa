// The second stage of every sum over a batch: adds up the blocks' partial sums in a fixed order, so that results are
// the same bits on every run.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/element.cuh"
#include "cuda/launch.h"

namespace meon::cuda {

struct ReduceTile {
  static constexpr int kThreads = 256;                // of a block
  static constexpr int kColumns = 32;                 // sums
  static constexpr int kLanes = kThreads / kColumns;  // threads for each: one adds splits lane, lane + kLanes, ...
};

// splits partial sums of `first_size` elements that end in `first`, followed by `second_size` that end in `second`.
template <class T>
struct Reduction {
  const AccOf<T>* partials = nullptr;  // [splits, first_size + second_size]
  int64_t splits = 0;                  // with none, zeros are written
  T* first = nullptr;                  // [first_size]
  int64_t first_size = 0;
  T* second = nullptr;  // [second_size]
  int64_t second_size = 0;
};

template <class Acc>
struct ReduceStorage {
  Acc sums[ReduceTile::kLanes][ReduceTile::kColumns];
};

// grid: (sums / kColumns)
template <class T>
__global__ void __launch_bounds__(ReduceTile::kThreads, 1) reduce_kernel(Reduction<T> p) {
  using Acc = AccOf<T>;
  auto& s = block_shared<ReduceStorage<Acc>>();
  const int column = threadIdx.x % ReduceTile::kColumns, lane = threadIdx.x / ReduceTile::kColumns;
  const int64_t size = p.first_size + p.second_size;
  const int64_t at = int64_t{blockIdx.x} * ReduceTile::kColumns + column;
  Acc sum = 0;
  if (at < size) {
    for (int64_t split = lane; split < p.splits; split += ReduceTile::kLanes) sum += p.partials[split * size + at];
  }
  s.sums[lane][column] = sum;
  __syncthreads();  // every lane's sum is there
  if (lane != 0 || at >= size) return;
  for (int other = 1; other < ReduceTile::kLanes; ++other) sum += s.sums[other][column];
  if (at < p.first_size) {
    p.first[at] = narrow<T>(sum);
  } else {
    p.second[at - p.first_size] = narrow<T>(sum);
  }
}

template <class T>
LaunchResult reduce(const Reduction<T>& p, cudaStream_t stream) {
  return launch("reduce_kernel", reduce_kernel<T>, {divide_up(p.first_size + p.second_size, ReduceTile::kColumns)},
                ReduceTile::kThreads, stream, p);
}

}  // namespace meon::cuda
