// Every kernel of the fused stages for ThreadSanitizer: see race.h.
#include "cuda/conv_gdn_pool.cuh"
#include "cuda/conv_gdn_pool_backward.cuh"
#include "cuda/reduce.cuh"
#include "race.h"

namespace {

using namespace meon::cuda;
using race::ramp;
using race::run;

// Two tiles for each block that works on several.
template <int kStage>
void run_all(int height, int width) {
  using Tile = StageTile<kStage>;
  using WeightTile = WeightGradientTile<kStage>;
  using InputTile = InputGradientTile<kStage>;
  constexpr int64_t kOut = Tile::kOut, kWeights = kOut * Tile::kIn * Tile::kTaps;
  const int conv_h = (height + 2 * Tile::kPad - Tile::kKernel) / Tile::kStride + 1;
  const int conv_w = (width + 2 * Tile::kPad - Tile::kKernel) / Tile::kStride + 1;
  const StageShape s{2, height, width, conv_h / 2, conv_w / 2};
  const int64_t inputs = s.batch * Tile::kIn * height * width, outputs = s.batch * kOut * s.out_h * s.out_w;
  const std::vector<float> x = ramp(inputs), weight = ramp(kWeights), bias = ramp(kOut), beta = ramp(kOut),
                           gamma = ramp(kOut * kOut), grad_y = ramp(outputs);
  std::vector<float> y(grad_y.size()), dz(4 * y.size()), grad_x(x.size()), grad_weight(weight.size() + bias.size()),
      gdn_partial(static_cast<size_t>(gdn_partial_size(kOut))), weight_partial(grad_weight.size());
  const PlanarSource<float> source{x.data(), s.batch, Tile::kIn, height, width};
  const StageParameters<float> p{weight.data(), bias.data(), beta.data(), gamma.data()};
  run(conv_gdn_pool_kernel<float, kStage, PlanarSource<float>>, {1}, Tile::kThreads, s, source, p, y.data());
  run(stage_gdn_gradient_kernel<float, kStage, PlanarSource<float>>, {1}, Tile::kThreads, s, source, p, grad_y.data(),
      2, dz.data(), gdn_partial.data());
  run(stage_weight_gradient_kernel<kStage, PlanarSource<float>>, {1}, WeightTile::kThreads, s, source, dz.data(), 2,
      weight_partial.data());
  run(stage_input_gradient_kernel<float, kStage>, {1}, InputTile::kThreads, s, weight.data(), dz.data(), grad_x.data());
  const Reduction<float> reduction{weight_partial.data(),  1,   grad_weight.data(), kWeights,
                                   &grad_weight[kWeights], kOut};
  run(reduce_kernel<float>, {1}, ReduceTile::kThreads, reduction);
}

}  // namespace

int main(int argc, char** argv) {
  race::skip_barrier(argc, argv);
  run_all<0>(9, 10);  // two windows in a thread, which has all channels
  run_all<2>(9, 10);  // the channels are shared out
  return EXIT_SUCCESS;
}
