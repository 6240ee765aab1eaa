// What the fused kernels of MEON's stages are put together from: tiles, where their input comes from, the convolution,
// and GDN over a pool window. docs/cuda.md has the picture; csrc/core/params.h has the formulas.
//
// A thread owns whole pool windows: the 2 x 2 convolution outputs of a window stay in its registers from the first
// product to the maximum, for some of the output channels. What GDN needs of the other channels goes through shared
// memory. Sums run over input channel, kernel row, kernel column, in that order, whatever else is in the batch.
//
// Also compiled by g++ (tests/cuda_on_host): no torch, no inline PTX.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/layers.h"
#include "core/params.h"
#include "cuda/element.cuh"
#include "cuda/launch.h"
#include "cuda/vector_load.cuh"

namespace meon::cuda {

// ---- compile-time choices ----

// A stage of core/layers.h. A pool window reads kSpan x kSpan inputs, the next one starts kStep further on.
template <int kStage>
struct Layer {
  static constexpr StageSpec kSpec = kStages[kStage];
  static constexpr int kIn = kSpec.in_channels, kOut = kSpec.out_channels;
  static constexpr int kKernel = kSpec.kernel, kTaps = kKernel * kKernel;
  static constexpr int kStride = kSpec.stride, kPad = kSpec.pad;
  static constexpr int kStep = 2 * kStride, kSpan = kStride + kKernel;
  static_assert(kSpec.pool == 2, "a window is 2 x 2");
};

// A rectangle of pool windows in each of kSamples samples, and the rectangle of input that these read. In shared memory
// that is [channels][kSamples][kPlane], rows kPitch apart, so that it can be read four columns at a time.
template <int kStage, int kSamples_, int kRows_, int kColumns_>
struct WindowTile : Layer<kStage> {
  using Base = Layer<kStage>;
  static constexpr int kSamples = kSamples_, kRows = kRows_, kColumns = kColumns_;
  static constexpr int kWindows = kSamples * kRows * kColumns;
  static constexpr int kHeight = (kRows - 1) * Base::kStep + Base::kSpan;
  static constexpr int kWidth = (kColumns - 1) * Base::kStep + Base::kSpan;
  static constexpr int kQuads = (kWidth + 3) / 4, kPitch = 4 * kQuads;
  // Samples next to each other are read at once: 4 more than a multiple of 16 spreads them over the banks.
  static constexpr int kPlane = kHeight * kPitch + (kSamples > 1 ? 4 : 0);
  static_assert(kColumns == 1 || Base::kStep % 4 == 0, "every window starts at a multiple of 4");
  static_assert(kPitch >= (kColumns - 1) * Base::kStep + (Base::kSpan + 3) / 4 * 4, "whole quads of the last window");
};

struct StageChoice {
  int samples, rows, columns;  // of the block's tile of windows
  int thread_windows;          // windows of a thread
  int thread_channels;         // output channels of a thread
  int chunk;                   // input channels in shared memory at a time
  int blocks;                  // to keep room for on a multiprocessor, as a bound on registers
};
// Stage 1 is most of the work: 64 sums for each thread, for which a weight that is read serves eight products, and
// every channel of a position in one thread, so that GDN stays in registers. A crop has 16 windows in stage 3 and one
// in stage 4: there the channels are shared out, so that few crops still fill a GPU.
inline constexpr StageChoice kStageChoices[4] = {
    {1, 16, 16, 2, 8, 1, 3},
    {1, 8, 8, 1, 8, 4, 4},
    {1, 4, 4, 1, 4, 4, 4},
    {8, 1, 1, 1, 2, 8, 2},
};

template <int kStage, StageChoice kChoice = kStageChoices[kStage]>
struct StageTile : WindowTile<kStage, kChoice.samples, kChoice.rows, kChoice.columns> {
  using Base = WindowTile<kStage, kChoice.samples, kChoice.rows, kChoice.columns>;
  static constexpr int kThreadWindows = kChoice.thread_windows, kThreadChannels = kChoice.thread_channels;
  static constexpr int kChunk = kChoice.chunk, kBlocks = kChoice.blocks;
  static constexpr int kLanes = Base::kWindows / kThreadWindows;  // threads that share a group of channels
  static constexpr int kGroups = Base::kOut / kThreadChannels;    // groups of channels
  static constexpr int kThreads = kLanes * kGroups;
  // 4 more than a multiple of 4 keeps 16-byte loads aligned and spreads the banks.
  static constexpr int kWeightPitch = Base::kOut + 4, kGammaPitch = Base::kOut + 4;
  static_assert(Base::kWindows % kThreadWindows == 0 && Base::kOut % kThreadChannels == 0);
  static_assert(Base::kIn % kChunk == 0 && kThreads % 32 == 0 && kThreads % Base::kOut == 0 && kThreads <= 1024);
  static_assert(kThreadChannels == 2 || kThreadChannels % 4 == 0, "loads of 8 or 16 bytes");
};

// The positions of a tile at which GDN is computed, one window of each thread at a time: the Tile of
// parameter_sums.cuh. Column 4 w + k of the tile is element k of window w.
template <class Tile>
struct PixelTile {
  using Acc = float;
  static constexpr int kThreads = Tile::kThreads;
  static constexpr int kRows = Tile::kOut;
  static constexpr int kPixels = 4 * Tile::kLanes;
  static constexpr int kStride = kPixels + 4;
  static constexpr int kElements = kRows * kStride;
  static constexpr int kPatch = 4, kPatches = kRows / kPatch;
  static constexpr int kGroupThreads = kPatches * kPatches, kGroups = kThreads / kGroupThreads;
  static_assert(kRows % kPatch == 0 && kThreads % kGroupThreads == 0);
  static_assert(kGroups * kRows * kRows <= 2 * kElements, "the groups' sums fit where the two tiles were");
};

// ---- the shape, as the kernels need it ----

struct StageShape {
  int64_t batch = 0;
  int in_h = 0, in_w = 0;    // at most kLargestSide
  int out_h = 0, out_w = 0;  // pooled

