// Convolution, GDN and max-pool as one kernel, over tensors and over crops of an image, against the simplest loops.
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/kernels.h"
#include "inputs.h"
#include "oracle.h"

using meon::ConvShape;
using meon::CropInput;
using meon::Serial;
using meon::Threads;
using meon::test::agrees;
using meon::test::fresh_seed;
using meon::test::on_every_instruction_set;
using meon::test::Random;
using meon::test::same_bits;
using meon::test::StageOracle;

namespace {

struct Case {
  ConvShape shape;
  double scale = 1, beta = 0.1;
};

ConvShape shape_of(int64_t n, int64_t cin, int64_t h, int64_t w, int64_t cout, int64_t kh, int64_t kw, int64_t sh,
                   int64_t sw, int64_t ph, int64_t pw, int64_t pool) {
  return {.batch = n,
          .in_channels = cin,
          .in_h = h,
          .in_w = w,
          .out_channels = cout,
          .kernel_h = kh,
          .kernel_w = kw,
          .stride_h = sh,
          .stride_w = sw,
          .pad_h = ph,
          .pad_w = pw,
          .pool = pool};
}

template <class T>
struct Inputs {
  Inputs(const ConvShape& shape, Random& random, double scale = 1, double least_beta = 0.1)
      : s(shape),
        x(random.normal<T>(s.batch * s.in_channels * s.in_h * s.in_w, scale)),
        weight(random.normal<T>(s.weight_numel(),
                                1 / std::sqrt(static_cast<double>(s.in_channels * s.kernel_h * s.kernel_w)))),
        bias(random.normal<T>(s.out_channels, 0.1 * scale)),
        beta(random.uniform<T>(s.out_channels, least_beta, 2 * least_beta)),
        gamma(random.gamma<T>(s.out_channels)),
        grad(random.normal<T>(s.batch * s.out_channels * s.out_h() * s.out_w())) {}

  StageOracle<T> oracle() const { return {s, x, weight, bias, beta, gamma}; }

  ConvShape s;
  std::vector<T> x, weight, bias, beta, gamma, grad;
};

template <class T>
struct Outputs {
  explicit Outputs(const Inputs<T>& in)
      : y(in.grad.size(), T(-7)),
        grad_x(in.x.size(), T(-7)),
        grad_weight(in.weight.size(), T(-7)),
        grad_bias(in.bias.size(), T(-7)),
        grad_beta(in.beta.size(), T(-7)),
        grad_gamma(in.gamma.size(), T(-7)) {}
  bool same_parameters(const Outputs& o) const {
    return same_bits(y, o.y) && same_bits(grad_weight, o.grad_weight) && same_bits(grad_bias, o.grad_bias) &&
           same_bits(grad_beta, o.grad_beta) && same_bits(grad_gamma, o.grad_gamma);
  }
  bool operator==(const Outputs& o) const { return same_parameters(o) && same_bits(grad_x, o.grad_x); }

  std::vector<T> y, grad_x, grad_weight, grad_bias, grad_beta, grad_gamma;
};

// What a forward keeps for its backward, of the size that was asked for; whatever it leaves out stays NaN.
template <class T>
struct Kept {
  explicit Kept(int64_t numel) : values(static_cast<size_t>(numel), std::numeric_limits<T>::quiet_NaN()) {}
  T* data() { return values.empty() ? nullptr : values.data(); }

