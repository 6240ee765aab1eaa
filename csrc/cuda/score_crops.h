// The whole of MEON over the crops of an image on CUDA: what csrc/torch calls. No torch here, and nothing that needs
// nvcc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/crop_tables.h"
#include "core/layers.h"
#include "cuda/heads.h"
#include "cuda/launch_result.h"

namespace meon::cuda {

// Images of uint8 and three channels, in any order in memory. Strides are in bytes.
struct Images {
  const uint8_t* pixels = nullptr;
  int64_t count = 0, height = 0, width = 0;
  int64_t image_stride = 0, channel_stride = 0, row_stride = 0, column_stride = 0;
};

// The AxisTables of the crops' rows or columns, on the device. Nobody may have looked at the numbers in them: one that
// points outside of what it chooses from makes the crops that use it NaN.
struct CropAxisTables {
  std::array<const int32_t*, kSharedStages> inputs{};  // [kWindowStep * places + kTaps - kWindowStep] each
  std::array<int64_t, kSharedStages> places{};         // at most kMaxPlaces
  const int32_t* crops = nullptr;                      // [count][kCropPlaces]
  int64_t count = 0;
};
inline constexpr int64_t kMaxPlaces = int64_t{1} << 28;  // so that no coordinate overflows an int
inline constexpr int kCropPlaces = 4;                    // side of what a crop is after the shared stages

struct StageWeights {
  const float* weight = nullptr;  // [Cout, Cin, K, K]
  const float* bias = nullptr;    // [Cout]
  const float* beta = nullptr;    // [Cout]
  const float* gamma = nullptr;   // [Cout, Cout]
};

// The same crops of every image: those at each row with each column, numbered row by row.
struct CropScoring {
  Images images;
  CropAxisTables rows, columns;
  std::array<StageWeights, kStages.size()> stages;
  HeadParameters type, quality;
  int64_t classes = 0;       // at most kMaxClasses
  float* answers = nullptr;  // [images, crops, 1 + classes]: the quality, then the probabilities

  int64_t crops() const { return images.count * rows.count * columns.count; }
};

// Bytes of device memory to work in. What is in them at the start does not matter.
size_t score_crops_workspace(const CropScoring& p);

// All pointers are to memory of the current device, and everything is queued on `stream` without waiting for it: one
// launch for each stage and one for the heads. A crop's answer is the same bits whatever the other crops are: what the
// kernels of conv_gdn_pool.h and heads.h make of that crop alone, save that the first stage runs on tensor cores where
// the device has them.
LaunchResult score_crops(const CropScoring& p, void* workspace, cudaStream_t stream);

}  // namespace meon::cuda
