// The first stage on tensor cores for ThreadSanitizer: see race.h.
#include "cuda/byte_stage.cuh"
#include "race.h"

int main(int argc, char** argv) {
  using namespace meon::cuda;
  using race::ramp;
  race::skip_barrier(argc, argv);
  const int64_t boxes[] = {0, 0, 9, 6};
  const std::vector<uint8_t> image(9 * 6 * 3, 7);
  const CropSource<3> source{image.data(), 6, 9, boxes, 1, 6, 9};
  const std::vector<float> weight = ramp(8 * 75), bias = ramp(8), beta = ramp(8), gamma = ramp(64);
  std::vector<float> y(8 * 2);
  race::run(byte_stage_kernel<CropSource<3>, kFewRows>, {1}, ByteTile<kFewRows>::kThreads, StageShape{1, 6, 9, 1, 2},
            source, StageParameters<float>{weight.data(), bias.data(), beta.data(), gamma.data()}, y.data());
  return EXIT_SUCCESS;
}