  // Of the convolution outputs that fill a window.
  __host__ __device__ int64_t conv_h() const { return int64_t{2} * out_h; }
  __host__ __device__ int64_t conv_w() const { return int64_t{2} * out_w; }
};
inline constexpr int64_t kLargestSide = int64_t{1} << 30;  // so that no coordinate of a tile overflows an int

template <class Tile>
__host__ __device__ int64_t tile_rows(const StageShape& s) {
  return (int64_t{s.out_h} + Tile::kRows - 1) / Tile::kRows;
}
template <class Tile>
__host__ __device__ int64_t tile_columns(const StageShape& s) {
  return (int64_t{s.out_w} + Tile::kColumns - 1) / Tile::kColumns;
}
template <class Tile>
__host__ __device__ int64_t tile_count(const StageShape& s) {
  return (s.batch + Tile::kSamples - 1) / Tile::kSamples * tile_rows<Tile>(s) * tile_columns<Tile>(s);
}

// Where a tile begins.
struct Place {
  int64_t sample;
  int row, column;  // of windows
};

template <class Tile>
__device__ __forceinline__ Place place_of(const StageShape& s, int64_t index) {
  const int64_t rows = tile_rows<Tile>(s), columns = tile_columns<Tile>(s);
  return {index / columns / rows * Tile::kSamples, static_cast<int>(index / columns % rows) * Tile::kRows,
          static_cast<int>(index % columns) * Tile::kColumns};
}

// A window of the calling thread, counted from the place of its tile.
template <class Tile>
struct Window {
  int sample, row, column;
  __device__ __forceinline__ explicit Window(int index)
      : sample(index / (Tile::kRows * Tile::kColumns)),
        row(index / Tile::kColumns % Tile::kRows),
        column(index % Tile::kColumns) {}
  __device__ __forceinline__ bool inside(const StageShape& s, const Place& place) const {
    return place.sample + sample < s.batch && place.row + row < s.out_h && place.column + column < s.out_w;
  }
};

// ---- where the input comes from ----

// A source gives samples, a sample rows and groups of four columns, both looked at once for all channels. A row reads
// the four values of kCount channels: `channel`, channel + step, ... Outside of the sample, and in a sample outside of
// the batch, they are zero: that is the convolution's padding.

// Neighbours in memory, too.
struct AdjacentColumns {
  int first;
  bool inside[4];
  __device__ __forceinline__ AdjacentColumns(int first_column, int width) : first(first_column) {
#pragma unroll
    for (int k = 0; k < 4; ++k) inside[k] = first + k >= 0 && first + k < width;
  }
};

template <class T>
struct PlanarSource {
  const T* x;  // [N, C, H, W]
  int64_t batch;
  int channels, height, width;

