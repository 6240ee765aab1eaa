// GDN kernels. docs/cuda.md has the picture; csrc/core/params.h has the formula and the layout of x.
//
// A block works on tiles of kRows channels x kPixels positions held in shared memory, in the accumulation type. With at
// most kRows channels one tile holds them all, and one kernel does the whole backward pass (gdn_backward_kernel). With
// more, the tiles of the other channels are streamed through the same memory, and the backward pass takes one kernel
// for each of its three products.
//
// Sums are taken in an order that depends on the shape alone, so results are the same bits on every run.
//
// Also compiled by g++ (tests/cuda_on_host): no torch, no inline PTX.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/params.h"
#include "cuda/element.cuh"
#include "cuda/launch.h"
#include "cuda/parameter_sums.cuh"
#include "cuda/vector_load.cuh"

namespace meon::cuda {

// ---- tiles ----

constexpr int kGdnThreads = 256;  // of every block

// Every compile-time choice of these kernels. kRows is 8, 16, 32 or 64, the least that holds all channels; 64 where
// none does. A thread owns kThreadRows x kThreadPixels elements of each tile: of rows next to each other, and of pixels
// kPixelLanes apart, so that neighbouring threads read neighbouring pixels.
template <class Acc_, int kRows_>
struct GdnTile {
  using Acc = Acc_;
  static constexpr int kThreads = kGdnThreads;
  static constexpr int kRows = kRows_;
  static constexpr int kElements = sizeof(Acc) == 4 ? 4096 : 2048;  // two tiles of either type fit in 48 KiB
  static constexpr int kPixels = kElements / kRows;
  static constexpr int kStride = kPixels + 1;  // odd: a column of a tile lies in as many banks as it has rows
  static constexpr int kThreadRows = 4;
  static constexpr int kThreadPixels = kElements / kThreads / kThreadRows;
  static constexpr int kPixelLanes = kPixels / kThreadPixels;
  static constexpr int kDepth = kRows < 16 ? kRows : 16;  // columns of gamma in shared memory at a time
  static constexpr int kGammaStride = kRows + 4;          // keeps 16-byte loads aligned, spreads the banks

  // The product over pixels: kRows x kRows sums, a 4 x 4 patch for each thread of a group; every group has a share of
  // the pixels.
  static constexpr int kPatch = 4;
  static constexpr int kPatches = kRows / kPatch;  // along each side
  static constexpr int kGroupThreads = kPatches * kPatches;
  static constexpr int kGroups = kThreads / kGroupThreads;

  // Blocks of gdn_backward_kernel to keep room for on a multiprocessor, as a bound on its registers (128 for two).
  // __launch_bounds__ always names a number: left to itself, ptxas spills a few registers to reach a rounder one.
  static constexpr int kBackwardBlocks = sizeof(Acc) == 4 ? 2 : 1;

