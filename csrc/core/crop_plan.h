// Exact overlap reuse: what overlapping crops share, and what they do not.
//
// The three shared stages look at rows and columns independently: a pooled output at (row, column) of a crop reads 7
// input rows and 7 input columns, some of them the crop's zero padding. Two crops whose pooled rows read the same 7
// inputs (same place in the image, same padding) compute the same thing there. So along each axis, the distinct
// 7-tuples of all crops are numbered; a stage is computed once for every (distinct row, distinct column), and a crop's
// own feature map is a choice of rows and columns out of it. Crops on a common lattice share all but their rims;
// border-flush crops off the lattice simply share nothing, without being a special case. Nothing is approximated: equal
// inputs through equal operations give equal bits.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "core/layers.h"

namespace meon {

inline constexpr int kSharedStages = 3;  // 5 x 5, stride 2, pad 2, 2 x 2 pool each
inline constexpr int kTaps = 7;          // inputs, along one axis, of one pooled output: (pool - 1) * stride + kernel
static_assert(kTaps == (kStages[0].pool - 1) * kStages[0].stride + kStages[0].kernel);

inline constexpr int32_t kPadding = -1;

// One axis of one stage.
struct AxisStage {
  // [distinct outputs][kTaps]: which input each reads, a pixel of the image for the first stage, a distinct output of
  // the stage before for the others; kPadding for zero. Outputs that read no padding come first, and those among them
  // that read neighbouring windows (all taps 4 further on) stand next to each other where possible.
  std::vector<std::array<int32_t, kTaps>> taps;
  // [crops][outputs of one crop]: which distinct output is a crop's i-th.
  std::vector<int32_t> of_crop;
  int outputs_per_crop = 0;

  int32_t at(int64_t crop, int64_t i) const { return of_crop[static_cast<size_t>(crop * outputs_per_crop + i)]; }
};

// One axis of all shared stages, for crops of kCropSize whose first pixels are `offsets`.
struct AxisPlan {
  std::array<AxisStage, kSharedStages> stages;
  explicit AxisPlan(std::span<const int64_t> offsets);
};

// A full grid of crops: every row offset with every column offset.
struct CropGridJob {
  std::vector<int64_t> rows, columns;  // ascending pixel offsets, each once
  std::vector<int64_t> index;          // [rows][columns]: which of the caller's boxes that crop is
};

// Boxes [K, 4] as full grids: what a regular grid of crops is anyway, and what scattered boxes are cut up into. A box
// that is given twice is computed once more.
std::vector<CropGridJob> grid_jobs(std::span<const int64_t> boxes);

}  // namespace meon