  std::vector<T> values;
};

// What the kernels write; whatever they leave out stays -7.
template <class T>
Outputs<T> run(const Inputs<T>& in, const meon::Parallel& parallel, bool input_grad = true, bool keep = false) {
  Outputs<T> out(in);
  Kept<T> kept(keep ? meon::cpu::kept_numel<T>(in.s) : 0);
  meon::cpu::conv_gdn_pool_forward<T>(
      {in.s, in.x.data(), in.weight.data(), in.bias.data(), in.beta.data(), in.gamma.data(), out.y.data(), kept.data()},
      parallel);
  meon::cpu::conv_gdn_pool_backward<T>(
      {in.s, in.grad.data(), in.x.data(), in.weight.data(), in.bias.data(), in.beta.data(), in.gamma.data(),
       input_grad ? out.grad_x.data() : nullptr, out.grad_weight.data(), out.grad_bias.data(), out.grad_beta.data(),
       out.grad_gamma.data(), kept.data()},
      parallel);
  return out;
}

template <class T>
void check_against_oracle(const Case& c, Random& random) {
  const ConvShape& s = c.shape;
  INFO(s.batch << " x " << s.in_channels << " x " << s.in_h << " x " << s.in_w << ", kernel " << s.out_channels << " x "
               << s.kernel_h << " x " << s.kernel_w << ", stride " << s.stride_h << ", " << s.stride_w << ", padding "
               << s.pad_h << ", " << s.pad_w << ", pool " << s.pool << ", scale " << c.scale << ", " << sizeof(T)
               << " bytes");
  Inputs<T> in(s, random, c.scale, c.beta);
  const StageOracle<T> oracle = in.oracle();
  // Where rounding decides which element of a pool window is the largest, the gradient may go to either of two.
  const std::vector<bool> decided = oracle.decided();
  for (size_t i = 0; i < in.grad.size(); ++i) in.grad[i] = decided[i] ? in.grad[i] : T(0);

  const auto y = oracle.forward();
  const auto gradients = oracle.backward(in.grad);
  const Outputs<T> got = run(in, Serial());
  REQUIRE(y.size() == got.y.size());
  auto check = [](const std::vector<T>& kernel, const meon::test::Tensor<T>& want) {
    REQUIRE(kernel.size() == want.size());
    for (size_t i = 0; i < want.size(); ++i) agrees(kernel[i], want[i]);
  };
  check(got.y, y);
  check(got.grad_x, gradients.x);
  check(got.grad_weight, gradients.weight);
  check(got.grad_bias, gradients.bias);
  check(got.grad_beta, gradients.beta);
  check(got.grad_gamma, gradients.gamma);

  const Outputs<T> without = run(in, Serial(), false);
  CHECK(without.same_parameters(got));
  CHECK(without.grad_x == std::vector<T>(in.x.size(), T(-7)));  // not touched
  for (const int threads : {1, 2, 3, 8}) {
    CHECK(run(in, Threads(threads)) == got);
    CHECK(run(in, Threads(threads), true, true) == got);
  }
}

std::vector<Case> cases() {
  return {
      {shape_of(2, 3, 13, 15, 8, 5, 5, 2, 2, 2, 2, 2)},
      {shape_of(2, 8, 11, 9, 16, 5, 5, 2, 2, 2, 2, 2)},
      {shape_of(3, 4, 7, 6, 32, 5, 5, 2, 2, 2, 2, 2)},
      {shape_of(2, 2, 7, 37, 8, 5, 5, 2, 2, 2, 2, 2)},  // samples that fill a vector
      {shape_of(1, 2, 6, 64, 16, 5, 5, 2, 2, 2, 2, 2)},
      {shape_of(1, 32, 4, 4, 64, 3, 3, 1, 1, 0, 0, 2)},
      {shape_of(23, 32, 4, 4, 64, 3, 3, 1, 1, 0, 0, 2)},  // groups of samples, the last not full
      {shape_of(12, 32, 3, 4, 64, 3, 3, 1, 1, 0, 0, 1)},
      {shape_of(5, 7, 8, 6, 64, 2, 3, 1, 2, 0, 0, 2)},  // maps as small, with rows that fill no window
      {shape_of(2, 64, 8, 7, 64, 1, 1, 1, 1, 0, 0, 1)},
      {shape_of(0, 32, 4, 4, 64, 3, 3, 1, 1, 0, 0, 2)},
      {shape_of(11, 32, 4, 4, 64, 3, 3, 1, 1, 0, 0, 2), 1e15},
      {shape_of(2, 32, 4, 4, 64, 3, 3, 1, 1, 0, 0, 2), 1e18, 1e-6},
      {shape_of(2, 32, 4, 4, 64, 3, 3, 1, 1, 0, 0, 2), 1e-30, 1e-6},
      {shape_of(2, 32, 4, 4, 64, 3, 3, 1, 1, 0, 0, 2), 0},
      {shape_of(1, 3, 5, 6, 17, 1, 1, 1, 1, 0, 0, 1)},
      {shape_of(2, 2, 13, 11, 3, 2, 3, 1, 3, 0, 1, 3)},
      {shape_of(1, 3, 14, 9, 5, 7, 1, 3, 1, 6, 0, 2)},
      {shape_of(1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1)},
      {shape_of(1, 3, 1, 1, 8, 3, 3, 1, 1, 5, 4, 2)},    // most windows see nothing but padding
      {shape_of(1, 2, 6, 7, 5, 6, 7, 1, 1, 0, 0, 1)},    // the kernel covers the input
      {shape_of(2, 3, 12, 13, 4, 3, 3, 3, 2, 1, 0, 3)},  // rows and columns that fill no window
      {shape_of(1, 2, 5, 5, 3, 3, 3, 1, 1, 9, 7, 2)},
      {shape_of(20, 1, 4, 4, 2, 2, 2, 1, 1, 0, 0, 1)},
      {shape_of(0, 3, 9, 9, 4, 3, 3, 1, 1, 1, 1, 2)},
      {shape_of(2, 3, 0, 3, 4, 3, 3, 1, 1, 2, 1, 1)},  // nothing but padding
      {shape_of(2, 3, 6, 6, 4, 3, 3, 1, 1, 1, 1, 2), 1e15},
      {shape_of(2, 3, 6, 6, 4, 3, 3, 1, 1, 1, 1, 2), 1e18, 1e-6},
      {shape_of(2, 3, 6, 6, 4, 3, 3, 1, 1, 1, 1, 2), 1e-30, 1e-6},
      {shape_of(2, 3, 6, 6, 4, 3, 3, 1, 1, 1, 1, 2), 0},
  };
}

template <class T>
void check_all_cases() {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  on_every_instruction_set([&] {
    for (const Case& c : cases()) check_against_oracle<T>(c, random);
  });
}

}  // namespace