  static_assert(kRows % kThreadRows == 0 && kPixels % kThreadPixels == 0);
  static_assert(kPixelLanes * (kRows / kThreadRows) == kThreads, "each element of a tile belongs to one thread");
  static_assert(kRows % kDepth == 0 && kRows % kPatch == 0 && kThreads % kGroupThreads == 0);
  static_assert(kGroups * kRows * kRows <= 2 * kRows * kStride, "the groups' sums fit where the two tiles were");
};

// Shared memory. kTiles is 1 for the kernels that hold one tile at a time.
template <class Tile, int kTiles>
struct GdnStorage {
  alignas(16) typename Tile::Acc tiles[kTiles][Tile::kRows * Tile::kStride];
  alignas(16) typename Tile::Acc gamma[Tile::kDepth * Tile::kGammaStride];
  int64_t origin[Tile::kPixels];  // offset of channel 0 of each pixel of the tile; -1 past the last pixel
};

// The part of a tile that the calling thread owns.
template <class Tile>
struct Owned {
  int row, pixel;
  __device__ __forceinline__ Owned()
      : row(threadIdx.x / Tile::kPixelLanes * Tile::kThreadRows), pixel(threadIdx.x % Tile::kPixelLanes) {}
  __device__ __forceinline__ int at(int r, int k) const {
    return (row + r) * Tile::kStride + pixel + k * Tile::kPixelLanes;
  }
};

// One value for each owned element.
template <class Tile>
struct Fragment {
  typename Tile::Acc v[Tile::kThreadRows][Tile::kThreadPixels];
};

template <class Tile>
__device__ __forceinline__ void locate_pixels(const GdnShape& s, int64_t tile, int64_t* origin) {
  const int64_t first = tile * Tile::kPixels;
  for (int p = threadIdx.x; p < Tile::kPixels; p += Tile::kThreads) {
    const int64_t at = first + p;
    const bool inside = at < s.batch * s.spatial;
    origin[p] = inside ? at / s.spatial * s.channels * s.spatial + at % s.spatial * s.stride_s : -1;
  }
}

// Calls f(row, pixel, origin of the pixel) for every element of a tile, neighbouring threads at neighbouring addresses
// of the tensor. A thread keeps to one row where channels are next to each other, else to one pixel if it can.
template <class Tile, class F>
__device__ __forceinline__ void for_each_element(const GdnShape& s, const int64_t* origin, F&& f) {
  if (s.stride_c == 1) {
    constexpr int kStep = Tile::kThreads / Tile::kRows;
    const int row = threadIdx.x % Tile::kRows, start = threadIdx.x / Tile::kRows;
#pragma unroll 4
    for (int pixel = start; pixel < Tile::kPixels; pixel += kStep) f(row, pixel, origin[pixel]);
  } else {
    constexpr int kPixelStep = Tile::kPixels < Tile::kThreads ? Tile::kPixels : Tile::kThreads;
    constexpr int kRowStep = Tile::kThreads / kPixelStep;
    for (int pixel = threadIdx.x % kPixelStep; pixel < Tile::kPixels; pixel += kPixelStep) {
      const int64_t at = origin[pixel];
#pragma unroll 4
      for (int m = 0; m < Tile::kRows / kRowStep; ++m) f(threadIdx.x / kPixelStep + m * kRowStep, pixel, at);
    }
  }
}

// tile[r][p] = value(offset of channel row0 + r of pixel p); zero where there is no such channel or pixel, so that
// nothing downstream has to ask again.
template <class Tile, class F>
__device__ __forceinline__ void load_tile(const GdnShape& s, const int64_t* origin, int64_t row0,
                                          typename Tile::Acc* tile, F&& value) {
  for_each_element<Tile>(s, origin, [&](int r, int p, int64_t at) {
    const bool inside = at >= 0 && row0 + r < s.channels;
    tile[r * Tile::kStride + p] = inside ? value(at + (row0 + r) * s.stride_c) : typename Tile::Acc(0);
  });
}

// to: [N, C, S], at the offsets that load_tile reads from.
template <class Tile, class T>
__device__ __forceinline__ void store_tile(const GdnShape& s, const int64_t* origin, int64_t row0,
                                           const typename Tile::Acc* tile, T* to) {
  for_each_element<Tile>(s, origin, [&](int r, int p, int64_t at) {
    const bool inside = at >= 0 && row0 + r < s.channels;
    if (inside) to[at + (row0 + r) * s.stride_c] = narrow<T>(tile[r * Tile::kStride + p]);
  });
}

// ---- the products over channels ----

// sum[i, p] += sum_j gamma[i, j] value(tile[j, p]), or gamma[j, i] where kTransposed, for the owned (i, p) of the rows
// from row0 and all j of the rows from depth0, those of the tile. Begins with a barrier: the tile may have been written
// right before.   gamma: [C, C]; tile: [kRows, kStride]; staged: [kDepth, kGammaStride]
template <class Tile, bool kTransposed, class T, class F>
__device__ __forceinline__ void multiply(const T* gamma, int64_t channels, int64_t row0, int64_t depth0,
                                         const typename Tile::Acc* tile, typename Tile::Acc* staged,
                                         Fragment<Tile>& sum, F&& value) {
  using Acc = typename Tile::Acc;
  const Owned<Tile> own;
  for (int first = 0; first < Tile::kRows && depth0 + first < channels; first += Tile::kDepth) {
    __syncthreads();  // the tile is complete, and nobody still reads what was staged before
    // Neighbouring threads along gamma's rows in memory, whichever way round it is used.
    constexpr int kAlong = kTransposed ? Tile::kRows : Tile::kDepth, kAcross = kTransposed ? Tile::kDepth : Tile::kRows;
    constexpr int kStep = Tile::kThreads / kAlong;
    const int along = threadIdx.x % kAlong, start = threadIdx.x / kAlong;
    const int64_t column = (kTransposed ? row0 : depth0 + first) + along, row = kTransposed ? depth0 + first : row0;
#pragma unroll
    for (int across = start; across < kAcross; across += kStep) {
      const bool inside = row + across < channels && column < channels;
      staged[kTransposed ? across * Tile::kGammaStride + along : along * Tile::kGammaStride + across] =
          inside ? widen(fetch(gamma + (row + across) * channels + column)) : Acc(0);
    }
    __syncthreads();  // gamma is staged
#pragma unroll 2
    for (int d = 0; d < Tile::kDepth; ++d) {
      Acc weight[Tile::kThreadRows];
      for (int r = 0; r < Tile::kThreadRows; ++r) weight[r] = staged[d * Tile::kGammaStride + own.row + r];
      for (int k = 0; k < Tile::kThreadPixels; ++k) {
        const Acc v = value(tile[(first + d) * Tile::kStride + own.pixel + k * Tile::kPixelLanes]);
        for (int r = 0; r < Tile::kThreadRows; ++r) sum.v[r][k] += weight[r] * v;
      }
    }
  }
}

// n[i, p] = beta_i + sum_j gamma[i, j] x[j, p]^2 for the owned (i, p) of the rows from row0. Rows past the last channel
// get 1, whose root is harmless. On return the tile holds the last rows of x that were read; with at most kRows
// channels these are all of them. Some threads may still be reading it.
// origin: [kPixels]; x: [N, C, S]; beta: [C]; gamma: [C, C]; tile, staged: as in multiply
template <class Tile, class T>
__device__ __forceinline__ void norms(const GdnShape& s, const int64_t* origin, int64_t row0, const T* x, const T* beta,
                                      const T* gamma, typename Tile::Acc* tile, typename Tile::Acc* staged,
                                      Fragment<Tile>& n) {
  using Acc = typename Tile::Acc;
  const Owned<Tile> own;
  for (int r = 0; r < Tile::kThreadRows; ++r) {
    const int64_t i = row0 + own.row + r;
    const Acc b = i < s.channels ? widen(beta[i]) : Acc(1);
    for (int k = 0; k < Tile::kThreadPixels; ++k) n.v[r][k] = b;
  }
  for (int64_t depth0 = 0; depth0 < s.channels; depth0 += Tile::kRows) {
    __syncthreads();  // origin is known (first time); nobody still reads the tile (later)
    load_tile<Tile>(s, origin, depth0, tile, [&](int64_t at) { return widen(fetch(x + at)); });
    multiply<Tile, false>(gamma, s.channels, row0, depth0, tile, staged, n, [](Acc v) { return square(v); });
  }
}

// ---- forward ----

// grid: (tiles of pixels, tiles of rows)
template <class T, int kRows>
__global__ void __launch_bounds__(kGdnThreads, 1) gdn_forward_kernel(GdnForward<T> p) {
  using Tile = GdnTile<AccOf<T>, kRows>;
  auto& s = block_shared<GdnStorage<Tile, 1>>();
  auto* tile = s.tiles[0];
  const Owned<Tile> own;
  const int64_t row0 = int64_t{blockIdx.y} * kRows;

  locate_pixels<Tile>(p.shape, blockIdx.x, s.origin);
  Fragment<Tile> n;
  norms<Tile>(p.shape, s.origin, row0, p.x, p.beta, p.gamma, tile, s.gamma, n);
  __syncthreads();  // nobody still reads the tile
  if (p.shape.channels > kRows) {
    load_tile<Tile>(p.shape, s.origin, row0, tile, [&](int64_t at) { return widen(fetch(p.x + at)); });
    __syncthreads();  // the numerators are there
  }
  for (int r = 0; r < Tile::kThreadRows; ++r) {
    for (int k = 0; k < Tile::kThreadPixels; ++k) {
      auto& x = tile[own.at(r, k)];
      x = divide_by_root(x, n.v[r][k]);
    }
  }
  __syncthreads();  // the outputs are there
  store_tile<Tile>(p.shape, s.origin, row0, tile, p.y);
}

// ---- backward, all channels in one tile ----

// Block b works on tiles b, b + splits, ...   partials: [splits, C * C + C]   grid: (splits)
template <class T, int kRows>
__global__ void __launch_bounds__(kGdnThreads, GdnTile<AccOf<T>, kRows>::kBackwardBlocks)
    gdn_backward_kernel(GdnBackward<T> p, int64_t tiles, AccOf<T>* partials) {
  using Acc = AccOf<T>;
  using Tile = GdnTile<Acc, kRows>;
  auto& s = block_shared<GdnStorage<Tile, 2>>();
  Acc* x_tile = s.tiles[0];
  Acc* t_tile = s.tiles[1];
  const Owned<Tile> own;
  ParameterSums<Tile> sums;
  sums.clear();

  for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    __syncthreads();  // the tile before has been stored
    locate_pixels<Tile>(p.shape, index, s.origin);
    Fragment<Tile> n;
    norms<Tile>(p.shape, s.origin, 0, p.x, p.beta, p.gamma, x_tile, s.gamma, n);
    load_tile<Tile>(p.shape, s.origin, 0, t_tile, [&](int64_t at) { return widen(fetch(p.grad_y + at)); });
    __syncthreads();  // the gradients are there

    Fragment<Tile> direct, indirect;  // g n^-1/2; sum_i t_i gamma[i, j]
    for (int r = 0; r < Tile::kThreadRows; ++r) {
      for (int k = 0; k < Tile::kThreadPixels; ++k) {
        const int at = own.at(r, k);
        const Acc inverse = inverse_root(n.v[r][k]);
        const Acc g = t_tile[at];
        direct.v[r][k] = g * inverse;
        indirect.v[r][k] = 0;
        t_tile[at] = norm_gradient(g, x_tile[at], inverse);
      }
    }
    multiply<Tile, true>(p.gamma, p.shape.channels, 0, 0, t_tile, s.gamma, indirect, [](Acc v) { return v; });
    add_parameter_sums<Tile>(t_tile, x_tile, sums);
    __syncthreads();  // nobody still reads x
    for (int r = 0; r < Tile::kThreadRows; ++r) {
      for (int k = 0; k < Tile::kThreadPixels; ++k) {
        Acc& x = x_tile[own.at(r, k)];
        x = direct.v[r][k] + 2 * x * indirect.v[r][k];
      }
    }
    __syncthreads();  // the gradients of x are there
    store_tile<Tile>(p.shape, s.origin, 0, x_tile, p.grad_x);
  }
  store_parameter_sums<Tile>(sums, p.shape.channels, 0, 0, &s.tiles[0][0],
                             partials + blockIdx.x * gdn_partial_size(p.shape.channels));
}

