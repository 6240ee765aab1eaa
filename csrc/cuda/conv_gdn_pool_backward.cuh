// The backward of the fused stages, in three kernels and two reductions.
//   stage_gdn_gradient_kernel: convolution and GDN again, the gradient to the maximum of each window and through GDN.
//     Gives dz, the gradient of the convolution's output, and partial sums for beta and gamma.
//   stage_weight_gradient_kernel: dz times input, summed over positions. Gives partial sums for weight and bias.
//   stage_input_gradient_kernel: dz times weight, where the gradient of the input is needed.
// dz [N, kOut, 2 Hp, 2 Wp] is in float, in the workspace. Rows and columns that fill no window have no gradient.
#pragma once

#include "cuda/parameter_sums.cuh"
#include "cuda/stage.cuh"

namespace meon::cuda {

// ---- through pool and GDN ----

// The registers that the sums for gamma take are not there for as many blocks as in the forward.
inline constexpr int kGdnGradientBlocks[4] = {2, 2, 3, 2};

template <class Tile>
struct GdnGradientStorage {
  alignas(16) float gamma[Tile::kOut * Tile::kGammaPitch];
  union {
    ConvBuffers<Tile> conv;
    alignas(16) float tiles[2 * PixelTile<Tile>::kElements];  // z and t, later the sums of the block's groups
  };
};

// What a window's gradient g becomes: direct = g n^-1/2, which takes the place of n, and t = dL/dn. Both are zero
// except at the maximum, and in a window that is not there, where 0 times infinity would be NaN.
template <class Tile, class T>
__device__ __forceinline__ void route(const T* grad_y, int64_t plane, bool inside, const WindowValues<Tile>& z,
                                      WindowValues<Tile>& n_to_direct, WindowValues<Tile>& t) {
#pragma unroll
  for (int c = 0; c < Tile::kThreadChannels; ++c) {
    float y[4], inverse[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      inverse[k] = inverse_root(n_to_direct.v[c][k]);
      y[k] = z.v[c][k] * inverse[k];  // as divide_by_root has it, so that ties fall as they fell in the forward
    }
    const int at = first_maximum(y);
    float top = z.v[c][0], root = inverse[0];  // of the maximum
#pragma unroll
    for (int k = 1; k < 4; ++k) top = at == k ? z.v[c][k] : top, root = at == k ? inverse[k] : root;
    const float g = inside ? widen(fetch(grad_y + c * plane)) : 0.0f;
    const float direct = g * root, gradient = norm_gradient(g, top, root);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const bool here = k == at && inside;
      n_to_direct.v[c][k] = here ? direct : 0.0f;
      t.v[c][k] = here ? gradient : 0.0f;
    }
  }
}

// sum_i t_i gamma[i, j] for the thread's channels j at the positions of one window.   t_tile: of share_values
template <class Tile>
__device__ __forceinline__ void through_norms(const float* t_tile, const float* gamma, WindowValues<Tile>& sum) {
  const Share<Tile> share;
#pragma unroll
  for (int c = 0; c < Tile::kThreadChannels; ++c) {
#pragma unroll
    for (int k = 0; k < 4; ++k) sum.v[c][k] = 0;
  }
#pragma unroll 2
  for (int i = 0; i < Tile::kOut; ++i) {
    float t[4], g[Tile::kThreadChannels];
    load<4>(t_tile + i * PixelTile<Tile>::kStride + 4 * share.lane, t);
    load<Tile::kThreadChannels>(gamma + i * Tile::kGammaPitch + share.channel, g);
#pragma unroll
    for (int c = 0; c < Tile::kThreadChannels; ++c) {
#pragma unroll
      for (int k = 0; k < 4; ++k) sum.v[c][k] += g[c] * t[k];
    }
  }
}

