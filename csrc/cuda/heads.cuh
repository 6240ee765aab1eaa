// Both sub-networks of MEON for a batch of crops: fully connected layer, GDN, fully connected layer, softmax, and the
// mean of the class scores under it. One kernel; a block has kCrops crops, so that a weight that is read serves all of
// them. docs/cuda.md has the picture.
//
// Also compiled by g++ (tests/cuda_on_host): no torch, no inline PTX.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/layers.h"
#include "cuda/element.cuh"
#include "cuda/heads.h"
#include "cuda/launch.h"
#include "cuda/vector_load.cuh"

namespace meon::cuda {

// Every compile-time choice. A thread owns one hidden unit, those of the type head first, for kCrops crops.
template <int kCrops_>
struct HeadsTile {
  static constexpr int kType = kTypeHidden, kQuality = kQualityHidden, kHidden = kType + kQuality;
  static constexpr int kInputs = kFeatures;
  static constexpr int kThreads = kHidden;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kCrops = kCrops_;
  static constexpr int kDepth = 16;                  // columns of a matrix in shared memory at a time
  static constexpr int kPitch = kDepth + 4;          // keeps 16-byte loads aligned, spreads the banks
  static constexpr int kPieces = kThreads / kDepth;  // rows of a matrix that are fetched at once
  static_assert(kType % 32 == 0 && kQuality % 32 == 0, "a warp works for one head");
  static_assert(kThreads % kDepth == 0 && kHidden % kPieces == 0 && kHidden / kPieces == kDepth);
  static_assert(kInputs % kDepth == 0 && kType % kDepth == 0 && kQuality % kDepth == 0);
  static_assert(kCrops <= kWarps && (kCrops == 2 || kCrops % 4 == 0), "a warp for the softmax of each crop");
};

inline constexpr float kLowest = -std::numeric_limits<float>::infinity();

// A weight that is read serves all crops of a block: many where there are many. Few crops are spread over more
// multiprocessors, each of which has less to do.
inline constexpr int kManyCrops = 8, kFewCrops = 2;

template <class Tile>
struct HeadsStorage {
  alignas(16) float features[Tile::kInputs][Tile::kCrops];
  alignas(16) float hidden[Tile::kHidden][Tile::kCrops];
  union {
    alignas(16) float weights[Tile::kHidden * Tile::kPitch];
    float outputs[2][Tile::kCrops][kMaxClasses];  // logits, class scores
  };
};

// sums[k] += sum_d weight[unit, d] value(x[d, k]) for the thread's unit and every crop k; weight is `type` [kType,
// kTypeDepth] or `quality` [kQuality, kQualityDepth], x the inputs of the thread's head [depth][kCrops]. Begins with a
// barrier: x may have been written right before.   staged: [kHidden][kPitch]
template <class Tile, int kTypeDepth, int kQualityDepth, class F>
__device__ __forceinline__ void add_product(const float* type, const float* quality, const float* x, float* staged,
                                            float (&sums)[Tile::kCrops], F&& value) {
  static_assert(kTypeDepth <= kQualityDepth);
  const int depth = threadIdx.x < Tile::kType ? kTypeDepth : kQualityDepth;
  const int first_row = threadIdx.x / Tile::kDepth, column = threadIdx.x % Tile::kDepth;
  // The next columns are on their way while these are worked on: nothing else hides how far the memory is.
  float next[Tile::kDepth];
  const auto fetch_columns = [&](int first) {
#pragma unroll
    for (int m = 0; m < Tile::kDepth; ++m) {
      const int row = first_row + m * Tile::kPieces, d = first + column;
      if (row < Tile::kType) {
        next[m] = d < kTypeDepth ? type[row * kTypeDepth + d] : 0.0f;
      } else {
        next[m] = quality[(row - Tile::kType) * kQualityDepth + d];
      }
    }
  };
  fetch_columns(0);
#pragma unroll 1
  for (int first = 0; first < kQualityDepth; first += Tile::kDepth) {
    __syncthreads();  // x is complete (first time); nobody still reads the columns before (later)
#pragma unroll
    for (int m = 0; m < Tile::kDepth; ++m) staged[(first_row + m * Tile::kPieces) * Tile::kPitch + column] = next[m];
    __syncthreads();  // the columns are there
    if (first + Tile::kDepth < kQualityDepth) fetch_columns(first + Tile::kDepth);
    if (first >= depth) continue;
#pragma unroll
    for (int quad = 0; quad < Tile::kDepth; quad += 4) {
      float weight[4];
      load<4>(staged + threadIdx.x * Tile::kPitch + quad, weight);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float v[Tile::kCrops];
        load<Tile::kCrops>(x + (first + quad + j) * Tile::kCrops, v);
#pragma unroll
        for (int k = 0; k < Tile::kCrops; ++k) sums[k] += weight[j] * value(v[k]);
      }
    }
  }
}

