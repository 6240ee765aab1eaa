// Convolution + bias -> GDN -> 2 x 2 max-pool as one kernel, for the four stages of MEON. Nothing but the input and the
// pooled output touches device memory.
#pragma once

#include "cuda/stage.cuh"

namespace meon::cuda {

template <class Tile>
struct ForwardStorage {
  alignas(16) float gamma[Tile::kOut * Tile::kGammaPitch];
  union {
    ConvBuffers<Tile> conv;
    alignas(16) float z[Tile::kGroups > 1 ? PixelTile<Tile>::kElements : 4];
  };
};

// y: [N, kOut, Hp, Wp]   grid: (tiles)
template <class T, int kStage, class Source>
__global__ void __launch_bounds__(StageTile<kStage>::kThreads, StageTile<kStage>::kBlocks)
    conv_gdn_pool_kernel(StageShape s, Source source, StageParameters<T> p, T* y) {
  using Tile = StageTile<kStage>;
  auto& shared = block_shared<ForwardStorage<Tile>>();
  const Share<Tile> share;
  const Place place = place_of<Tile>(s, blockIdx.x);

  load_gamma<Tile>(p.gamma, shared.gamma);
  WindowValues<Tile> z[Tile::kThreadWindows];
  convolve<Tile>(source, place, p, shared.conv, z);
#pragma unroll
  for (int v = 0; v < Tile::kThreadWindows; ++v) {
    if constexpr (Tile::kGroups > 1) {
      __syncthreads();  // nobody still reads the buffers of the convolution
      share_values<Tile>(z[v], shared.z);
      __syncthreads();  // every channel is there
    } else {
      __syncwarp();  // keeps the compiler from working on both windows at once, for which the registers do not reach
    }
    WindowValues<Tile> n;
    window_norms<Tile>(z[v], shared.z, p.beta, shared.gamma, n);
    const Window<Tile> window = share.window(v);
    if (!window.inside(s, place)) continue;
    T* to =
        y +
        (((place.sample + window.sample) * Tile::kOut + share.channel) * s.out_h + place.row + window.row) * s.out_w +
        place.column + window.column;
#pragma unroll
    for (int c = 0; c < Tile::kThreadChannels; ++c) {
      float out[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) out[k] = divide_by_root(z[v].v[c][k], n.v[c][k]);
      to[int64_t{c} * s.out_h * s.out_w] = narrow<T>(window_maximum(out));
    }
  }
}

}  // namespace meon::cuda