  struct alignas(2 * sizeof(T)) Pair {
    T low, high;
  };
  struct Row {
    const T* values;  // of channel 0
    int64_t plane;
    bool inside, pairs;
    template <int kCount>
    __device__ __forceinline__ void read(int channel, int step, const AdjacentColumns& columns,
                                         float (&to)[kCount][4]) const {
      const int64_t at = channel * plane + columns.first;
      if (pairs) {  // of every thread alike; the first column is even
#pragma unroll
        for (int c = 0; c < kCount; ++c) {
#pragma unroll
          for (int k = 0; k < 4; k += 2) {
            Pair pair{};
            if (inside && columns.inside[k])
              pair = fetch(reinterpret_cast<const Pair*>(values + at + c * step * plane + k));
            to[c][k] = widen(pair.low), to[c][k + 1] = widen(pair.high);
          }
        }
      } else {
#pragma unroll
        for (int c = 0; c < kCount; ++c) {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            to[c][k] = inside && columns.inside[k] ? widen(fetch(values + at + c * step * plane + k)) : 0.0f;
          }
        }
      }
    }
  };
  struct Sample {
    const T* x;  // [C, H, W], null outside
    int height, width;
    bool pairs;
    __device__ __forceinline__ AdjacentColumns columns_at(int first) const { return {first, width}; }
    __device__ __forceinline__ Row row(int y) const {
      const bool inside = x != nullptr && y >= 0 && y < height;
      return {inside ? x + int64_t{y} * width : x, int64_t{height} * width, inside, pairs};
    }
  };
  __device__ __forceinline__ Sample sample(int64_t n) const {
    // Where every even column lies at a multiple of two elements, two are read at once.
    const bool pairs = width % 2 == 0 && reinterpret_cast<uintptr_t>(x) % sizeof(Pair) == 0;
    return {n < batch ? x + n * channels * height * width : nullptr, height, width, pairs};
  }
};

// Windows of one image. The boxes are on the device and nobody may have looked at them: one that does not lie in the
// image, or is not of the right size, gives NaN, and nothing is read.
template <int kChannels>
struct CropSource {
  const uint8_t* image;  // [H, W, kChannels]
  int64_t image_h, image_w;
  const int64_t* boxes;  // [K, 4] as (x0, y0, x1, y1)
  int64_t batch;
  int height, width;  // of a box

  static constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

  struct Row {
    const uint8_t* values;  // of channel 0
    bool inside, bad;
    template <int kCount>
    __device__ __forceinline__ void read(int channel, int step, const AdjacentColumns& columns,
                                         float (&to)[kCount][4]) const {
#pragma unroll
      for (int c = 0; c < kCount; ++c) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          to[c][k] = bad && columns.inside[k] ? kNan : 0.0f;
          if (inside && columns.inside[k]) {
            to[c][k] = widen(fetch(values + (int64_t{columns.first} + k) * kChannels + channel + c * step));
          }
        }
      }
    }
  };
  struct Sample {
    const uint8_t* top_left;  // null in a bad box
    int64_t image_w;
    int height, width;  // 0 outside
    __device__ __forceinline__ AdjacentColumns columns_at(int first) const { return {first, width}; }
    __device__ __forceinline__ Row row(int y) const {
      const bool inside = y >= 0 && y < height, good = top_left != nullptr;
      return {good && inside ? top_left + y * image_w * kChannels : top_left, good && inside, !good && inside};
    }
  };
  __device__ __forceinline__ Sample sample(int64_t n) const {
    if (n >= batch) return {nullptr, image_w, 0, 0};
    const int64_t x0 = boxes[4 * n], y0 = boxes[4 * n + 1], x1 = boxes[4 * n + 2], y1 = boxes[4 * n + 3];
    const bool good = x0 >= 0 && y0 >= 0 && x1 <= image_w && y1 <= image_h && x0 <= x1 && y0 <= y1 &&
                      x1 - x0 == width && y1 - y0 == height;
    return {good ? image + (y0 * image_w + x0) * kChannels : nullptr, image_w, height, width};
  }
};

