// The product over pixels of GDN's backward: the gradients of beta and gamma, as one partial sum for each block.
//
// Tile names the compile-time choices, as GdnTile in gdn.cuh does: the type Acc; kThreads of a block; tiles of kRows
// channels x kPixels positions, kStride apart; kRows x kRows sums in patches of kPatch x kPatch, kPatches along each
// side, one for each of the kGroupThreads threads of a group; kGroups groups, of which each has a share of the pixels.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/element.cuh"

namespace meon::cuda {

// A thread's share of sum_p t[i, p] x[j, p]^2 (gamma) and sum_p t[i, p] (beta).
template <class Tile>
struct ParameterSums {
  typename Tile::Acc gamma[Tile::kPatch][Tile::kPatch];
  typename Tile::Acc beta[Tile::kPatch];

  __device__ __forceinline__ void clear() {
    for (int a = 0; a < Tile::kPatch; ++a) {
      beta[a] = 0;
      for (int b = 0; b < Tile::kPatch; ++b) gamma[a][b] = 0;
    }
  }
  __device__ __forceinline__ void add(const ParameterSums& other) {
    for (int a = 0; a < Tile::kPatch; ++a) {
      beta[a] += other.beta[a];
      for (int b = 0; b < Tile::kPatch; ++b) gamma[a][b] += other.gamma[a][b];
    }
  }
};

// Which sums, of which pixels. The rows of a patch are kPatches apart, so that neighbouring threads read other banks.
template <class Tile>
struct Patch {
  int group, i, j;
  __device__ __forceinline__ Patch()
      : group(threadIdx.x / Tile::kGroupThreads),
        i(threadIdx.x % Tile::kGroupThreads / Tile::kPatches),
        j(threadIdx.x % Tile::kPatches) {}
};

// total += the sums over this tile's pixels; both tiles: [kRows, kStride]. These are added up apart first: the rounding
// error then grows with the number of pixels of a tile plus the number of tiles, not with their product.
template <class Tile>
__device__ __forceinline__ void add_parameter_sums(const typename Tile::Acc* t_tile, const typename Tile::Acc* x_tile,
                                                   ParameterSums<Tile>& total) {
  using Acc = typename Tile::Acc;
  const Patch<Tile> patch;
  ParameterSums<Tile> sums;
  sums.clear();
#pragma unroll 2
  for (int p = patch.group; p < Tile::kPixels; p += Tile::kGroups) {
    Acc t[Tile::kPatch], squares[Tile::kPatch];
    for (int a = 0; a < Tile::kPatch; ++a) {
      t[a] = t_tile[(patch.i + a * Tile::kPatches) * Tile::kStride + p];
      squares[a] = square(x_tile[(patch.j + a * Tile::kPatches) * Tile::kStride + p]);
    }
    for (int a = 0; a < Tile::kPatch; ++a) {
      sums.beta[a] += t[a];
      for (int b = 0; b < Tile::kPatch; ++b) sums.gamma[a][b] += t[a] * squares[b];
    }
  }
  total.add(sums);
}

// Adds up the groups of a block, in order, and writes the block's partial sums of rows from row0 and columns from col0:
// partial is [C, C] for gamma followed by [C] for beta. `scratch` is the memory of the two tiles, which nobody needs
// any more after the first barrier.
template <class Tile>
__device__ __forceinline__ void store_parameter_sums(const ParameterSums<Tile>& sums, int64_t channels, int64_t row0,
                                                     int64_t col0, typename Tile::Acc* scratch,
                                                     typename Tile::Acc* partial) {
  using Acc = typename Tile::Acc;
  constexpr int kSums = Tile::kRows * Tile::kRows;
  const Patch<Tile> patch;
  __syncthreads();  // nobody still reads the tiles
  for (int a = 0; a < Tile::kPatch; ++a) {
    for (int b = 0; b < Tile::kPatch; ++b) {
      const int i = patch.i + a * Tile::kPatches, j = patch.j + b * Tile::kPatches;
      scratch[patch.group * kSums + i * Tile::kRows + j] = sums.gamma[a][b];
    }
  }
  __syncthreads();  // every group's sums for gamma are there
  for (int e = threadIdx.x; e < kSums; e += Tile::kThreads) {
    const int64_t i = row0 + e / Tile::kRows, j = col0 + e % Tile::kRows;
    Acc sum = 0;
    for (int g = 0; g < Tile::kGroups; ++g) sum += scratch[g * kSums + e];
    if (i < channels && j < channels) partial[i * channels + j] = sum;
  }
  if (col0 != 0) return;  // the sums for beta are the same in every column of tiles; the first writes them
  __syncthreads();        // nobody still reads the sums for gamma
  if (patch.j == 0) {
    for (int a = 0; a < Tile::kPatch; ++a) {
      scratch[patch.group * Tile::kRows + patch.i + a * Tile::kPatches] = sums.beta[a];
    }
  }
  __syncthreads();  // every group's sums for beta are there
  if (threadIdx.x < Tile::kRows && row0 + threadIdx.x < channels) {
    Acc sum = 0;
    for (int g = 0; g < Tile::kGroups; ++g) sum += scratch[g * Tile::kRows + threadIdx.x];
    partial[channels * channels + row0 + threadIdx.x] = sum;
  }
}

__host__ __device__ constexpr int64_t gdn_partial_size(int64_t channels) { return channels * channels + channels; }

}  // namespace meon::cuda
