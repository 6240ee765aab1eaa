// The overlap plan against its definition: every crop's every window must lead to the very pixels, and the very
// padding, that the crop alone would read, and no two numbers may stand for the same window.
#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "check.h"
#include "core/crop_grid.h"
#include "core/crop_plan.h"

using meon::AxisPlan;
using meon::AxisStage;
using meon::kPadding;
using meon::kTaps;

namespace {

int64_t outputs_of_stage(int stage) { return 64 >> (2 * stage); }

void check_plan(const std::vector<int64_t>& offsets) {
  const AxisPlan plan(offsets);
  for (int s = 0; s < meon::kSharedStages; ++s) {
    const AxisStage& stage = plan.stages[static_cast<size_t>(s)];
    const int64_t outputs = outputs_of_stage(s), inputs = s == 0 ? 256 : outputs_of_stage(s - 1);
    REQUIRE(stage.outputs_per_crop == outputs);
    REQUIRE(stage.of_crop.size() == offsets.size() * static_cast<size_t>(outputs));
    CHECK(std::set(stage.taps.begin(), stage.taps.end()).size() == stage.taps.size());
    CHECK(std::set(stage.of_crop.begin(), stage.of_crop.end()).size() ==
          stage.taps.size());  // none is computed in vain
    bool rim_seen = false;
    for (const auto& taps : stage.taps) {
      const bool rim = std::count(taps.begin(), taps.end(), kPadding) > 0;
      CHECK(rim || !rim_seen);
      rim_seen = rim_seen || rim;
    }
    for (size_t crop = 0; crop < offsets.size(); ++crop) {
      for (int64_t out = 0; out < outputs; ++out) {
        const int32_t id = stage.at(static_cast<int64_t>(crop), out);
        REQUIRE(id >= 0 && id < static_cast<int32_t>(stage.taps.size()));
        for (int t = 0; t < kTaps; ++t) {
          const int64_t in = 4 * out - 2 + t;
          int64_t want = kPadding;
          if (in >= 0 && in < inputs) {
            want = s == 0 ? offsets[crop] + in
                          : plan.stages[static_cast<size_t>(s - 1)].at(static_cast<int64_t>(crop), in);
          }
          CHECK(stage.taps[static_cast<size_t>(id)][static_cast<size_t>(t)] == want);
        }
      }
    }
  }
}

std::vector<int64_t> grid(int64_t length, int64_t stride) {
  std::vector<int64_t> offsets;
  for (int64_t i = 0; i < meon::crop_count(length, 256, stride); ++i) {
    offsets.push_back(meon::crop_position(i, length, 256, stride));
  }
  return offsets;
}

}  // namespace

TEST(one_crop_shares_nothing) {
  check_plan({17});
  const AxisPlan plan(std::vector<int64_t>{17});
  for (int s = 0; s < meon::kSharedStages; ++s) {
    CHECK(static_cast<int64_t>(plan.stages[static_cast<size_t>(s)].taps.size()) == outputs_of_stage(s));
  }
}

TEST(every_window_leads_to_its_pixels) {
  for (const int64_t stride : {1, 4, 16, 37, 64, 100, 128, 256, 300}) {
    INFO("stride " << stride);
    check_plan(grid(256 + 5 * stride + 3, stride));  // 3: the border-flush crop lies off the lattice
  }
  std::mt19937 random(std::random_device{}());
  std::vector<int64_t> offsets;
  for (int i = 0; i < 20; ++i) offsets.push_back(static_cast<int64_t>(random() % 700));
  std::sort(offsets.begin(), offsets.end());
  offsets.erase(std::unique(offsets.begin(), offsets.end()), offsets.end());
  check_plan(offsets);
}

TEST(crops_on_a_lattice_share_all_but_their_rims) {
  const AxisPlan ten(grid(256 + 9 * 128, 128)), eleven(grid(256 + 10 * 128, 128));
  const size_t added[] = {32 + 2, 8 + 2, 4};
  for (size_t s = 0; s < 3; ++s) CHECK(eleven.stages[s].taps.size() - ten.stages[s].taps.size() == added[s]);
}

TEST(jobs_hold_every_box_once) {
  std::mt19937 random(std::random_device{}());
  for (int round = 0; round < 50; ++round) {
    std::vector<int64_t> boxes;
    const int64_t count = static_cast<int64_t>(random() % 40);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t x = static_cast<int64_t>(random() % 4) * 10, y = static_cast<int64_t>(random() % 4) * 10;
      boxes.insert(boxes.end(), {x, y, x + 256, y + 256});  // with repetitions
    }
    std::vector<int64_t> seen;
    for (const meon::CropGridJob& job : meon::grid_jobs(boxes)) {
      REQUIRE(job.index.size() == job.rows.size() * job.columns.size());
      CHECK(std::is_sorted(job.rows.begin(), job.rows.end()) && std::is_sorted(job.columns.begin(), job.columns.end()));
      CHECK(std::adjacent_find(job.rows.begin(), job.rows.end()) == job.rows.end());
      for (size_t i = 0; i < job.index.size(); ++i) {
        const auto k = static_cast<size_t>(job.index[i]);
        CHECK(boxes[4 * k + 1] == job.rows[i / job.columns.size()]);
        CHECK(boxes[4 * k] == job.columns[i % job.columns.size()]);
        seen.push_back(job.index[i]);
      }
    }
    std::sort(seen.begin(), seen.end());
    REQUIRE(static_cast<int64_t>(seen.size()) == count);
    for (int64_t k = 0; k < count; ++k) CHECK(seen[static_cast<size_t>(k)] == k);
  }
  const auto boxes = meon::crop_grid(900, 1300, 256, 128);
  CHECK(meon::grid_jobs(boxes).size() == 1);  // a regular grid is one job
}

int main(int argc, char** argv) { return meon::test::run(argc, argv); }