TEST(agrees_with_the_oracle_in_float) { check_all_cases<float>(); }
TEST(agrees_with_the_oracle_in_double) { check_all_cases<double>(); }

TEST(nothing_gives_gradients_of_zero) {
  Random random(1);
  const Inputs<float> in(shape_of(0, 3, 9, 9, 4, 3, 3, 1, 1, 1, 1, 2), random);
  const Outputs<float> out = run(in, Threads(2));
  CHECK(out.y.empty() && out.grad_x.empty());
  for (const auto* gradient : {&out.grad_weight, &out.grad_bias, &out.grad_beta, &out.grad_gamma}) {
    CHECK(!gradient->empty() && *gradient == std::vector<float>(gradient->size(), 0.0F));
  }
}

TEST(ties_go_to_the_first_and_nan_wins) {
  // A 1 x 1 convolution of weight 1 and a GDN of beta 1, gamma 0: what is pooled is the input itself.
  Inputs<float> in = [] {
    Random random(1);
    return Inputs<float>(shape_of(1, 1, 4, 6, 1, 1, 1, 1, 1, 0, 0, 2), random);
  }();
  in.weight = {1};
  in.bias = {0};
  in.beta = {1};
  in.gamma = {0};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  in.x = {3, 3, 1, 2, 5, nan,  //
          3, 3, 2, 2, 6, 7,    //
          0, 0, 9, 8, 4, 1,    //
          0, 1, 9, 9, 4, 4};
  in.grad = {1, 2, 3, 4, 5, 6};
  const Outputs<float> out = run(in, Serial());
  CHECK(out.y[0] == 3 && out.y[1] == 2 && std::isnan(out.y[2]) && out.y[3] == 1 && out.y[4] == 9 && out.y[5] == 4);
  const std::vector<float> want{1, 0, 0, 2, 0, nan,  //
                                0, 0, 0, 0, 0, 0,    //
                                0, 0, 5, 0, 6, 0,    //
                                0, 4, 0, 0, 0, 0};
  for (size_t i = 0; i < want.size(); ++i) {
    INFO("pixel " << i);
    CHECK(std::isnan(want[i]) ? std::isnan(out.grad_x[i]) : out.grad_x[i] == want[i]);
  }
}

// As in test_gdn.cpp; the steps are too small to change which element of a window is the largest.
TEST(gradients_are_those_of_the_forward) {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  for (;;) {
    Inputs<double> in(shape_of(2, 2, 5, 6, 3, 2, 3, 1, 2, 1, 1, 2), random, 1, 1);
    const Outputs<double> analytic = run(in, Serial());
    auto loss = [&] {
      const auto y = run(in, Serial()).y;
      double sum = 0;
      for (size_t i = 0; i < y.size(); ++i) sum += in.grad[i] * y[i];
      return sum;
    };
    constexpr double kStep = 0x1p-12;
    // Unpooled, to see how far apart the two largest of each window are: an input moves an output by less than 4 times
    // as much.
    Inputs<double> flat = in;
    flat.s.pool = 1;
    flat.grad.resize(static_cast<size_t>(flat.s.batch * 3 * flat.s.out_h() * flat.s.out_w()));
    const auto all = run(flat, Serial()).y;
    double gap = 1;
    for (size_t plane = 0; plane < 6; ++plane) {
      for (int64_t row = 0; row < in.s.out_h(); ++row) {
        for (int64_t column = 0; column < in.s.out_w(); ++column) {
          std::vector<double> window;
          for (int64_t k = 0; k < 4; ++k) {
            const int64_t h = 2 * row + k / 2, w = 2 * column + k % 2;
            window.push_back(all[plane * static_cast<size_t>(flat.s.out_h() * flat.s.out_w()) +
                                 static_cast<size_t>(h * flat.s.out_w() + w)]);
          }
          std::sort(window.begin(), window.end());
          gap = std::min(gap, window[3] - window[2]);
        }
      }
    }
    if (gap < 8 * kStep) continue;

    double magnitude = 0;
    for (size_t i = 0; i < in.grad.size(); ++i) magnitude += std::abs(in.grad[i] * analytic.y[i]);
    const double rounding = 2 * magnitude * static_cast<double>(in.grad.size() + 30) * 0x1p-53;
    auto check = [&](std::vector<double>& values, const std::vector<double>& gradient) {
      for (size_t i = 0; i < values.size(); ++i) {
        const double at = values[i];
        auto slope = [&](double step) {
          values[i] = at + step;
          const double up = loss();
          values[i] = at - step;
          const double down = loss();
          values[i] = at;
          return (up - down) / ((at + step) - (at - step));
        };
        const double coarse = slope(kStep), fine = slope(kStep / 2);
        CHECK_CLOSE(gradient[i], fine, std::abs(coarse - fine) + rounding / kStep * 2);
      }
    };
    check(in.x, analytic.grad_x);
    check(in.weight, analytic.grad_weight);
    check(in.bias, analytic.grad_bias);
    check(in.beta, analytic.grad_beta);
    check(in.gamma, analytic.grad_gamma);
    return;
  }
}

