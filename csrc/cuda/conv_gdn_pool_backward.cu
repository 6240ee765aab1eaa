// Launchers of the fused stages' backward. Also compiled by g++ (tests/cuda_on_host).
#include <algorithm>

#include "cuda/conv_gdn_pool.h"
#include "cuda/conv_gdn_pool_backward.cuh"
#include "cuda/reduce.cuh"
#include "cuda/stage_dispatch.h"

namespace meon::cuda {
namespace {

// How many partial sums of the parameter gradients there are: enough blocks to fill any GPU, of which none has more
// than one. From the shape alone, never from the device, so that every GPU adds up in the same order.
struct Splits {
  int64_t gdn = 0;     // of beta and gamma
  int64_t weight = 0;  // of weight and bias
};

template <int kStage>
Splits splits_of(const StageShape& s) {
  using WeightTile = WeightGradientTile<kStage>;
  constexpr int64_t kBlocks = 1024;
  return {std::min(tile_count<StageTile<kStage>>(s), kBlocks),
          std::min(tile_count<WeightTile>(s), kBlocks / WeightTile::kChannelBlocks)};
}

// The workspace: dz [N, kOut, 2 Hp, 2 Wp], then the partial sums of beta and gamma, then those of weight and bias.
template <int kStage>
struct Workspace {
  int64_t dz, gdn, weight;  // elements

  Workspace(const StageShape& s, const Splits& splits)
      : dz(s.batch * Layer<kStage>::kOut * s.conv_h() * s.conv_w()),
        gdn(splits.gdn * gdn_partial_size(Layer<kStage>::kOut)),
        weight(splits.weight * partial_size()) {}

  static constexpr int64_t weights() { return Layer<kStage>::kOut * Layer<kStage>::kIn * Layer<kStage>::kTaps; }
  static constexpr int64_t partial_size() { return weights() + Layer<kStage>::kOut; }
  size_t bytes() const { return static_cast<size_t>(dz + gdn + weight) * sizeof(float); }
};

// With a number of splits of the caller's choice: tests make each block work on several tiles.
template <class T, int kStage, class Source, class Params>
LaunchResult backward_in_splits(const Params& p, const Source& source, T* grad_x, const Splits& splits, void* workspace,
                                cudaStream_t stream) {
  using Tile = StageTile<kStage>;
  using WeightTile = WeightGradientTile<kStage>;
  using InputTile = InputGradientTile<kStage>;
  const StageShape s = stage_shape_of(p.shape);
  const Workspace<kStage> sizes(s, splits);
  auto* dz = static_cast<float*>(workspace);
  float* gdn_partials = dz + sizes.dz;
  float* weight_partials = gdn_partials + sizes.gdn;
  if (s.batch > 0) {
    LaunchResult r =
        launch("stage_gdn_gradient_kernel", stage_gdn_gradient_kernel<T, kStage, Source>, {splits.gdn}, Tile::kThreads,
               stream, s, source, stage_parameters<T>(p), p.grad_y, tile_count<Tile>(s), dz, gdn_partials);
    if (r.error != cudaSuccess) return r;
    r = launch("stage_weight_gradient_kernel", stage_weight_gradient_kernel<kStage, Source>,
               {splits.weight, WeightTile::kChannelBlocks}, WeightTile::kThreads, stream, s, source, dz,
               tile_count<WeightTile>(s), weight_partials);
    if (r.error != cudaSuccess) return r;
    if (grad_x != nullptr) {
      r = launch("stage_input_gradient_kernel", stage_input_gradient_kernel<T, kStage>,
                 {input_tile_count<InputTile>(s)}, InputTile::kThreads, stream, s, p.weight, dz, grad_x);
      if (r.error != cudaSuccess) return r;
    }
  }
  // With no sample at all there is no partial sum, and these write zeros.
  constexpr int64_t kOut = Tile::kOut;
  const LaunchResult r = reduce<T>({gdn_partials, splits.gdn, p.grad_gamma, kOut * kOut, p.grad_beta, kOut}, stream);
  if (r.error != cudaSuccess) return r;
  return reduce<T>({weight_partials, splits.weight, p.grad_weight, sizes.weights(), p.grad_bias, kOut}, stream);
}

template <class T, int kStage, class Source, class Params>
LaunchResult backward(const Params& p, const Source& source, T* grad_x, void* workspace, cudaStream_t stream) {
  const Splits splits = splits_of<kStage>(stage_shape_of(p.shape));
  return backward_in_splits<T, kStage>(p, source, grad_x, splits, workspace, stream);
}

}  // namespace

size_t conv_gdn_pool_backward_workspace(const ConvShape& shape) {
  return dispatch_stage(shape, [&](auto stage) {
    const StageShape s = stage_shape_of(shape);
    return Workspace<stage>(s, splits_of<stage>(s)).bytes();
  });
}

template <class T>
LaunchResult conv_gdn_pool_backward(const ConvGdnPoolBackward<T>& p, void* workspace, cudaStream_t stream) {
  return dispatch_stage(p.shape, [&](auto stage) {
    return backward<T, stage>(p, planar_source(p.shape, p.x), p.grad_x, workspace, stream);
  });
}

template <class T>
LaunchResult crop_conv_gdn_pool_backward(const CropConvGdnPoolBackward<T>& p, void* workspace, cudaStream_t stream) {
  T* const none = nullptr;
  return backward<T, 0>(p, crop_source(p.shape, p.crops), none, workspace, stream);
}

#define MEON_INSTANTIATE(T)                                                                            \
  template LaunchResult conv_gdn_pool_backward<T>(const ConvGdnPoolBackward<T>&, void*, cudaStream_t); \
  template LaunchResult crop_conv_gdn_pool_backward<T>(const CropConvGdnPoolBackward<T>&, void*, cudaStream_t);
MEON_INSTANTIATE(float)
MEON_INSTANTIATE(__half)
MEON_INSTANTIATE(__nv_bfloat16)
#undef MEON_INSTANTIATE

}  // namespace meon::cuda