// Block b works on tiles b, b + splits, ...
// grad_y: [N, kOut, Hp, Wp]; dz: [N, kOut, 2 Hp, 2 Wp]; partials: [splits, kOut * kOut + kOut]   grid: (splits)
template <class T, int kStage, class Source>
__global__ void __launch_bounds__(StageTile<kStage>::kThreads, kGdnGradientBlocks[kStage])
    stage_gdn_gradient_kernel(StageShape s, Source source, StageParameters<T> p, const T* grad_y, int64_t tiles,
                              float* dz, float* partials) {
  using Tile = StageTile<kStage>;
  using Pixels = PixelTile<Tile>;
  auto& shared = block_shared<GdnGradientStorage<Tile>>();
  float* z_tile = shared.tiles;
  float* t_tile = shared.tiles + Pixels::kElements;
  const Share<Tile> share;
  ParameterSums<Pixels> sums;
  sums.clear();
  load_gamma<Tile>(p.gamma, shared.gamma);

  for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const Place place = place_of<Tile>(s, index);
    WindowValues<Tile> z[Tile::kThreadWindows];
    convolve<Tile>(source, place, p, shared.conv, z);
#pragma unroll
    for (int v = 0; v < Tile::kThreadWindows; ++v) {
      const Window<Tile> window = share.window(v);
      const bool inside = window.inside(s, place);
      if (!inside) {  // there may be a NaN or an infinity, which zero times t does not take away
#pragma unroll
        for (int c = 0; c < Tile::kThreadChannels; ++c) {
#pragma unroll
          for (int k = 0; k < 4; ++k) z[v].v[c][k] = 0;
        }
      }
      __syncthreads();  // nobody still reads the buffers of the convolution, or the tiles of the window before
      share_values<Tile>(z[v], z_tile);
      if constexpr (Tile::kGroups > 1) __syncthreads();  // every channel is there
      WindowValues<Tile> direct, t, indirect;
      window_norms<Tile>(z[v], z_tile, p.beta, shared.gamma, direct);
      const int64_t plane = ((place.sample + window.sample) * Tile::kOut + share.channel);
      const int row = place.row + window.row, column = place.column + window.column;
      route<Tile>(grad_y + (plane * s.out_h + row) * s.out_w + column, int64_t{s.out_h} * s.out_w, inside, z[v], direct,
                  t);
      share_values<Tile>(t, t_tile);
      __syncthreads();  // t of every channel is there, and z of every window
      through_norms<Tile>(t_tile, shared.gamma, indirect);
      if (inside) {
        const int64_t conv_plane = s.conv_h() * s.conv_w(), conv_row = s.conv_w();
        float* to = dz + plane * conv_plane + 2 * row * conv_row + 2 * column;
#pragma unroll
        for (int c = 0; c < Tile::kThreadChannels; ++c) {
          float all[4];
#pragma unroll
          for (int k = 0; k < 4; ++k) all[k] = direct.v[c][k] + 2 * z[v].v[c][k] * indirect.v[c][k];
#pragma unroll
          for (int r = 0; r < 2; ++r) {  // both columns at once: dz has an even number of them
            *reinterpret_cast<float2*>(to + c * conv_plane + r * conv_row) = float2{all[2 * r], all[2 * r + 1]};
          }
        }
      }
      add_parameter_sums<Pixels>(t_tile, z_tile, sums);
    }
  }
  store_parameter_sums<Pixels>(sums, Tile::kOut, 0, 0, z_tile, partials + blockIdx.x * gdn_partial_size(Tile::kOut));
}

// ---- weight and bias ----

struct WeightGradientChoice {
  int samples, rows, columns;  // of the block's tile of windows
  int groups;                  // of threads, of which each has a share of the positions
};
inline constexpr WeightGradientChoice kWeightGradientChoices[4] = {
    {1, 8, 8, 8}, {1, 4, 8, 4}, {1, 4, 4, 2}, {8, 1, 1, 2}};

