// One strip of a grid of crops, top to bottom, through the shared stages a row at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/crop_plan.h"
#include "cpu/network.h"

namespace meon::cpu {

// Rows of a feature map that were computed lately, by number. The last `capacity` asked for are kept.
class RowCache {
 public:
  RowCache(int64_t capacity, int64_t row_size);

  struct Slot {
    int64_t row = -1;
    int64_t used = 0;
    float* data = nullptr;
  };
  // The slot of that row; `fresh` tells whether it still holds it. If not, the caller fills it in.
  Slot& get(int64_t row, bool& fresh);

 private:
  std::vector<float> memory_;
  std::vector<Slot> slots_;
  int64_t clock_ = 0;
};

class CropStrip {
 public:
  // Crops at every (row offset, column offset); both ascending.
  CropStrip(const Network& net, const CropInput& image, std::span<const int64_t> rows,
            std::span<const int64_t> columns);

  // index [rows][columns]: where each crop's result goes in raw and probabilities; a row is index_stride long.
  void run(const int64_t* index, int64_t index_stride, float* raw, float* probabilities);

 private:
  struct Level;
  const float* pixel_row(int64_t y);              // level 0, in taps form
  const float* stage_row(int stage, int64_t id);  // in taps form for the next stage; the last stage's as it is

  const Network& net_;
  const CropInput& image_;
  int64_t crop_rows_, crop_columns_;
  AxisPlan row_plan_, column_plan_;

  struct Run {  // neighbouring columns of the first stage: output `first` + i reads pixels from `pixel` + 4 i on
    int64_t first, count, pixel;
  };
  std::vector<Run> runs_;
  std::vector<int32_t> single_columns_;  // the others: those with padding, and stragglers

  std::vector<int64_t> columns_;                    // [kSharedStages] padded number of distinct output columns
  std::vector<std::vector<int32_t>> column_index_;  // [kSharedStages] gather indices [kTaps][columns], stages 1 and 2
  std::vector<RowCache> caches_;                    // [kSharedStages + 1] pixel rows, then each stage's
  std::vector<float> zeros_;                        // a row of padding, long enough for every stage
  std::vector<float> out_;                          // one output row of a stage before it is taken apart into taps
};

}  // namespace meon::cpu
