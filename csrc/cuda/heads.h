// The heads of MEON on CUDA. No torch here, and nothing that needs nvcc.
#pragma once

#include <cstdint>

#include "cuda/launch_result.h"

namespace meon::cuda {

inline constexpr int kMaxClasses = 256;  // whose logits and scores fit in shared memory

// One sub-network: fully connected layer, GDN, fully connected layer.
struct HeadParameters {
  const float* weight = nullptr;      // [hidden, kFeatures]
  const float* bias = nullptr;        // [hidden]
  const float* beta = nullptr;        // [hidden]
  const float* gamma = nullptr;       // [hidden, hidden]
  const float* out_weight = nullptr;  // [classes, hidden]
  const float* out_bias = nullptr;    // [classes]
};

struct Heads {
  int64_t crops = 0;
  int64_t classes = 0;              // at most kMaxClasses
  const float* features = nullptr;  // [crops, kFeatures]
  HeadParameters type, quality;     // kTypeHidden and kQualityHidden units
  float* answers = nullptr;         // [crops, 1 + classes]: the quality, then the probabilities
};

// All pointers are to memory of the current device, and everything is queued on `stream` without waiting for it. A
// crop's answer is the same bits whatever the other crops are.
LaunchResult heads_forward(const Heads& p, cudaStream_t stream);

}  // namespace meon::cuda
