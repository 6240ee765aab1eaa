// The tables of an overlap plan against their definition: from each crop's outputs of the last shared stage down to the
// image, they must lead to the pixels and the padding that the crop alone would read.
#include <algorithm>
#include <vector>

#include "core/crop_grid.h"
#include "core/crop_tables.h"
#include "inputs.h"

using meon::AxisPlan;
using meon::AxisTables;
using meon::kPadding;
using meon::kTaps;

namespace {

int64_t outputs_of_stage(int stage) { return 64 >> (2 * stage); }

// place: of output `out` of a stage, for the crop at `offset`.
void check_window(const AxisTables& tables, int stage, int32_t place, int64_t out, int64_t offset) {
  REQUIRE(place >= 0 && place < tables.places(stage));
  const int64_t inputs = stage == 0 ? meon::kCropSize : outputs_of_stage(stage - 1);
  for (int t = 0; t < kTaps; ++t) {
    const int64_t in = 4 * out - 2 + t;
    const int32_t from = tables.inputs[static_cast<size_t>(stage)][static_cast<size_t>(4 * place + t)];
    if (in < 0 || in >= inputs) {
      CHECK(from == kPadding);
    } else if (stage == 0) {
      CHECK(from == offset + in);
    } else {
      check_window(tables, stage - 1, from, in, offset);
    }
  }
}

void check_tables(const std::vector<int64_t>& offsets) {
  const AxisTables tables{AxisPlan(offsets)};
  REQUIRE(tables.crops.size() == 4 * offsets.size());
  for (size_t i = 0; i < tables.crops.size(); ++i) {
    check_window(tables, 2, tables.crops[i], static_cast<int64_t>(i % 4), offsets[i / 4]);
  }
}

std::vector<int64_t> grid(int64_t crops, int64_t stride) {
  std::vector<int64_t> offsets;
  for (int64_t i = 0; i < crops; ++i) offsets.push_back(i * stride);
  return offsets;
}

}  // namespace

TEST(one_crop_is_one_chain) {
  const AxisTables tables{AxisPlan(std::vector<int64_t>{17})};
  for (int s = 0; s < meon::kSharedStages; ++s) CHECK(tables.places(s) == outputs_of_stage(s));
  check_tables({17});
}

TEST(every_window_leads_to_its_pixels) {
  const uint32_t seed = meon::test::fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  meon::test::Random random(seed);
  for (const int64_t stride : {1, 4, 16, 37, 64, 100, 128, 256, 300}) {
    INFO("stride " << stride);
    std::vector<int64_t> offsets = grid(4, stride);
    offsets.push_back(offsets.back() + std::min<int64_t>(stride, 3));  // flush with the border, off the lattice
    if (stride > 1) check_tables(offsets);
    check_tables(grid(5, stride));
  }
  std::vector<int64_t> offsets;
  for (int i = 0; i < 8; ++i) offsets.push_back(random.integer(0, 700));
  std::sort(offsets.begin(), offsets.end());
  offsets.erase(std::unique(offsets.begin(), offsets.end()), offsets.end());
  check_tables(offsets);
}

// What the empty places cost: at stride 128 a crop adds the plan's 34, 10 and 4 outputs, and the ends of two chains in
// the first and second stage, of one in the third.
TEST(few_places_are_empty) {
  const AxisTables ten{AxisPlan(grid(10, 128))}, eleven{AxisPlan(grid(11, 128))};
  const int64_t added[] = {34 + 2, 10 + 2, 4 + 1};
  for (int s = 0; s < 3; ++s) CHECK(eleven.places(s) - ten.places(s) == added[s]);
}

TEST(no_crops_no_places) {
  const AxisTables tables{AxisPlan(std::vector<int64_t>{})};
  CHECK(tables.crops.empty());
  for (int s = 0; s < meon::kSharedStages; ++s) CHECK(tables.places(s) == 0);
}

int main(int argc, char** argv) { return meon::test::run(argc, argv); }