// ---- into shared memory ----

// Of n, at most `most`; 1 at least.
__host__ __device__ constexpr int largest_divisor(int n, int most) {
  int divisor = most < n ? most : n;
  while (divisor > 1 && n % divisor != 0) --divisor;
  return divisor < 1 ? 1 : divisor;
}

// The input that a tile's windows read, of kChannels channels from `first`: keep(plane, row, quad, values) is given
// four neighbours at a time, from column 4 quad on; planes are numbered channel by channel, and in a channel by sample.
// A thread keeps to four columns and goes down the rows, each with its channels, so that little is computed for each
// value. Where there are threads for several times all rows, they share the channels.
template <class Tile, int kThreads, int kChannels, class Source, class F>
__device__ __forceinline__ void read_input(const Source& source, const Place& place, int first, F&& keep) {
  constexpr int kSlots = kThreads / Tile::kQuads, kRows = Tile::kSamples * Tile::kHeight;
  constexpr int kShares = largest_divisor(kChannels, kSlots / kRows);
  constexpr int kRowStep = kShares == 1 ? kSlots : kRows, kSteps = (kRows + kRowStep - 1) / kRowStep;
  constexpr int kOfThread = kChannels / kShares;
  constexpr int kAtOnce = kOfThread % 3 == 0 ? 3 : kOfThread % 2 == 0 ? 2 : 1;  // of a row, on their way from memory
  [[maybe_unused]] constexpr int kStepUnroll = kAtOnce == 1 ? 4 : 2;
  const int quad = threadIdx.x % Tile::kQuads, slot = threadIdx.x / Tile::kQuads;
  const int share = kShares == 1 ? 0 : slot / kRows, start = kShares == 1 ? slot : slot % kRows;
  if (kShares == 1 ? slot >= kSlots : share >= kShares) return;
  const int x = place.column * Tile::kStep - Tile::kPad + 4 * quad, y = place.row * Tile::kStep - Tile::kPad;
  const auto first_sample = source.sample(place.sample);
  const auto first_columns = first_sample.columns_at(x);
#pragma unroll kStepUnroll
  for (int step = 0; step < kSteps; ++step) {
    const int i = start + step * kRowStep;
    const int n = Tile::kSamples == 1 ? 0 : i / Tile::kHeight, row = i - n * Tile::kHeight;
    if (step == kSteps - 1 && i >= kRows) break;
    const auto sample = Tile::kSamples == 1 ? first_sample : source.sample(place.sample + n);
    const auto columns = Tile::kSamples == 1 ? first_columns : sample.columns_at(x);
    const auto line = sample.row(y + row);
#pragma unroll
    for (int c = 0; c < kOfThread; c += kAtOnce) {
      float values[kAtOnce][4];
      line.read(first + share + c * kShares, kShares, columns, values);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) keep((share + (c + j) * kShares) * Tile::kSamples + n, row, quad, values[j]);
    }
  }
}

// to: [kChannels][kSamples][kPlane]
template <class Tile, int kThreads, int kChannels, class Source>
__device__ __forceinline__ void load_input(const Source& source, const Place& place, int first, float* to) {
  const auto keep = [to](int plane, int row, int quad, const float (&values)[4]) {
    store4(values, to + plane * Tile::kPlane + row * Tile::kPitch + 4 * quad);
  };
  read_input<Tile, kThreads, kChannels>(source, place, first, keep);
}

