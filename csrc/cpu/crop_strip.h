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
  int64_t row_size(int level) const;
  const float* pixel_row(int64_t y);              // level 0, in taps form
  const float* stage_row(int stage, int64_t id);  // in taps form for the next stage; the last stage's as it is

  const Network& net_;
  const CropInput& image_;
  int64_t crop_rows_, crop_columns_;
  AxisPlan row_plan_, column_plan_;

  // The first stage's columns lie in two parts: neighbours in the image, which share taps, run by run, each run with
  // one column more for the last one's shared taps; then those that read padding, with taps of their own.
  struct Run {  // column `at` + i reads pixels from `pixel` + 4 i on
    int64_t at, count, pixel;
  };
  std::vector<Run> runs_;
  int64_t run_columns_ = 0, rim_columns_ = 0;  // padded
  int64_t run_stride_ = 0;                     // floats from one shared tap to the next
  std::vector<int32_t> rim_;                   // the plan's numbers of the columns that read padding
  std::vector<int32_t> first_stage_at_;        // where each of the plan's columns lies

  std::vector<int64_t> columns_;                    // [kSharedStages] length of an output row, padded
  std::vector<std::vector<int32_t>> column_index_;  // [kSharedStages] gather indices [kTaps][columns], stages 1 and 2
  std::vector<RowCache> caches_;                    // [kSharedStages + 1] pixel rows, then each stage's
  std::vector<float> zeros_;                        // a row of padding, long enough for every stage
  std::vector<float> out_;                          // one output row of a stage before it is taken apart into taps
};

}  // namespace meon::cpu
