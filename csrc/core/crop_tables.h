// The overlap plan of one axis as tables for kernels that work on rectangles of pool windows, as those on CUDA do.
//
// Such a kernel wants windows that lie next to each other to read inputs that do: window i the inputs from 4 i on, of
// which 3 are those of window i + 1 too. So a stage's distinct outputs are laid out in chains in which each reads on
// where the one before it did, as in an image, with one place left empty between two chains for the last inputs of the
// first. A crop's own outputs are one chain; so are those of all crops on a lattice, but for the rims.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/crop_plan.h"

namespace meon {

inline constexpr int kWindowStep = 4;  // inputs from one window to the next
static_assert(kWindowStep == kStages[0].pool * kStages[0].stride);

struct AxisTables {
  // [kWindowStep * places + kTaps - kWindowStep] each: what the inputs of a stage are, a pixel of the image for the
  // first stage, a place of the stage before for the others; kPadding for zero, and where nobody looks.
  std::array<std::vector<int32_t>, kSharedStages> inputs;
  // [crops][outputs of one crop in the last shared stage]: the places that they have there.
  std::vector<int32_t> crops;

  explicit AxisTables(const AxisPlan& plan);

  // Outputs of a stage, empty places among them.
  int64_t places(int stage) const {
    const auto size = static_cast<int64_t>(inputs[static_cast<size_t>(stage)].size());
    return (size - (kTaps - kWindowStep)) / kWindowStep;
  }
};

}  // namespace meon
