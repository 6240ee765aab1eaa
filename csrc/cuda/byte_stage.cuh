// The first stage over bytes, on tensor cores. A byte is a bfloat16, exactly, and a weight of 24 bits is the sum of
// three of 8 bits each, exactly: so products are exact, and sums are taken in float, as in conv_gdn_pool_kernel.
// docs/cuda.md has the picture.
//
// Also compiled by g++ (tests/cuda_on_host): multiply_add has a plain counterpart.
#pragma once

#include <cstring>

#include "cuda/mma.cuh"
#include "cuda/stage.cuh"

namespace meon::cuda {

// The convolution of a pool window as a product over "pairs" of neighbouring inputs, which a word of shared memory
// holds: 3 for each of the 15 input channels and kernel rows, the second half of every third one unused, and 3 more
// that are not there, to fill the last of 6 products.
struct ByteTile : StageTile<0> {
  static constexpr int kLines = kIn * kKernel;
  static constexpr int kLinePairs = (kKernel + 1) / 2;
  static constexpr int kPairs = kLines * kLinePairs;
  static constexpr int kProducts = (kPairs + 7) / 8;  // of 8 pairs each
  static constexpr int kParts = 3;                    // of a weight
  static constexpr int kWordPitch = 36;               // words from one row of input to the next
  static constexpr int kGroups = kWindows / 8;        // a product has 8 windows, both columns of each
  static constexpr int kWarps = kThreads / 32;
  static_assert(kOut == 8, "the columns of a product");
  static_assert(kStride == 2 && kStep == 4,
                "a window starts at a multiple of two words, its second column at one more");
  static_assert(kColumns % 8 == 0 && 2 * kQuads <= kWordPitch && kWordPitch % 2 == 0);
};

struct ByteStorage {
  alignas(8) uint32_t pixels[ByteTile::kIn * ByteTile::kHeight * ByteTile::kWordPitch];
};

__device__ __forceinline__ uint32_t bits_of(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}
__device__ __forceinline__ float float_of(uint32_t bits) {
  float v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

// Two values that are bfloat16 exactly.
__device__ __forceinline__ uint32_t packed(float low, float high) {
  return bits_of(low) >> 16 | (bits_of(high) & 0xffff0000u);
}

// The most significant 8 bits of v, which becomes what is left.
__device__ __forceinline__ float take_part(float& v) {
  const float part = float_of(bits_of(v) & 0xffff0000u);
  v -= part;
  return part;
}

// y: [N, kOut, Hp, Wp]   grid: (tiles)
template <class Source>
__global__ void __launch_bounds__(ByteTile::kThreads, ByteTile::kBlocks)
    byte_stage_kernel(StageShape s, Source source, StageParameters<float> p, float* y) {
  using Tile = ByteTile;
  auto& shared = block_shared<ByteStorage>();
  const Place place = place_of<Tile>(s, blockIdx.x);
  const int warp = threadIdx.x / 32, window_lane = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int channel = 2 * t;  // and the next: what the lane has of a product
  read_input<Tile, Tile::kThreads, Tile::kIn>(
      source, place, 0, [&](int plane, int row, int quad, const float (&values)[4]) {
        uint32_t* words = shared.pixels + (plane * Tile::kHeight + row) * Tile::kWordPitch + 2 * quad;
        words[0] = packed(values[0], values[1]);
        words[1] = packed(values[2], values[3]);
      });

  // Of the lane's pairs, t and t + 4 of each product: where they are from a window's first word on, which halves count,
  // and their weights in the output channel that the lane has of the second matrix.
  int at[Tile::kProducts][2];
  uint32_t halves[Tile::kProducts][2], weight[Tile::kProducts][Tile::kParts][2];
#pragma unroll
  for (int product = 0; product < Tile::kProducts; ++product) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int pair = 8 * product + 4 * h + t, line = pair / Tile::kLinePairs, column = pair % Tile::kLinePairs;
      const bool used = pair < Tile::kPairs, both = column < Tile::kLinePairs - 1;
      at[product][h] =
          used ? (line / Tile::kKernel * Tile::kHeight + line % Tile::kKernel) * Tile::kWordPitch + column : 0;
      halves[product][h] = !used ? 0u : both ? 0xffffffffu : 0xffffu;
      const float* from = p.weight + (window_lane * Tile::kLines + line) * Tile::kKernel + 2 * column;
      float first = used ? from[0] : 0.0f, second = used && both ? from[1] : 0.0f;
#pragma unroll
      for (int part = 0; part < Tile::kParts; ++part) {
        const float low = take_part(first), high = take_part(second);
        weight[product][part][h] = packed(low, high);
      }
    }
  }
  float bias[2], beta[2], gamma[2][4][2];  // gamma[c][m]: what the lane t ^ m has to do with channel + c
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    bias[c] = p.bias[channel + c];
    beta[c] = p.beta[channel + c];
#pragma unroll
    for (int m = 0; m < 4; ++m) {
#pragma unroll
      for (int j = 0; j < 2; ++j) gamma[c][m][j] = p.gamma[(channel + c) * Tile::kOut + 2 * (t ^ m) + j];
    }
  }
  __syncthreads();  // the pixels are there

#pragma unroll 1
  for (int group = warp; group < Tile::kGroups; group += Tile::kWarps) {
    __syncwarp();  // a product is the whole warp's
    // So is this: past the edge there may be nothing for it to do.
    if (!Window<Tile>(8 * group).inside(s, place)) continue;
    const Window<Tile> window(8 * group + window_lane);
    const uint32_t* corner =
        shared.pixels + window.row * Tile::kStep * Tile::kWordPitch + window.column * (Tile::kStep / 2);
    float z[2][4];  // [row of the window][column, channel]
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) z[r][i] = bias[i % 2];
    }
#pragma unroll
    for (int product = 0; product < Tile::kProducts; ++product) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        uint32_t a[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int h = i / 2, column = i % 2;
          a[i] = corner[at[product][h] + r * Tile::kStride * Tile::kWordPitch + column] & halves[product][h];
        }
        // The least parts first: they have most to lose.
#pragma unroll
        for (int part = Tile::kParts - 1; part >= 0; --part) multiply_add(a, weight[product][part], z[r]);
      }
    }

    float n[2][4], squares[2][4];  // [channel][position of the window, row by row]
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        n[c][k] = beta[c];
        squares[c][k] = square(z[k / 2][k % 2 * 2 + c]);
      }
    }
#pragma unroll
    for (int m = 0; m < 4; ++m) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const float other = m == 0 ? squares[j][k] : __shfl_xor_sync(0xffffffffu, squares[j][k], m);
#pragma unroll
          for (int c = 0; c < 2; ++c) n[c][k] += gamma[c][m][j] * other;
        }
      }
    }
    if (!window.inside(s, place)) continue;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float out[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) out[k] = z[k / 2][k % 2 * 2 + c] / std::sqrt(n[c][k]);
      y[((place.sample * Tile::kOut + channel + c) * s.out_h + place.row + window.row) * s.out_w + place.column +
        window.column] = window_maximum(out);
    }
  }
}

}  // namespace meon::cuda
