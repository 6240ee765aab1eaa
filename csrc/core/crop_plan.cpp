#include "core/crop_plan.h"

#include <algorithm>
#include <map>

namespace meon {
namespace {

using Taps = std::array<int32_t, kTaps>;

// Windows without padding first, lattice by lattice, so that neighbours in the image stay neighbours.
bool ordered_before(const Taps& a, const Taps& b) {
  auto key = [](const Taps& t) {
    const bool rim = std::find(t.begin(), t.end(), kPadding) != t.end();
    return std::array<int32_t, 2>{rim, rim ? 0 : t[0] % 4};
  };
  const auto ka = key(a), kb = key(b);
  return ka != kb ? ka < kb : a < b;
}

}  // namespace

AxisPlan::AxisPlan(std::span<const int64_t> offsets) {
  const auto crops = static_cast<int64_t>(offsets.size());
  int64_t inputs = kCropSize;
  for (int s = 0; s < kSharedStages; ++s) {
    const StageSpec& spec = kStages[static_cast<size_t>(s)];
    AxisStage& stage = stages[static_cast<size_t>(s)];
    const AxisStage* before = s == 0 ? nullptr : &stages[static_cast<size_t>(s - 1)];
    const int64_t outputs = ((inputs + 2 * spec.pad - spec.kernel) / spec.stride + 1) / spec.pool;
    stage.outputs_per_crop = static_cast<int>(outputs);

    std::vector<Taps> wanted;  // [crops][outputs]
    wanted.reserve(static_cast<size_t>(crops * outputs));
    for (int64_t crop = 0; crop < crops; ++crop) {
      for (int64_t out = 0; out < outputs; ++out) {
        Taps& taps = wanted.emplace_back();
        for (int t = 0; t < kTaps; ++t) {
          const int64_t in = out * spec.stride * spec.pool - spec.pad + t;
          const bool padding = in < 0 || in >= inputs;
          const int64_t read = padding  ? kPadding
                               : before ? before->at(crop, in)
                                        : offsets[static_cast<size_t>(crop)] + in;
          taps[static_cast<size_t>(t)] = static_cast<int32_t>(read);
        }
      }
    }
    stage.taps = wanted;
    std::sort(stage.taps.begin(), stage.taps.end(), ordered_before);
    stage.taps.erase(std::unique(stage.taps.begin(), stage.taps.end()), stage.taps.end());
    stage.of_crop.reserve(wanted.size());
    for (const Taps& taps : wanted) {
      const auto found = std::lower_bound(stage.taps.begin(), stage.taps.end(), taps, ordered_before);
      stage.of_crop.push_back(static_cast<int32_t>(found - stage.taps.begin()));
    }
    inputs = outputs;
  }
}

std::vector<CropGridJob> grid_jobs(std::span<const int64_t> boxes) {
  // Row offset -> column offset -> boxes there.
  std::map<int64_t, std::map<int64_t, std::vector<int64_t>>> rows;
  for (size_t k = 0; k < boxes.size() / 4; ++k) {
    rows[boxes[4 * k + 1]][boxes[4 * k]].push_back(static_cast<int64_t>(k));
  }
  std::vector<CropGridJob> jobs;
  while (!rows.empty()) {
    // The next row joins the job before it when it has the very same columns.
    auto row = rows.begin();
    std::vector<int64_t> columns, index;
    for (auto column = row->second.begin(); column != row->second.end();) {
      columns.push_back(column->first);
      index.push_back(column->second.back());
      column->second.pop_back();
      column = column->second.empty() ? row->second.erase(column) : std::next(column);
    }
    const int64_t offset = row->first;
    if (row->second.empty()) rows.erase(row);
    if (jobs.empty() || jobs.back().columns != columns || jobs.back().rows.back() >= offset) {
      jobs.push_back({{}, columns, {}});
    }
    jobs.back().rows.push_back(offset);
    jobs.back().index.insert(jobs.back().index.end(), index.begin(), index.end());
  }
  return jobs;
}

}  // namespace meon