// A block sums for kBlockChannels output channels, a thread for those and one row of kKernel weights: of an input
// channel and a kernel row, or, in the last row, the bias, which is the weight of an input that is 1 everywhere.
template <int kStage, WeightGradientChoice kChoice = kWeightGradientChoices[kStage]>
struct WeightGradientTile : WindowTile<kStage, kChoice.samples, kChoice.rows, kChoice.columns> {
  using Base = WindowTile<kStage, kChoice.samples, kChoice.rows, kChoice.columns>;
  static constexpr int kBlockChannels = 8, kChannelBlocks = Base::kOut / kBlockChannels;
  static constexpr int kWeightRows = Base::kIn * Base::kKernel, kAllRows = kWeightRows + 1;
  static constexpr int kGroups = kChoice.groups;
  static constexpr int kThreads = (kAllRows * kGroups + 31) / 32 * 32;
  static constexpr int kLines = Base::kSamples * 2 * Base::kRows, kLineLength = 2 * Base::kColumns;  // of positions
  static constexpr int kPositionPitch = kBlockChannels + 4;  // spreads the banks that are written to
  static constexpr int kRowSums = kBlockChannels * Base::kKernel;
  // Neighbouring threads read neighbouring kernel rows: in the next channel other banks are next.
  static constexpr int kApart = (Base::kKernel * Base::kPitch - Base::kPlane) % 32;
  static constexpr int kPlane = Base::kPlane + (Base::kSamples == 1 ? (kApart + 32) % 32 : 0);
  static_assert(Base::kOut % kBlockChannels == 0 && kLines % kGroups == 0 && kBlockChannels % 4 == 0);
  static_assert(kPlane % 4 == 0, "loads of 16 bytes");
};

template <class Tile>
struct WeightGradientStorage {
  union {
    struct {
      alignas(16) float x[Tile::kIn * Tile::kSamples * Tile::kPlane];
      alignas(16) float ones[Tile::kPitch];
      alignas(16) float dz[Tile::kLines * Tile::kLineLength * Tile::kPositionPitch];
    } tile;
    alignas(16) float sums[Tile::kGroups * Tile::kAllRows * Tile::kRowSums];
  };
};

// dz of the tile's positions, of kBlockChannels channels from `first`; zero where there is none. A thread reads two
// columns, which dz has an even number of, of four channels, which are neighbours in shared memory.
// dz: [N, kOut, 2 Hp, 2 Wp]; to: [kLines][kLineLength][kPositionPitch]
template <class Tile>
__device__ __forceinline__ void load_positions(const StageShape& s, const Place& place, int first, const float* dz,
                                               float* to) {
  constexpr int kSampleLines = 2 * Tile::kRows, kPairs = Tile::kLines * Tile::kColumns;
  const int64_t plane = s.conv_h() * s.conv_w();
  for (int e = threadIdx.x; e < kPairs * (Tile::kBlockChannels / 4); e += Tile::kThreads) {
    const int channel = e / kPairs * 4, line = e % kPairs / Tile::kColumns, window = e % Tile::kColumns;
    const int64_t n = place.sample + line / kSampleLines;
    const int64_t row = 2 * int64_t{place.row} + line % kSampleLines, at = 2 * int64_t{place.column + window};
    const bool inside = n < s.batch && row < s.conv_h() && at < s.conv_w();
    // What is not inside is read where something is, and left: that costs less than not to read it.
    const float* from =
        dz + (inside ? (n * Tile::kOut * s.conv_h() + row) * s.conv_w() + at : 0) + (first + channel) * plane;
    float values[2][4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const float2 pair = fetch(reinterpret_cast<const float2*>(from + c * plane));
      values[0][c] = inside ? pair.x : 0.0f, values[1][c] = inside ? pair.y : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      store4(values[k], to + (line * Tile::kLineLength + 2 * window + k) * Tile::kPositionPitch + channel);
    }
  }
}