// ---- backward, more channels than a tile holds ----

// First: inverse = n^-1/2.   inverse: [N, C, S], laid out as x   grid: (tiles of pixels, tiles of rows)
template <class T, int kRows>
__global__ void __launch_bounds__(kGdnThreads, 1) gdn_inverse_norm_kernel(GdnBackward<T> p, AccOf<T>* inverse) {
  using Acc = AccOf<T>;
  using Tile = GdnTile<Acc, kRows>;
  auto& s = block_shared<GdnStorage<Tile, 1>>();
  Acc* tile = s.tiles[0];
  const Owned<Tile> own;
  const int64_t row0 = int64_t{blockIdx.y} * kRows;

  locate_pixels<Tile>(p.shape, blockIdx.x, s.origin);
  Fragment<Tile> n;
  norms<Tile>(p.shape, s.origin, row0, p.x, p.beta, p.gamma, tile, s.gamma, n);
  __syncthreads();  // nobody still reads the tile
  for (int r = 0; r < Tile::kThreadRows; ++r) {
    for (int k = 0; k < Tile::kThreadPixels; ++k) tile[own.at(r, k)] = inverse_root(n.v[r][k]);
  }
  __syncthreads();  // the results are there
  store_tile<Tile>(p.shape, s.origin, row0, tile, inverse);
}