// weight: [kOut, kIn, kTaps]; to: [kChunk][kTaps][kWeightPitch], output channels next to each other. A thread keeps to
// one of them, so that it computes two addresses and no more.
template <class Tile, class T>
__device__ __forceinline__ void load_weights(const T* weight, int first, float* to) {
  constexpr int kRun = Tile::kChunk * Tile::kTaps, kStep = Tile::kThreads / Tile::kOut;
  const int out = threadIdx.x / kStep, start = threadIdx.x % kStep;
  const T* from = weight + (out * Tile::kIn + first) * Tile::kTaps + start;
  to += start * Tile::kWeightPitch + out;
#pragma unroll
  for (int tap = 0; tap < kRun; tap += kStep) {
    if (tap + kStep <= kRun || start < kRun - tap) to[tap * Tile::kWeightPitch] = widen(fetch(from + tap));
  }
}

// gamma: [kOut, kOut]; to: [kOut][kGammaPitch]
template <class Tile, class T>
__device__ __forceinline__ void load_gamma(const T* gamma, float* to) {
  constexpr int kStep = Tile::kThreads / Tile::kOut;
  const int row = threadIdx.x / Tile::kOut, column = threadIdx.x % Tile::kOut;
#pragma unroll
  for (int i = 0; i < Tile::kOut; i += kStep) {
    if (i + kStep <= Tile::kOut || row < Tile::kOut - i) {
      to[(row + i) * Tile::kGammaPitch + column] = widen(fetch(gamma + (row + i) * Tile::kOut + column));
    }
  }
}

// ---- convolution ----

template <class T>
struct StageParameters {
  const T* weight;  // [kOut, kIn, K, K]
  const T* bias;    // [kOut]
  const T* beta;    // [kOut]
  const T* gamma;   // [kOut, kOut]
};

template <class Tile>
struct ConvBuffers {
  alignas(16) float x[Tile::kChunk * Tile::kSamples * Tile::kPlane];
  alignas(16) float weight[Tile::kChunk * Tile::kTaps * Tile::kWeightPitch];
};

// What the calling thread owns: windows `lane`, lane + kLanes, ... of the tile, and channels from `channel`. Where a
// warp has several groups of channels, two of them alternate: neighbours then read the same input, and those after the
// next the same weights, which shared memory hands out in half as many turns.
template <class Tile>
struct Share {
  static constexpr int kTogether = Tile::kLanes < 32 ? 2 : 1;
  static_assert(Tile::kGroups % kTogether == 0);
  int lane, channel;
  __device__ __forceinline__ Share()
      : lane(threadIdx.x / kTogether % Tile::kLanes),
        channel((threadIdx.x / (kTogether * Tile::kLanes) * kTogether + threadIdx.x % kTogether) *
                Tile::kThreadChannels) {}
  __device__ __forceinline__ Window<Tile> window(int v) const { return Window<Tile>(lane + v * Tile::kLanes); }
};

// One number for each channel of a thread at each position of one of its windows, these in row-major order.
template <class Tile>
struct WindowValues {
  float v[Tile::kThreadChannels][4];
};

// z = bias + convolution, for the thread's windows. Begins with a barrier: the buffers may be in use.
template <class Tile, class T, class Source>
__device__ __forceinline__ void convolve(const Source& source, const Place& place, const StageParameters<T>& p,
                                         ConvBuffers<Tile>& buffers, WindowValues<Tile> (&z)[Tile::kThreadWindows]) {
  constexpr int kRun = (Tile::kSpan + 3) / 4 * 4;
  const Share<Tile> share;
  int corner[Tile::kThreadWindows];
#pragma unroll
  for (int v = 0; v < Tile::kThreadWindows; ++v) {
    const Window<Tile> window = share.window(v);
    corner[v] = window.sample * Tile::kPlane + window.row * Tile::kStep * Tile::kPitch + window.column * Tile::kStep;
#pragma unroll
    for (int c = 0; c < Tile::kThreadChannels; ++c) {
#pragma unroll
      for (int k = 0; k < 4; ++k) z[v].v[c][k] = widen(p.bias[share.channel + c]);
    }
  }
#pragma unroll 1
  for (int first = 0; first < Tile::kIn; first += Tile::kChunk) {
    __syncthreads();  // nobody still reads the buffers
    load_weights<Tile>(p.weight, first, buffers.weight);
    load_input<Tile, Tile::kThreads, Tile::kChunk>(source, place, first, buffers.x);
    __syncthreads();  // the chunk is there
#pragma unroll 1
    for (int ci = 0; ci < Tile::kChunk; ++ci) {
      const float* x = buffers.x + ci * Tile::kSamples * Tile::kPlane;
      const float* weight = buffers.weight + ci * Tile::kTaps * Tile::kWeightPitch + share.channel;
      // Rolled, so that code and registers stay few: unrolled, the compiler keeps every row that it has read.
#pragma unroll 1
      for (int kh = 0; kh < Tile::kKernel; ++kh) {
        float in[Tile::kThreadWindows][2][kRun];
#pragma unroll
        for (int v = 0; v < Tile::kThreadWindows; ++v) {
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            load<kRun>(x + corner[v] + (kh + r * Tile::kStride) * Tile::kPitch, in[v][r]);
          }
        }
#pragma unroll
        for (int kw = 0; kw < Tile::kKernel; ++kw) {
          float w[Tile::kThreadChannels];
          load<Tile::kThreadChannels>(weight + (kh * Tile::kKernel + kw) * Tile::kWeightPitch, w);
#pragma unroll
          for (int v = 0; v < Tile::kThreadWindows; ++v) {
#pragma unroll
            for (int c = 0; c < Tile::kThreadChannels; ++c) {
#pragma unroll
              for (int k = 0; k < 4; ++k) z[v].v[c][k] += w[c] * in[v][k / 2][kw + k % 2 * Tile::kStride];
            }
          }
        }
      }
    }
  }
}