// Block b works on tiles b, b + splits, ...
// dz: [N, kOut, 2 Hp, 2 Wp]; partials: [splits, weights + kOut]   grid: (splits, kChannelBlocks)
template <int kStage, class Source>
__global__ void __launch_bounds__(WeightGradientTile<kStage>::kThreads, 3)
    stage_weight_gradient_kernel(StageShape s, Source source, const float* dz, int64_t tiles, float* partials) {
  using Tile = WeightGradientTile<kStage>;
  constexpr int kRun = (Tile::kSpan + 3) / 4 * 4;
  auto& shared = block_shared<WeightGradientStorage<Tile>>();
  const int first_channel = blockIdx.y * Tile::kBlockChannels;
  const int group = threadIdx.x / Tile::kAllRows, row = threadIdx.x % Tile::kAllRows;
  const int ci = row / Tile::kKernel, kh = row % Tile::kKernel;
  float sums[Tile::kBlockChannels][Tile::kKernel];
#pragma unroll
  for (int c = 0; c < Tile::kBlockChannels; ++c) {
#pragma unroll
    for (int kw = 0; kw < Tile::kKernel; ++kw) sums[c][kw] = 0;
  }
  for (int e = threadIdx.x; e < Tile::kPitch; e += Tile::kThreads) shared.tile.ones[e] = 1;

  for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const Place place = place_of<Tile>(s, index);
    __syncthreads();  // nobody still reads the tile before
    load_input<Tile, Tile::kThreads, Tile::kIn>(source, place, 0, shared.tile.x);
    load_positions<Tile>(s, place, first_channel, dz, shared.tile.dz);
    __syncthreads();  // the tile is there
    if (group >= Tile::kGroups) continue;
    for (int line = group; line < Tile::kLines; line += Tile::kGroups) {
      const int sample = line / (2 * Tile::kRows), in_row = line % (2 * Tile::kRows) * Tile::kStride + kh;
      const float* x = row == Tile::kWeightRows
                           ? shared.tile.ones
                           : shared.tile.x + (ci * Tile::kSamples + sample) * Tile::kPlane + in_row * Tile::kPitch;
      const float* d = shared.tile.dz + line * Tile::kLineLength * Tile::kPositionPitch;
#pragma unroll 1
      for (int window = 0; window < Tile::kColumns; ++window) {
        float in[kRun];
        load<kRun>(x + window * Tile::kStep, in);
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          float g[Tile::kBlockChannels];
          load<Tile::kBlockChannels>(d + (2 * window + k) * Tile::kPositionPitch, g);
#pragma unroll
          for (int c = 0; c < Tile::kBlockChannels; ++c) {
#pragma unroll
            for (int kw = 0; kw < Tile::kKernel; ++kw) sums[c][kw] += g[c] * in[kw + k * Tile::kStride];
          }
        }
      }
    }
  }

  __syncthreads();  // nobody still reads the tile
  if (group < Tile::kGroups) {
#pragma unroll
    for (int c = 0; c < Tile::kBlockChannels; ++c) {
#pragma unroll
      for (int kw = 0; kw < Tile::kKernel; ++kw) {
        shared.sums[(group * Tile::kRowSums + c * Tile::kKernel + kw) * Tile::kAllRows + row] = sums[c][kw];
      }
    }
  }
  __syncthreads();  // every group's sums are there
  constexpr int kChannelWeights = Tile::kWeightRows * Tile::kKernel, kWeights = Tile::kOut * kChannelWeights;
  float* partial = partials + int64_t{blockIdx.x} * (kWeights + Tile::kOut);
  for (int e = threadIdx.x; e < Tile::kRowSums * Tile::kAllRows; e += Tile::kThreads) {
    float sum = 0;
    for (int g = 0; g < Tile::kGroups; ++g) sum += shared.sums[g * Tile::kRowSums * Tile::kAllRows + e];
    const int of_row = e % Tile::kAllRows, c = e / Tile::kAllRows / Tile::kKernel,
              kw = e / Tile::kAllRows % Tile::kKernel;
    const int channel = first_channel + c;
    if (of_row < Tile::kWeightRows) {
      partial[channel * kChannelWeights + of_row * Tile::kKernel + kw] = sum;
    } else if (kw == 0) {
      partial[kWeights + channel] = sum;
    }
  }
}

// ---- input ----

struct InputGradientChoice {
  int samples, rows, columns;  // of the block's tile of cells
  int thread_cells;            // cells of a thread
  int thread_channels;         // input channels of a thread
  int chunk;                   // output channels in shared memory at a time
};
inline constexpr InputGradientChoice kInputGradientChoices[4] = {
    {1, 16, 16, 2, 4, 8},
    {1, 16, 16, 2, 8, 8},
    {1, 8, 8, 1, 8, 8},
    {2, 4, 4, 1, 8, 8},
};

