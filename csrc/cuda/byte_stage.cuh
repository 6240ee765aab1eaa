// The first stage over bytes, on tensor cores. A byte is a bfloat16, exactly, and a weight of 24 bits is the sum of
// three of 8 bits each, exactly: so products are exact, and sums are taken in float, as in conv_gdn_pool_kernel.
// docs/cuda.md has the picture.
//
// Also compiled by g++ (tests/cuda_on_host): multiply_add has a plain counterpart.
#pragma once

#include "cuda/mma.cuh"
#include "cuda/stage.cuh"

namespace meon::cuda {

// The convolution of a pool window as a product over "pairs" of neighbouring inputs, each a word of shared memory: 3
// for each input channel and kernel row, the second half of the last unused. The pairs of a product are in any order,
// as long as both matrices have the same; lane t of four has 12 of the 45, so that most of what it loads serves both
// rows of the window, at places that differ from lane to lane by a constant:
//   slots 0..4: channel t / 2, the first pair or the last, kernel rows 0 to 4
//   slots 5..9: the middle pair of channel t, or (lane 3) the first of channel 2; likewise
//   slots 10 and 11: the last pair of channel 2, kernel rows 0 and 2, 1 and 3, none and 4, or none
template <int kRows_>
struct ByteTile : WindowTile<0, 1, kRows_, 16> {
  using Base = WindowTile<0, 1, kRows_, 16>;
  using Base::kColumns, Base::kHeight, Base::kIn, Base::kKernel, Base::kOut, Base::kQuads, Base::kStep, Base::kStride;
  static constexpr int kThreads = 128, kBlocks = 4;
  static constexpr int kLinePairs = (kKernel + 1) / 2;
  static constexpr int kSlots = 12, kProducts = kSlots / 2;
  static constexpr int kParts = 3;       // of a weight
  static constexpr int kWordPitch = 40;  // words from one row of input to the next: the four lanes of a window and
  static constexpr int kPlanePad = 20;   // its neighbours read other banks
  static constexpr int kPlaneWords = kHeight * kWordPitch + kPlanePad;
  static constexpr int kRowGroups = kColumns / 8;  // a product has 8 windows, both columns of each
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kWeightWords = kSlots * kParts;  // of a lane
  static_assert(kOut == 8, "the columns of a product");
  static_assert(kIn == 3 && kKernel == 5 && kIn * kKernel * kLinePairs <= 4 * kSlots, "the slots");
  static_assert(kStride == 2 && kStep == 4,
                "a window starts at a multiple of two words, its second column at one more");
  static_assert(kColumns % 8 == 0 && 2 * kQuads <= kWordPitch && kWordPitch % 2 == 0 && kPlanePad % 2 == 0);
  static_assert(kWarps % kRowGroups == 0 && kSlots % kWarps == 0 && kWeightWords % 4 == 0);
};

// Rows of windows of a block: many where there are many, for the sake of what neighbouring blocks both read.
inline constexpr int kManyRows = 16, kFewRows = 8;

template <class Tile>
struct ByteStorage {
  alignas(16) uint32_t pixels[Tile::kIn * Tile::kPlaneWords];
  alignas(16) uint32_t weight[32 * Tile::kWeightWords];  // of each lane
};

// The pair that a slot of lane t is, and whether it counts. One that does not is still of the window.
template <class Tile>
struct BytePair {
  int channel, kernel_row, column;
  bool used = true;
  __device__ __forceinline__ BytePair(int slot, int t) {
    if (slot < 5) {
      channel = t / 2, kernel_row = slot, column = t % 2 * 2;
    } else if (slot < 10) {
      channel = t < 3 ? t : 2, kernel_row = slot - 5, column = t < 3 ? 1 : 0;
    } else {
      channel = 2, kernel_row = (t < 3 ? t : 0) + 2 * (slot - 10), column = 2;
      used = t < 2 || (t == 2 && slot == 11);
    }
  }
  __device__ __forceinline__ int word() const {
    return channel * Tile::kPlaneWords + kernel_row * Tile::kWordPitch + column;
  }
};

// Two values that are bfloat16 exactly.
__device__ __forceinline__ uint32_t packed(float low, float high) { return (bits_of(low) >> 16) + bits_of(high); }

// The most significant 8 bits of v, which becomes what is left.
__device__ __forceinline__ float take_part(float& v) {
  const float part = float_of(bits_of(v) & 0xffff0000u);
  v -= part;
  return part;
}

// y: [N, kOut, Hp, Wp]   grid: (tiles)
template <class Source, int kRows>
__global__ void __launch_bounds__(ByteTile<kRows>::kThreads, ByteTile<kRows>::kBlocks)
    byte_stage_kernel(StageShape s, Source source, StageParameters<float> p, float* y) {
  using Tile = ByteTile<kRows>;
  auto& shared = block_shared<ByteStorage<Tile>>();
  const Place place = place_of<Tile>(s, blockIdx.x);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, window_lane = lane / 4, t = lane % 4;
  const int channel = 2 * t;  // and the next: what the lane has of a product
  read_input<Tile, Tile::kThreads, Tile::kIn>(
      source, place, 0, [&](int plane, int row, int quad, const float (&values)[4]) {
        uint32_t* words = shared.pixels + plane * Tile::kPlaneWords + row * Tile::kWordPitch + 2 * quad;
        *reinterpret_cast<uint2*>(words) = uint2{packed(values[0], values[1]), packed(values[2], values[3])};
      });
  // Every warp's lanes want the same weights, in the output channel that the lane has of the second matrix.
#pragma unroll
  for (int m = 0; m < Tile::kSlots / Tile::kWarps; ++m) {
    const int slot = warp + m * Tile::kWarps;
    const BytePair<Tile> pair(slot, t);
    const float* from = p.weight +
                        ((window_lane * Tile::kIn + pair.channel) * Tile::kKernel + pair.kernel_row) * Tile::kKernel +
                        2 * pair.column;
    float first = pair.used ? fetch(from) : 0.0f;
    float second = pair.used && pair.column < Tile::kLinePairs - 1 ? fetch(from + 1) : 0.0f;
#pragma unroll
    for (int part = 0; part < Tile::kParts; ++part) {
      const float low = take_part(first), high = take_part(second);
      shared.weight[lane * Tile::kWeightWords + slot * Tile::kParts + part] = packed(low, high);
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
  __syncthreads();  // the pixels and the weights are there
  uint32_t weight[Tile::kWeightWords];
#pragma unroll
  for (int i = 0; i < Tile::kWeightWords; i += 4) {
    const uint4 words = *reinterpret_cast<const uint4*>(shared.weight + lane * Tile::kWeightWords + i);
    weight[i] = words.x, weight[i + 1] = words.y, weight[i + 2] = words.z, weight[i + 3] = words.w;
  }

  // A warp goes down the rows of windows, in 8 of their columns.
  const int column = 8 * (warp % Tile::kRowGroups), windows_right = s.out_w - place.column - column;
  const int rows = s.out_h - place.row < Tile::kRows ? s.out_h - place.row : Tile::kRows;
  if (windows_right <= 0) return;  // past the edge there may be nothing for it to do
  const bool inside = window_lane < windows_right;
  const int64_t plane = int64_t{s.out_h} * s.out_w;
  float* to = y + (place.sample * Tile::kOut + channel) * plane + place.column + column + window_lane;
  const uint32_t* window = shared.pixels + (column + window_lane) * (Tile::kStep / 2);
  const uint32_t* place_of_slots[3] = {window + BytePair<Tile>(0, t).word(), window + BytePair<Tile>(5, t).word(),
                                       window + BytePair<Tile>(10, t).word()};
  // The half beside the fifth column counts for nothing, and is not the window's where it is that of its last column.
  const uint32_t first_slots = t % 2 == 0 ? 0xffffffffu : 0xffffu;
#pragma unroll 1
  for (int row = warp / Tile::kRowGroups; row < rows; row += Tile::kWarps / Tile::kRowGroups) {
    __syncwarp();  // a product is the whole warp's
    const int corner = row * Tile::kStep * Tile::kWordPitch;
    // [row of the window][column of the convolution]: slots 5 i + kernel row, and 10 + kernel row / 2, read row r + 2
    // kh
    uint32_t x[2][Tile::kSpan][2], last[3][2];
#pragma unroll
    for (int line = 0; line < Tile::kSpan; ++line) {
      const uint2 pair = *reinterpret_cast<const uint2*>(place_of_slots[0] + corner + line * Tile::kWordPitch);
      x[0][line][0] = pair.x, x[0][line][1] = pair.y & first_slots;
#pragma unroll
      for (int c = 0; c < 2; ++c) x[1][line][c] = place_of_slots[1][corner + line * Tile::kWordPitch + c];
    }
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const uint2 pair = *reinterpret_cast<const uint2*>(place_of_slots[2] + corner + 2 * i * Tile::kWordPitch);
      last[i][0] = pair.x, last[i][1] = pair.y & 0xffffu;
    }
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
          const int slot = 2 * product + i / 2, c = i % 2;
          a[i] = slot < 10 ? x[slot / 5][slot % 5 + r * Tile::kStride][c] : last[slot - 10 + r][c];
        }
        // The least parts first: they have most to lose.
#pragma unroll
        for (int part = Tile::kParts - 1; part >= 0; --part) {
          const uint32_t b[2] = {weight[2 * product * Tile::kParts + part],
                                 weight[(2 * product + 1) * Tile::kParts + part]};
          multiply_add(a, b, z[r]);
        }
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
    if (!inside) continue;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float out[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) out[k] = divide_by_root(z[k / 2][k % 2 * 2 + c], n[c][k]);
      to[c * plane + int64_t{place.row + row} * s.out_w] = window_maximum(out);
    }
  }
}

}  // namespace meon::cuda
