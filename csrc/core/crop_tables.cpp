#include "core/crop_tables.h"

#include <algorithm>
#include <map>

namespace meon {
namespace {

constexpr int kShared = kTaps - kWindowStep;  // inputs that neighbours in a chain have in common

using Ends = std::array<int32_t, kShared>;

// Where each distinct output of a stage lies.
std::vector<int32_t> places_of(const AxisStage& stage) {
  const auto& taps = stage.taps;
  std::map<Ends, std::vector<size_t>> starting_with;  // from the last to the first, which is taken first
  for (size_t i = taps.size(); i-- > 0;) {
    Ends head;
    std::copy_n(taps[i].begin(), kShared, head.begin());
    starting_with[head].push_back(i);
  }
  constexpr size_t kNone = ~size_t{0};
  std::vector<size_t> next(taps.size(), kNone);
  std::vector<bool> starts(taps.size(), true);
  for (size_t i = 0; i < taps.size(); ++i) {
    Ends tail;
    std::copy_n(taps[i].begin() + kWindowStep, kShared, tail.begin());
    const auto found = starting_with.find(tail);
    if (found == starting_with.end() || found->second.empty()) continue;
    next[i] = found->second.back();
    starts[next[i]] = false;
    found->second.pop_back();
  }
  // Every output is reached: the inputs of the next one lie further on in a crop, so that no chain comes back.
  std::vector<int32_t> places(taps.size());
  int32_t place = 0;
  for (size_t first = 0; first < taps.size(); ++first) {
    if (!starts[first]) continue;
    for (size_t i = first; i != kNone; i = next[i]) places[i] = place++;
    ++place;  // stays empty
  }
  return places;
}

}  // namespace

AxisTables::AxisTables(const AxisPlan& plan) {
  std::vector<int32_t> before;  // places of the stage before
  for (size_t s = 0; s < kSharedStages; ++s) {
    const AxisStage& stage = plan.stages[s];
    std::vector<int32_t> places = places_of(stage);
    const int32_t count = places.empty() ? 0 : *std::max_element(places.begin(), places.end()) + 1;
    inputs[s].assign(static_cast<size_t>(kWindowStep * count + kShared), kPadding);
    for (size_t i = 0; i < places.size(); ++i) {
      for (size_t t = 0; t < kTaps; ++t) {
        const int32_t from = stage.taps[i][t];
        inputs[s][static_cast<size_t>(kWindowStep * places[i]) + t] =
            from == kPadding || s == 0 ? from : before[static_cast<size_t>(from)];
      }
    }
    before = std::move(places);
  }
  for (const int32_t output : plan.stages.back().of_crop) crops.push_back(before[static_cast<size_t>(output)]);
}

}  // namespace meon