// A cell is kStride x kStride inputs: those that read the same convolution outputs, from kLow to kHigh beside the
// cell's own row and column.
template <int kStage, InputGradientChoice kChoice = kInputGradientChoices[kStage]>
struct InputGradientTile : Layer<kStage> {
  using Base = Layer<kStage>;
  static constexpr int kSamples = kChoice.samples, kRows = kChoice.rows, kColumns = kChoice.columns;
  static constexpr int kThreadCells = kChoice.thread_cells, kThreadChannels = kChoice.thread_channels;
  static constexpr int kChunk = kChoice.chunk;
  static constexpr int kCell = Base::kStride * Base::kStride;  // inputs
  static constexpr int kLanes = kSamples * kRows * kColumns / kThreadCells;
  static constexpr int kGroups = (Base::kIn + kThreadChannels - 1) / kThreadChannels;
  static constexpr int kThreads = kLanes * kGroups;
  static constexpr int kLow = (Base::kPad - Base::kKernel + 1) / Base::kStride;
  static constexpr int kHigh = (Base::kPad + Base::kStride - 1) / Base::kStride;
  static constexpr int kReach = kHigh - kLow + 1;
  static constexpr int kHeight = kRows + kReach - 1, kPitch = kColumns + kReach - 1, kPlane = kHeight * kPitch;
  static constexpr int kPaddedIn = kGroups * kThreadChannels, kWeightPitch = kPaddedIn + 4;
  static_assert((Base::kPad - Base::kKernel + 1) % Base::kStride == 0, "kLow is not rounded");
  static_assert(Base::kOut % kChunk == 0 && kThreads % 32 == 0 && kSamples * kRows * kColumns % kThreadCells == 0);
  static_assert(kThreads % kPaddedIn == 0);
};

template <class Tile>
struct InputGradientStorage {
  alignas(16) float weight[Tile::kChunk * Tile::kTaps * Tile::kWeightPitch];
  alignas(16) float dz[Tile::kChunk * Tile::kSamples * Tile::kPlane];
};

// How many tiles of cells cover the inputs.
template <class Tile>
__host__ __device__ int64_t cell_tiles(int side, int cells) {
  return (int64_t{side} + cells * Tile::kStride - 1) / (cells * Tile::kStride);
}
template <class Tile>
__host__ __device__ int64_t input_tile_count(const StageShape& s) {
  return (s.batch + Tile::kSamples - 1) / Tile::kSamples * cell_tiles<Tile>(s.in_h, Tile::kRows) *
         cell_tiles<Tile>(s.in_w, Tile::kColumns);
}