// Second: the gradient of x.   inverse: [N, C, S]   grid: (tiles of pixels, tiles of rows)
template <class T, int kRows>
__global__ void __launch_bounds__(kGdnThreads, 1) gdn_input_gradient_kernel(GdnBackward<T> p, const AccOf<T>* inverse) {
  using Acc = AccOf<T>;
  using Tile = GdnTile<Acc, kRows>;
  auto& s = block_shared<GdnStorage<Tile, 1>>();
  Acc* tile = s.tiles[0];
  const Owned<Tile> own;
  const int64_t row0 = int64_t{blockIdx.y} * kRows;

  locate_pixels<Tile>(p.shape, blockIdx.x, s.origin);
  Fragment<Tile> indirect;  // sum_i t_i gamma[i, j]
  for (int r = 0; r < Tile::kThreadRows; ++r) {
    for (int k = 0; k < Tile::kThreadPixels; ++k) indirect.v[r][k] = 0;
  }
  for (int64_t depth0 = 0; depth0 < p.shape.channels; depth0 += kRows) {
    __syncthreads();  // origin is known (first time); nobody still reads the tile (later)
    load_tile<Tile>(p.shape, s.origin, depth0, tile, [&](int64_t at) {
      return norm_gradient(widen(fetch(p.grad_y + at)), widen(fetch(p.x + at)), fetch(inverse + at));
    });
    multiply<Tile, true>(p.gamma, p.shape.channels, row0, depth0, tile, s.gamma, indirect, [](Acc v) { return v; });
  }
  __syncthreads();  // nobody still reads the tile
  for (int r = 0; r < Tile::kThreadRows; ++r) {
    for (int k = 0; k < Tile::kThreadPixels; ++k) tile[own.at(r, k)] = indirect.v[r][k];
  }
  __syncthreads();  // the sums are there
  // Each element is now the business of the thread that stores it, and of no other.
  for_each_element<Tile>(p.shape, s.origin, [&](int r, int pixel, int64_t origin) {
    if (origin < 0 || row0 + r >= p.shape.channels) return;
    const int64_t at = origin + (row0 + r) * p.shape.stride_c;
    const Acc direct = widen(fetch(p.grad_y + at)) * fetch(inverse + at);
    p.grad_x[at] = narrow<T>(direct + 2 * widen(fetch(p.x + at)) * tile[r * Tile::kStride + pixel]);
  });
}