template <class F>
__device__ __forceinline__ float over_warp(float v, F&& f) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) v = f(v, __shfl_xor_sync(0xffffffffu, v, mask));
  return v;
}

// features: [crops, kFeatures]; answers: [crops, 1 + classes], the quality and then the probabilities
// grid: (crops / kCrops)
template <int kCrops>
__global__ void __launch_bounds__(HeadsTile<kCrops>::kThreads, 1)
    heads_kernel(int64_t crops, int classes, const float* features, HeadParameters type, HeadParameters quality,
                 float* answers) {
  using Tile = HeadsTile<kCrops>;
  auto& s = block_shared<HeadsStorage<Tile>>();
  const int64_t first_crop = int64_t{blockIdx.x} * Tile::kCrops;
  const bool of_type = threadIdx.x < Tile::kType;
  // Pointers one by one: a reference to either of the two would put both into memory of the thread's own.
  const float* own_bias = of_type ? type.bias : quality.bias;
  const float* own_beta = of_type ? type.beta : quality.beta;
  const int unit = of_type ? threadIdx.x : threadIdx.x - Tile::kType;
  const auto add = [](float a, float b) { return a + b; };

  for (int e = threadIdx.x; e < Tile::kCrops * Tile::kInputs; e += Tile::kThreads) {
    const int k = e / Tile::kInputs, d = e % Tile::kInputs;
    s.features[d][k] = first_crop + k < crops ? features[(first_crop + k) * Tile::kInputs + d] : 0.0f;
  }
  float z[Tile::kCrops], n[Tile::kCrops];
#pragma unroll
  for (int k = 0; k < Tile::kCrops; ++k) z[k] = own_bias[unit], n[k] = own_beta[unit];
  add_product<Tile, Tile::kInputs, Tile::kInputs>(type.weight, quality.weight, &s.features[0][0], s.weights, z,
                                                  [](float v) { return v; });
#pragma unroll
  for (int k = 0; k < Tile::kCrops; ++k) s.hidden[threadIdx.x][k] = z[k];
  add_product<Tile, Tile::kType, Tile::kQuality>(type.gamma, quality.gamma, s.hidden[of_type ? 0 : Tile::kType],
                                                 s.weights, n, [](float v) { return square(v); });
  __syncthreads();  // nobody still reads z
#pragma unroll
  for (int k = 0; k < Tile::kCrops; ++k) s.hidden[threadIdx.x][k] = divide_by_root(z[k], n[k]);
  __syncthreads();  // the hidden units are there

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 1
  for (int output = warp; output < 2 * classes; output += Tile::kWarps) {
    const int head = output < classes ? 0 : 1, c = head == 0 ? output : output - classes;
    const int depth = head == 0 ? Tile::kType : Tile::kQuality;
    const float* hidden = s.hidden[head == 0 ? 0 : Tile::kType];
    const float* weight = (head == 0 ? type.out_weight : quality.out_weight) + c * depth;
    const float bias = (head == 0 ? type.out_bias : quality.out_bias)[c];
    float sums[Tile::kCrops] = {};
    for (int d = lane; d < depth; d += 32) {
      float v[Tile::kCrops];
      load<Tile::kCrops>(hidden + d * Tile::kCrops, v);
#pragma unroll
      for (int k = 0; k < Tile::kCrops; ++k) sums[k] += weight[d] * v[k];
    }
#pragma unroll
    for (int k = 0; k < Tile::kCrops; ++k) {
      const float sum = over_warp(sums[k], add);
      if (lane == k) s.outputs[head][k][c] = bias + sum;
    }
  }
  __syncthreads();  // logits and class scores are there
  if (warp >= Tile::kCrops || first_crop + warp >= crops) return;

  float* logits = s.outputs[0][warp];
  float top = kLowest;
  for (int c = lane; c < classes; c += 32) top = std::fmax(top, logits[c]);
  top = over_warp(top, [](float a, float b) { return std::fmax(a, b); });
  float total = 0;
  for (int c = lane; c < classes; c += 32) total += logits[c] = std::exp(logits[c] - top);
  total = over_warp(total, add);
  float* answer = answers + (first_crop + warp) * (1 + classes);
  float mean = 0;
  for (int c = lane; c < classes; c += 32) {
    const float p = logits[c] / total;
    answer[1 + c] = p;
    mean += p * s.outputs[1][warp][c];
  }
  mean = over_warp(mean, add);
  if (lane == 0) answer[0] = mean;
}

}  // namespace meon::cuda
