// Launchers of the fused stages' forward. Also compiled by g++ (tests/cuda_on_host).
#include "cuda/conv_gdn_pool.cuh"
#include "cuda/conv_gdn_pool.h"
#include "cuda/stage_dispatch.h"

namespace meon::cuda {
namespace {

template <class T, int kStage, class Source, class Params>
LaunchResult forward(const Params& p, const Source& source, cudaStream_t stream) {
  using Tile = StageTile<kStage>;
  const StageShape s = stage_shape_of(p.shape);
  if (s.batch == 0) return {};
  return launch("conv_gdn_pool_kernel", conv_gdn_pool_kernel<T, kStage, Source>, {tile_count<Tile>(s)}, Tile::kThreads,
                stream, s, source, stage_parameters<T>(p), p.y);
}

}  // namespace

bool has_fused_stage(const ConvShape& s) { return stage_of(s) >= 0; }

template <class T>
LaunchResult conv_gdn_pool_forward(const ConvGdnPoolForward<T>& p, cudaStream_t stream) {
  return dispatch_stage(p.shape, [&](auto stage) { return forward<T, stage>(p, planar_source(p.shape, p.x), stream); });
}

template <class T>
LaunchResult crop_conv_gdn_pool_forward(const CropConvGdnPoolForward<T>& p, cudaStream_t stream) {
  return forward<T, 0>(p, crop_source(p.shape, p.crops), stream);
}

#define MEON_INSTANTIATE(T)                                                                   \
  template LaunchResult conv_gdn_pool_forward<T>(const ConvGdnPoolForward<T>&, cudaStream_t); \
  template LaunchResult crop_conv_gdn_pool_forward<T>(const CropConvGdnPoolForward<T>&, cudaStream_t);
MEON_INSTANTIATE(float)
MEON_INSTANTIATE(__half)
MEON_INSTANTIATE(__nv_bfloat16)
#undef MEON_INSTANTIATE

}  // namespace meon::cuda