// Third: the gradients of beta and gamma.   inverse: [N, C, S]; partials: [splits, C * C + C]
// grid: (splits, tiles of rows, tiles of columns)
template <class T, int kRows>
__global__ void __launch_bounds__(kGdnThreads, 1)
    gdn_parameter_gradient_kernel(GdnBackward<T> p, int64_t tiles, const AccOf<T>* inverse, AccOf<T>* partials) {
  using Acc = AccOf<T>;
  using Tile = GdnTile<Acc, kRows>;
  auto& s = block_shared<GdnStorage<Tile, 2>>();
  Acc* x_tile = s.tiles[0];
  Acc* t_tile = s.tiles[1];
  const int64_t row0 = int64_t{blockIdx.y} * kRows, col0 = int64_t{blockIdx.z} * kRows;
  ParameterSums<Tile> sums;
  sums.clear();

  for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    locate_pixels<Tile>(p.shape, index, s.origin);
    __syncthreads();  // origin is known, and nobody still reads the tiles before
    load_tile<Tile>(p.shape, s.origin, row0, t_tile, [&](int64_t at) {
      return norm_gradient(widen(fetch(p.grad_y + at)), widen(fetch(p.x + at)), fetch(inverse + at));
    });
    load_tile<Tile>(p.shape, s.origin, col0, x_tile, [&](int64_t at) { return widen(fetch(p.x + at)); });
    __syncthreads();  // both tiles are there
    add_parameter_sums<Tile>(t_tile, x_tile, sums);
  }
  store_parameter_sums<Tile>(sums, p.shape.channels, row0, col0, &s.tiles[0][0],
                             partials + blockIdx.x * gdn_partial_size(p.shape.channels));
}

}  // namespace meon::cuda
