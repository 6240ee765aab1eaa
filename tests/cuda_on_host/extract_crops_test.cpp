// The crop kernels and launchers, run on the host. Positions are found step by step, without the formula of
// crop_grid.h.
#include "cuda/extract_crops.cu"

#include <vector>

#include "device.h"
#include "native/inputs.h"

namespace {

using cuda_on_host::Buffer;
using cuda_on_host::in_both_orders;
using cuda_on_host::SparseBuffer;
using meon::CropExtraction;
using meon::test::fresh_seed;
using meon::test::Random;

// As long as a crop leaves pixels behind it, and once more at the border.
std::vector<int64_t> positions(int64_t length, int64_t size, int64_t stride) {
  std::vector<int64_t> found;
  for (int64_t at = 0; at + size < length; at += stride) found.push_back(at);
  found.push_back(length - size);
  return found;
}

// f(index in crops, index in the image), in the order of the crops.
template <class F>
void each_element(const CropExtraction& s, F&& f) {
  int64_t at = 0;
  for (const int64_t y0 : positions(s.height, s.size, s.stride)) {
    for (const int64_t x0 : positions(s.width, s.size, s.stride)) {
      for (int64_t c = 0; c < s.channels; ++c) {
        for (int64_t y = y0; y < y0 + s.size; ++y) {
          for (int64_t x = x0; x < x0 + s.size; ++x) f(at++, (y * s.width + x) * s.channels + c);
        }
      }
    }
  }
}

int64_t crop_elements(const CropExtraction& s) {
  int64_t count = 0;
  each_element(s, [&](int64_t, int64_t) { ++count; });
  return count;
}

std::vector<CropExtraction> cases(Random& random) {
  // One crop, crops side by side, far apart, a stride past the image, no channel; and whatever comes.
  std::vector<CropExtraction> all{{5, 5, 3, 5, 2},  {6, 9, 1, 3, 3},       {20, 17, 2, 4, 9},
                                  {9, 12, 3, 7, 1}, {8, 9, 3, 8, 1 << 30}, {8, 9, 0, 4, 2}};
  for (int i = 0; i < 6; ++i) {
    const int64_t size = random.integer(1, 8);
    all.push_back({size + random.integer(0, 15), size + random.integer(0, 15), random.integer(1, 4), size,
                   random.integer(1, 10)});
  }
  return all;
}

template <class P, class T>
void check_forward(const CropExtraction& s, Random& random) {
  Buffer<P> image(s.height * s.width * s.channels);
  for (int64_t i = 0; i < image.size(); ++i) image[i] = static_cast<P>(random.integer(0, 255));
  Buffer<T> crops(crop_elements(s));
  CHECK(meon::cuda::extract_crops_forward(s, image.data(), crops.data(), nullptr).error == cudaSuccess);
  each_element(s,
               [&](int64_t in_crops, int64_t in_image) { CHECK(crops[in_crops] == static_cast<T>(image[in_image])); });
}

// To the bit: the order of the sums is that of the crops.
template <class T>
void check_backward(const CropExtraction& s, Random& random) {
  Buffer<T> grad(crop_elements(s)), got(s.height * s.width * s.channels);
  const auto values = random.normal<T>(grad.size());
  std::copy(values.begin(), values.end(), grad.data());
  std::vector<T> want(static_cast<size_t>(got.size()), T(0));
  each_element(s, [&](int64_t in_crops, int64_t in_image) { want[static_cast<size_t>(in_image)] += grad[in_crops]; });
  CHECK(meon::cuda::extract_crops_backward(s, grad.data(), got.data(), nullptr).error == cudaSuccess);
  for (int64_t i = 0; i < got.size(); ++i) CHECK(got[i] == want[static_cast<size_t>(i)]);
}

TEST(crops_and_their_gradients) {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  in_both_orders([&] {
    for (const CropExtraction& s : cases(random)) {
      INFO(s.height << " x " << s.width << " x " << s.channels << ", size " << s.size << ", stride " << s.stride);
      check_forward<uint8_t, float>(s, random);
      check_forward<uint8_t, double>(s, random);
      check_forward<float, float>(s, random);
      check_forward<double, double>(s, random);
      check_backward<float>(s, random);
      check_backward<double>(s, random);
    }
  });
}

// The last block of an image and of crops with more than 2^32 elements.
TEST(offsets_beyond_32_bits) {
  const CropExtraction s{70'000, 70'000, 1, 60'000, 60'000};
  const int64_t pixels = s.height * s.width, elements = 4 * s.size * s.size;
  SparseBuffer<float> image(pixels), crops(elements), grad_image(pixels);
  const auto run_last = [](int64_t count, auto&& call) {
    cuda_on_host::options().only_block =
        uint3{static_cast<unsigned>(meon::cuda::divide_up(count, meon::cuda::kCropThreads) - 1), 0, 0};
    CHECK(call().error == cudaSuccess);
    cuda_on_host::options().only_block.reset();
  };
  image[pixels - 1] = 7;
  run_last(elements, [&] { return meon::cuda::extract_crops_forward(s, image.data(), crops.data(), nullptr); });
  CHECK(crops[elements - 1] == 7);
  crops[elements - 1] = 3;
  run_last(pixels, [&] { return meon::cuda::extract_crops_backward(s, crops.data(), grad_image.data(), nullptr); });
  CHECK(grad_image[pixels - 1] == 3);
}

}  // namespace

int main(int argc, char** argv) { return meon::test::run(argc, argv); }