// weight: [kOut, kIn, K, K]; dz: [N, kOut, 2 Hp, 2 Wp]; grad_x: [N, kIn, H, W]   grid: (input_tile_count)
template <class T, int kStage>
__global__ void __launch_bounds__(InputGradientTile<kStage>::kThreads, 3)
    stage_input_gradient_kernel(StageShape s, const T* weight, const float* dz, T* grad_x) {
  using Tile = InputGradientTile<kStage>;
  auto& shared = block_shared<InputGradientStorage<Tile>>();
  const int64_t rows = cell_tiles<Tile>(s.in_h, Tile::kRows), columns = cell_tiles<Tile>(s.in_w, Tile::kColumns);
  const int64_t index = blockIdx.x;
  const int64_t first_sample = index / columns / rows * Tile::kSamples;
  const int first_row = static_cast<int>(index / columns % rows) * Tile::kRows;
  const int first_column = static_cast<int>(index % columns) * Tile::kColumns;
  const int64_t plane = s.conv_h() * s.conv_w();

  const int lane = threadIdx.x % Tile::kLanes, channel = threadIdx.x / Tile::kLanes * Tile::kThreadChannels;
  int corner[Tile::kThreadCells];
  float sums[Tile::kThreadCells][Tile::kThreadChannels][Tile::kCell];
#pragma unroll
  for (int v = 0; v < Tile::kThreadCells; ++v) {
    const Window<Tile> cell(lane + v * Tile::kLanes);
    corner[v] = cell.sample * Tile::kPlane + cell.row * Tile::kPitch + cell.column;
#pragma unroll
    for (int c = 0; c < Tile::kThreadChannels; ++c) {
#pragma unroll
      for (int k = 0; k < Tile::kCell; ++k) sums[v][c][k] = 0;
    }
  }

#pragma unroll 1
  for (int first = 0; first < Tile::kOut; first += Tile::kChunk) {
    __syncthreads();  // nobody still reads the chunk before
    constexpr int kStep = Tile::kThreads / Tile::kPaddedIn;
    const int in = threadIdx.x / kStep, start = threadIdx.x % kStep;  // a thread keeps to one input channel
    const T* from = weight + (first * Tile::kIn + in) * Tile::kTaps + start;
    float* to = shared.weight + start * Tile::kWeightPitch + in;
#pragma unroll
    for (int out = 0; out < Tile::kChunk; ++out) {
#pragma unroll
      for (int tap = 0; tap < Tile::kTaps; tap += kStep) {
        if (tap + kStep <= Tile::kTaps || start < Tile::kTaps - tap) {
          to[(out * Tile::kTaps + tap) * Tile::kWeightPitch] =
              in < Tile::kIn ? widen(fetch(from + out * Tile::kIn * Tile::kTaps + tap)) : 0.0f;
        }
      }
    }
    for (int e = threadIdx.x; e < Tile::kSamples * Tile::kPlane; e += Tile::kThreads) {
      const int64_t n = first_sample + e / Tile::kPlane;
      const int64_t row = int64_t{first_row} + Tile::kLow + e % Tile::kPlane / Tile::kPitch;
      const int64_t column = int64_t{first_column} + Tile::kLow + e % Tile::kPitch;
      const bool inside = n < s.batch && row >= 0 && row < s.conv_h() && column >= 0 && column < s.conv_w();
      // What is not inside is read where something is, and left: that costs less than not to read it.
      const float* from = dz + (inside ? (n * Tile::kOut * s.conv_h() + row) * s.conv_w() + column : 0) + first * plane;
#pragma unroll
      for (int out = 0; out < Tile::kChunk; ++out) {
        const float value = plane > 0 ? fetch(from + out * plane) : 0.0f;
        shared.dz[out * Tile::kSamples * Tile::kPlane + e] = inside ? value : 0.0f;
      }
    }
    __syncthreads();  // the chunk is there
#pragma unroll 1
    for (int out = 0; out < Tile::kChunk; ++out) {
      const float* w_out = shared.weight + out * Tile::kTaps * Tile::kWeightPitch + channel;
      const float* d_out = shared.dz + out * Tile::kSamples * Tile::kPlane;
      float d[Tile::kThreadCells][Tile::kReach][Tile::kReach];
#pragma unroll
      for (int v = 0; v < Tile::kThreadCells; ++v) {
#pragma unroll
        for (int i = 0; i < Tile::kReach; ++i) {
#pragma unroll
          for (int j = 0; j < Tile::kReach; ++j) d[v][i][j] = d_out[corner[v] + i * Tile::kPitch + j];
        }
      }
      // Kernel row kh took input row y into output row (y + kPad - kh) / kStride, for the y where that is whole.
#pragma unroll
      for (int tap = 0; tap < Tile::kTaps; ++tap) {
        const int kh = tap / Tile::kKernel, kw = tap % Tile::kKernel;
        const int y = (kh + Tile::kPad) % Tile::kStride, x = (kw + Tile::kPad) % Tile::kStride;  // in the cell
        const int i = (y + Tile::kPad - kh) / Tile::kStride - Tile::kLow;
        const int j = (x + Tile::kPad - kw) / Tile::kStride - Tile::kLow;
        float w[Tile::kThreadChannels];
        load<Tile::kThreadChannels>(w_out + tap * Tile::kWeightPitch, w);
#pragma unroll
        for (int v = 0; v < Tile::kThreadCells; ++v) {
#pragma unroll
          for (int c = 0; c < Tile::kThreadChannels; ++c) sums[v][c][y * Tile::kStride + x] += w[c] * d[v][i][j];
        }
      }
    }
  }

#pragma unroll
  for (int v = 0; v < Tile::kThreadCells; ++v) {
    const Window<Tile> cell(lane + v * Tile::kLanes);
    const int64_t n = first_sample + cell.sample;
#pragma unroll
    for (int c = 0; c < Tile::kThreadChannels; ++c) {
#pragma unroll
      for (int k = 0; k < Tile::kCell; ++k) {
        const int64_t y = int64_t{first_row + cell.row} * Tile::kStride + k / Tile::kStride;
        const int64_t x = int64_t{first_column + cell.column} * Tile::kStride + k % Tile::kStride;
        if (n >= s.batch || channel + c >= Tile::kIn || y >= s.in_h || x >= s.in_w) continue;
        grad_x[((n * Tile::kIn + channel + c) * s.in_h + y) * s.in_w + x] = narrow<T>(sums[v][c][k]);
      }
    }
  }
}

}  // namespace meon::cuda