namespace {

void check_crops(int64_t height, int64_t width, const ConvShape& s, Random& random) {
  INFO("batch " << s.batch << ", output channels " << s.out_channels << ", pool " << s.pool);
  const auto image = random.bytes(height * width * s.in_channels);
  Inputs<float> in(s, random);
  std::vector<int64_t> boxes;
  in.x.clear();
  for (int64_t k = 0; k < s.batch; ++k) {
    // The first and last touch the corners.
    const int64_t x0 = k == 0 ? 0 : k == s.batch - 1 ? width - s.in_w : random.integer(0, width - s.in_w);
    const int64_t y0 = k == 0 ? 0 : k == s.batch - 1 ? height - s.in_h : random.integer(0, height - s.in_h);
    boxes.insert(boxes.end(), {x0, y0, x0 + s.in_w, y0 + s.in_h});
    for (int64_t c = 0; c < s.in_channels; ++c) {
      for (int64_t y = y0; y < y0 + s.in_h; ++y) {
        for (int64_t x = x0; x < x0 + s.in_w; ++x) {
          in.x.push_back(image[static_cast<size_t>((y * width + x) * s.in_channels + c)]);
        }
      }
    }
  }
  const Outputs<float> want = run(in, Serial(), false);
  const CropInput crops{image.data(), width, boxes.data()};
  for (const int threads : {1, 3}) {
    for (const bool keep : {false, true}) {
      Outputs<float> got(in);
      Kept<float> kept(keep ? meon::cpu::crop_kept_numel<float>(s) : 0);
      meon::cpu::crop_conv_gdn_pool_forward<float>(
          {s, crops, in.weight.data(), in.bias.data(), in.beta.data(), in.gamma.data(), got.y.data(), kept.data()},
          Threads(threads));
      meon::cpu::crop_conv_gdn_pool_backward<float>(
          {s, crops, in.grad.data(), in.weight.data(), in.bias.data(), in.beta.data(), in.gamma.data(),
           got.grad_weight.data(), got.grad_bias.data(), got.grad_beta.data(), got.grad_gamma.data(), kept.data()},
          Threads(threads));
      CHECK(got.same_parameters(want));
    }
  }
}

}  // namespace

// Crops read where they lie give, to the bit, what the same crops give when they are cut out first.
TEST(crops_equal_tensors) {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  on_every_instruction_set([&] {
    check_crops(19, 23, shape_of(6, 3, 9, 11, 8, 5, 5, 2, 2, 2, 2, 2), random);
    check_crops(19, 23, shape_of(4, 3, 9, 11, 5, 2, 3, 1, 3, 4, 5, 1), random);
    check_crops(19, 23, shape_of(2, 1, 19, 23, 4, 3, 3, 1, 1, 1, 1, 3), random);
    check_crops(19, 23, shape_of(0, 3, 9, 11, 8, 5, 5, 2, 2, 2, 2, 2), random);
    // Wider than a vector of pooled columns, so that columns share taps; of bytes by fours, and not.
    check_crops(17, 67, shape_of(3, 3, 14, 64, 8, 5, 5, 2, 2, 2, 2, 2), random);
    check_crops(12, 36, shape_of(2, 3, 12, 36, 16, 5, 5, 2, 2, 2, 2, 2), random);
    check_crops(13, 70, shape_of(3, 3, 9, 66, 8, 5, 5, 2, 2, 2, 2, 2), random);
    check_crops(13, 70, shape_of(3, 2, 9, 68, 8, 5, 5, 2, 2, 2, 2, 2), random);
  });
}

int main(int argc, char** argv) { return meon::test::run(argc, argv); }
