// Launcher of the heads' kernel. Also compiled by g++ (tests/cuda_on_host).
#include "cuda/heads.cuh"
#include "cuda/heads.h"

namespace meon::cuda {

LaunchResult heads_forward(const Heads& p, cudaStream_t stream) {
  if (p.crops == 0) return {};
  return launch("heads_kernel", heads_kernel, {divide_up(p.crops, HeadsTile::kCrops)}, HeadsTile::kThreads, stream,
                p.crops, static_cast<int>(p.classes), p.features, p.type, p.quality, p.answers);
}

}  // namespace meon::cuda
