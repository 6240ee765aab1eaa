// Where crops lie, and cutting them out of an image.
#include <limits>
#include <vector>

#include "check.h"
#include "core/crop_grid.h"
#include "cpu/kernels.h"
#include "inputs.h"

using meon::CropExtraction;
using meon::test::fresh_seed;
using meon::test::Random;
using meon::test::same_bits;

namespace {

// Step by step, without a formula: as long as a crop leaves pixels behind it, and once more at the border.
std::vector<int64_t> positions(int64_t length, int64_t size, int64_t stride) {
  std::vector<int64_t> out;
  for (int64_t at = 0; at + size < length; at += stride) out.push_back(at);
  out.push_back(length - size);
  return out;
}

}  // namespace

TEST(grid_equals_stepping) {
  for (int64_t size = 1; size <= 7; ++size) {
    for (int64_t stride = 1; stride <= 11; ++stride) {
      for (int64_t more = 0; more <= 12; ++more) {
        const int64_t height = size + more, width = size + (more * 7) % 13;
        INFO("height " << height << ", width " << width << ", size " << size << ", stride " << stride);
        std::vector<int64_t> want;
        for (const int64_t y : positions(height, size, stride)) {
          for (const int64_t x : positions(width, size, stride)) {
            want.insert(want.end(), {x, y, x + size, y + size});
          }
        }
        CHECK(meon::crop_grid(height, width, size, stride) == want);
      }
    }
  }
}

TEST(stride_past_the_image) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  const std::vector<int64_t> want{0, 0, 2, 2, 4, 0, 6, 2, 0, 3, 2, 5, 4, 3, 6, 5};
  for (const int64_t stride : {int64_t{6}, int64_t{1} << 31, kMax}) CHECK(meon::crop_grid(5, 6, 2, stride) == want);
  CHECK(meon::crop_grid(2, 2, 2, kMax) == (std::vector<int64_t>{0, 0, 2, 2}));
}

TEST(grid_refuses_what_it_cannot_do) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  CHECK_THROWS(std::invalid_argument, "size must be positive, got 0", meon::crop_grid(9, 9, 0, 1));
  CHECK_THROWS(std::invalid_argument, "size must be positive, got -4", meon::crop_grid(9, 9, -4, 1));
  CHECK_THROWS(std::invalid_argument, "stride must be positive, got 0", meon::crop_grid(9, 9, 3, 0));
  CHECK_THROWS(std::invalid_argument, "9 x 2", meon::crop_grid(2, 9, 3, 1));
  CHECK_THROWS(std::invalid_argument, "2 x 9", meon::crop_grid(9, 2, 3, 1));
  CHECK_THROWS(std::invalid_argument, "smaller", meon::crop_grid(kMax, kMax - 1, kMax, 1));
  CHECK_THROWS(std::invalid_argument, "too large", meon::crop_grid(kMax, kMax, 1, 1));
  CHECK_THROWS(std::invalid_argument, "larger stride", meon::crop_grid((1LL << 31) - 1, (1LL << 31) - 1, 1, 1));
}

TEST(extraction_copies_and_adds_back) {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  for (const CropExtraction s :
       {CropExtraction{9, 11, 3, 4, 3}, {5, 5, 1, 5, 2}, {6, 13, 2, 1, 5}, {7, 8, 0, 3, 2}, {12, 7, 4, 6, 100}}) {
    INFO("image " << s.height << " x " << s.width << " x " << s.channels << ", size " << s.size << ", stride "
                  << s.stride);
    const auto bytes = random.bytes(s.height * s.width * s.channels);
    const std::vector<double> image(bytes.begin(), bytes.end());
    const auto rows = positions(s.height, s.size, s.stride), columns = positions(s.width, s.size, s.stride);
    const auto pixels = static_cast<size_t>(s.channels * s.size * s.size);
    std::vector<double> want, grad(rows.size() * columns.size() * pixels), want_grad(image.size());
    for (double& g : grad) g = static_cast<double>(random.integer(-99, 99));  // sums are exact in any order
    for (const int64_t y0 : rows) {
      for (const int64_t x0 : columns) {
        for (int64_t c = 0; c < s.channels; ++c) {
          for (int64_t y = y0; y < y0 + s.size; ++y) {
            for (int64_t x = x0; x < x0 + s.size; ++x) {
              const auto at = static_cast<size_t>((y * s.width + x) * s.channels + c);
              want_grad[at] += grad[want.size()];
              want.push_back(image[at]);
            }
          }
        }
      }
    }
    for (const int threads : {1, 2, 5}) {
      std::vector<double> from_doubles(want.size(), -1), from_bytes(want.size(), -1), got_grad(image.size(), -1);
      const meon::Threads parallel(threads);
      meon::cpu::extract_crops_forward<double, double>(s, image.data(), from_doubles.data(), parallel);
      meon::cpu::extract_crops_forward<uint8_t, double>(s, bytes.data(), from_bytes.data(), parallel);
      meon::cpu::extract_crops_backward<double>(s, grad.data(), got_grad.data(), parallel);
      CHECK(same_bits(from_doubles, want));
      CHECK(same_bits(from_bytes, want));
      CHECK(got_grad == want_grad);
    }
  }
}

int main(int argc, char** argv) { return meon::test::run(argc, argv); }