// ---- GDN over a window ----

// tile[channel + c][4 lane + k] = values; tile: [kOut][PixelTile::kStride]
template <class Tile>
__device__ __forceinline__ void share_values(const WindowValues<Tile>& values, float* tile) {
  const Share<Tile> share;
#pragma unroll
  for (int c = 0; c < Tile::kThreadChannels; ++c) {
    store4(values.v[c], tile + (share.channel + c) * PixelTile<Tile>::kStride + 4 * share.lane);
  }
}

// n_i = beta_i + sum_j gamma[i, j] z_j^2 for the thread's channels i at the positions of one window. The z of all
// channels are read from z_tile (share_values), unless a thread has them all.   beta: [kOut]; gamma: of load_gamma
template <class Tile, class T>
__device__ __forceinline__ void window_norms(const WindowValues<Tile>& z, const float* z_tile, const T* beta,
                                             const float* gamma, WindowValues<Tile>& n) {
  // Unrolled where z comes from registers, which cannot be indexed.
  [[maybe_unused]] constexpr int kUnroll = Tile::kGroups == 1 ? Tile::kOut / 4 : 1;
  const Share<Tile> share;
#pragma unroll
  for (int c = 0; c < Tile::kThreadChannels; ++c) {
#pragma unroll
    for (int k = 0; k < 4; ++k) n.v[c][k] = widen(beta[share.channel + c]);
  }
#pragma unroll kUnroll
  for (int depth = 0; depth < Tile::kOut; depth += 4) {
    float squares[4][4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if constexpr (Tile::kGroups > 1) {
        load<4>(z_tile + (depth + j) * PixelTile<Tile>::kStride + 4 * share.lane, squares[j]);
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) squares[j][k] = square(Tile::kGroups > 1 ? squares[j][k] : z.v[depth + j][k]);
    }
#pragma unroll
    for (int c = 0; c < Tile::kThreadChannels; ++c) {
      float g[4];
      load<4>(gamma + (share.channel + c) * Tile::kGammaPitch + depth, g);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) n.v[c][k] += g[j] * squares[j][k];
      }
    }
  }
}

// The place of a window's maximum: the first of several, but NaN wins over everything, as in PyTorch's max_pool2d.
__device__ __forceinline__ int first_maximum(const float (&y)[4]) {
  int at = 0;
  float best = y[0];
#pragma unroll
  for (int k = 1; k < 4; ++k) {
    if (y[k] > best || std::isnan(y[k])) {
      best = y[k];
      at = k;
    }
  }
  return at;
}

__device__ __forceinline__ float window_maximum(const float (&y)[4]) {
  float best = y[0];
#pragma unroll
  for (int k = 1; k < 4; ++k) best = y[k] > best || std::isnan(y[k]) ? y[k] : best;
  return best;
}

}  // namespace meon::cuda
