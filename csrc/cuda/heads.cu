// Launcher of the heads' kernel. Also compiled by g++ (tests/cuda_on_host).
#include "cuda/heads.cuh"
#include "cuda/heads.h"

namespace meon::cuda {

namespace {

template <int kCrops>
LaunchResult run_heads(const Heads& p, cudaStream_t stream) {
  return launch("heads_kernel", heads_kernel<kCrops>, {divide_up(p.crops, kCrops)}, HeadsTile<kCrops>::kThreads, stream,
                p.crops, static_cast<int>(p.classes), p.features, p.type, p.quality, p.answers);
}

}  // namespace

LaunchResult heads_forward(const Heads& p, cudaStream_t stream) {
  if (p.crops == 0) return {};
  return p.crops <= kFewBlocks * kFewCrops ? run_heads<kFewCrops>(p, stream) : run_heads<kManyCrops>(p, stream);
}

}  // namespace meon::cuda
