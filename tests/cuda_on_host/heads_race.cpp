// The heads' kernel for ThreadSanitizer: see race.h.
#include "cuda/heads.cuh"
#include "race.h"

int main(int argc, char** argv) {
  using namespace meon;
  using namespace meon::cuda;
  using race::ramp;
  race::skip_barrier(argc, argv);
  constexpr int kClasses = 3;
  const auto head = [](int64_t hidden, auto& buffers) {
    buffers = {ramp(hidden * kFeatures), ramp(hidden),  ramp(hidden), ramp(hidden * hidden),
               ramp(kClasses * hidden),  ramp(kClasses)};
    return HeadParameters{buffers[0].data(), buffers[1].data(), buffers[2].data(),
                          buffers[3].data(), buffers[4].data(), buffers[5].data()};
  };
  std::vector<std::vector<float>> of_type, of_quality;
  const HeadParameters type = head(kTypeHidden, of_type), quality = head(kQualityHidden, of_quality);
  const std::vector<float> features = ramp(2 * kFeatures);
  std::vector<float> answers(2 * (1 + kClasses));
  race::run(heads_kernel<kFewCrops>, {1}, HeadsTile<kFewCrops>::kThreads, 2, kClasses, features.data(), type, quality,
            answers.data());
  return EXIT_SUCCESS;
}
