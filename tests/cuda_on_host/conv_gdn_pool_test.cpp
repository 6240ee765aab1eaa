// The fused stages' kernels and launchers, run on the host, against the oracle that the CPU kernels are tested with: in
// float64, with a bound on the rounding of every step. float16 and bfloat16 are summed in float, so that the bound is
// that of float, with half a unit in the last place of the stored type on top.
#include "cuda/conv_gdn_pool.cu"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cuda/conv_gdn_pool_backward.cu"
#include "device.h"
#include "native/inputs.h"
#include "native/oracle.h"

namespace {

using cuda_on_host::Buffer;
using cuda_on_host::check_value;
using cuda_on_host::Format;
using cuda_on_host::in_both_orders;
using cuda_on_host::same_bits;
using cuda_on_host::SparseBuffer;
using meon::ConvShape;
using meon::cuda::Splits;
using meon::test::fresh_seed;
using meon::test::Random;
using meon::test::StageOracle;

// ---- one problem ----

// A stage of MEON (0 to 3) for inputs of any size.
ConvShape shape_of(int stage, int64_t batch, int64_t height, int64_t width) {
  ConvShape s = meon::stage_shape(meon::kStages[static_cast<size_t>(stage)], batch, height);
  s.in_w = width;
  return s;
}

// As the type holds them: the oracle is given what the kernels are given.
template <class T>
std::vector<float> rounded(std::vector<float> values) {
  for (float& v : values) v = static_cast<float>(Format<T>::to(Format<T>::from(v)));
  return values;
}

template <class T>
struct Inputs {
  Inputs(const ConvShape& shape, Random& random, double scale = 1, double least_beta = 0.1)
      : s(shape),
        x(rounded<T>(random.normal<float>(s.batch * s.in_channels * s.in_h * s.in_w, scale))),
        weight(rounded<T>(random.normal<float>(
            s.weight_numel(), 1 / std::sqrt(static_cast<double>(s.in_channels * s.kernel_h * s.kernel_w))))),
        bias(rounded<T>(random.normal<float>(s.out_channels, 0.1 * scale))),
        beta(rounded<T>(random.uniform<float>(s.out_channels, least_beta, 2 * least_beta))),
        gamma(rounded<T>(random.gamma<float>(s.out_channels))),
        grad(rounded<T>(random.normal<float>(s.batch * s.out_channels * s.out_h() * s.out_w()))) {}

  StageOracle<float> oracle() const { return {s, x, weight, bias, beta, gamma}; }

  ConvShape s;
  std::vector<float> x, weight, bias, beta, gamma, grad;
};

template <class T>
struct Device {
  explicit Device(const std::vector<float>& values) : buffer(static_cast<int64_t>(values.size())) {
    for (size_t i = 0; i < values.size(); ++i) buffer[static_cast<int64_t>(i)] = Format<T>::from(values[i]);
  }
  T* data() { return buffer.data(); }
  Buffer<T> buffer;
};

// What the kernels write; whatever they leave out stays NaN.
template <class T>
struct Outputs {
  explicit Outputs(const ConvShape& s)
      : y(s.batch * s.out_channels * s.out_h() * s.out_w()),
        grad_x(s.batch * s.in_channels * s.in_h * s.in_w),
        grad_weight(s.weight_numel()),
        grad_bias(s.out_channels),
        grad_beta(s.out_channels),
        grad_gamma(s.out_channels * s.out_channels) {}
  bool same_parameters(Outputs& o) {
    return same_bits(y, o.y) && same_bits(grad_weight, o.grad_weight) && same_bits(grad_bias, o.grad_bias) &&
           same_bits(grad_beta, o.grad_beta) && same_bits(grad_gamma, o.grad_gamma);
  }
  bool operator==(Outputs& o) { return same_parameters(o) && same_bits(grad_x, o.grad_x); }

  Buffer<T> y, grad_x, grad_weight, grad_bias, grad_beta, grad_gamma;
};

template <class T>
void forward(const Inputs<T>& in, Buffer<T>& y) {
  Device<T> x(in.x), weight(in.weight), bias(in.bias), beta(in.beta), gamma(in.gamma);
  CHECK(meon::cuda::conv_gdn_pool_forward<T>(
            {in.s, x.data(), weight.data(), bias.data(), beta.data(), gamma.data(), y.data()}, nullptr)
            .error == cudaSuccess);
}

template <class T>
Outputs<T> run(const Inputs<T>& in, bool input_grad = true) {
  Outputs<T> out(in.s);
  forward(in, out.y);
  Device<T> x(in.x), weight(in.weight), bias(in.bias), beta(in.beta), gamma(in.gamma), grad(in.grad);
  Buffer<char> workspace(static_cast<int64_t>(meon::cuda::conv_gdn_pool_backward_workspace(in.s)));
  CHECK(meon::cuda::conv_gdn_pool_backward<T>(
            {in.s, grad.data(), x.data(), weight.data(), bias.data(), beta.data(), gamma.data(),
             input_grad ? out.grad_x.data() : nullptr, out.grad_weight.data(), out.grad_bias.data(),
             out.grad_beta.data(), out.grad_gamma.data()},
            workspace.data(), nullptr)
            .error == cudaSuccess);
  return out;
}

template <class T>
void check_all(Buffer<T>& got, const meon::test::Tensor<float>& want) {
  REQUIRE(got.size() == static_cast<int64_t>(want.size()));
  for (int64_t i = 0; i < got.size(); ++i) {
    const auto& w = want[static_cast<size_t>(i)];
    if constexpr (std::is_same_v<T, float>) {
      meon::test::agrees(got[i], w);
    } else {
      check_value<T>(got[i], w.value, w.error);
    }
  }
}

template <class T>
void check_gradients(Outputs<T>& got, const StageOracle<float>::Gradients& want) {
  check_all(got.grad_x, want.x);
  check_all(got.grad_weight, want.weight);
  check_all(got.grad_bias, want.bias);
  check_all(got.grad_beta, want.beta);
  check_all(got.grad_gamma, want.gamma);
}

template <class T>
void check_against_oracle(const ConvShape& s, Random& random, double scale = 1, double least_beta = 0.1) {
  INFO(s.batch << " x " << s.in_channels << " x " << s.in_h << " x " << s.in_w << ", scale " << scale);
  Inputs<T> in(s, random, scale, least_beta);
  const StageOracle<float> oracle = in.oracle();
  // Where rounding decides which element of a window is the largest, the gradient may go to either of two.
  const std::vector<bool> decided = oracle.decided();
  for (size_t i = 0; i < in.grad.size(); ++i) in.grad[i] = decided[i] ? in.grad[i] : 0;
  Outputs<T> got = run(in);
  check_all(got.y, oracle.forward());
  check_gradients(got, oracle.backward(in.grad));
}

template <class F>
void for_every_type(F&& f) {
  const auto named = [&](const char* name, auto type) {
    INFO("type " << name);
    f(type);
  };
  named("float", float{});
  named("half", __half{});
  named("bfloat16", __nv_bfloat16{});
}

// One tile and several, none of them full, odd sides, sides that leave a row or column over, the smallest that there
// is.
std::vector<ConvShape> shapes() {
  return {shape_of(0, 2, 13, 15), shape_of(0, 1, 5, 70),  shape_of(0, 1, 67, 6), shape_of(0, 3, 3, 3),
          shape_of(1, 2, 11, 9),  shape_of(1, 1, 35, 37), shape_of(2, 2, 7, 6),  shape_of(2, 1, 20, 19),
          shape_of(3, 11, 4, 4),  shape_of(3, 3, 5, 7)};
}

TEST(forward_and_backward_match_the_oracle) {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  for (const ConvShape& s : shapes()) {
    cuda_on_host::options().reverse = random.integer(0, 1) == 1;
    check_against_oracle<float>(s, random);
  }
  cuda_on_host::options().reverse = false;
}

TEST(float16_and_bfloat16_match_the_oracle) {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  for_every_type([&](auto type) {
    using T = decltype(type);
    if constexpr (!std::is_same_v<T, float>) {
      for (const int stage : {0, 1, 2, 3}) check_against_oracle<T>(shape_of(stage, 2, 7, 9), random);
    }
  });
}

TEST(huge_and_tiny_values_and_beta_at_its_floor) {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  for (const int stage : {0, 1, 2, 3}) {
    const ConvShape s = shape_of(stage, 2, 6, 5);
    check_against_oracle<float>(s, random, 1e15);
    check_against_oracle<float>(s, random, 1e17, 1e-6);
    check_against_oracle<float>(s, random, 1e-30, 1e-6);
    check_against_oracle<float>(s, random, 0);
    check_against_oracle<float>(s, random, 1, 0);  // in windows that are not there the norm is 0
  }
}

TEST(no_samples_give_zero_gradients) {
  Random random(1);
  for (const int stage : {0, 1, 2, 3}) {
    const Inputs<float> in(shape_of(stage, 0, 9, 8), random);
    Outputs<float> out = run(in);
    CHECK(out.y.size() == 0 && out.grad_x.size() == 0);
    for (auto* gradient : {&out.grad_weight, &out.grad_bias, &out.grad_beta, &out.grad_gamma}) {
      CHECK(gradient->size() > 0);
      for (int64_t i = 0; i < gradient->size(); ++i) CHECK((*gradient)[i] == 0);
    }
  }
}

// Small whole numbers, of which every sum is exact: equal elements of a window are equal to the bit, here and in the
// oracle, and then the first of them gets the gradient. All inputs are 1 but one, so that most windows are like that.
TEST(ties_go_to_the_first) {
  Random random(3);
  for (const int stage : {0, 1, 2, 3}) {
    Inputs<float> in(shape_of(stage, 1, 20, 21), random);
    INFO("stage " << stage + 1);
    std::fill(in.x.begin(), in.x.end(), 1.0F);
    in.x[77] = 3;
    for (float& v : in.weight) v = static_cast<float>(random.integer(-1, 1));
    for (float& v : in.bias) v = 1;
    for (float& v : in.beta) v = 1;
    for (float& v : in.gamma) v = static_cast<float>(random.integer(0, 2)) / 4;
    const StageOracle<float> oracle = in.oracle();
    const std::vector<bool> decided = oracle.decided();
    CHECK(std::count(decided.begin(), decided.end(), false) > 20);
    Outputs<float> got = run(in);
    check_all(got.y, oracle.forward());
    check_gradients(got, oracle.backward(in.grad));
  }
}

TEST(nan_wins_its_windows_and_no_others) {
  Random random(4);
  for (const int stage : {0, 1, 2, 3}) {
    INFO("stage " << stage + 1);
    Inputs<float> in(shape_of(stage, 2, 30, 29), random);
    const ConvShape& s = in.s;
    Outputs<float> before(s), after(s);
    forward(in, before.y);
    constexpr int64_t kRow = 13, kColumn = 14;
    in.x[static_cast<size_t>(((s.in_channels + 1) * s.in_h + kRow) * s.in_w + kColumn)] =
        std::numeric_limits<float>::quiet_NaN();
    forward(in, after.y);
    // Window i reads inputs from i * step - pad on.
    const int64_t step = s.stride_h * 2, span = s.stride_h + s.kernel_h;
    const auto reads = [&](int64_t window, int64_t at) {
      return at >= window * step - s.pad_h && at < window * step - s.pad_h + span;
    };
    int64_t hit = 0;
    for (int64_t i = 0; i < after.y.size(); ++i) {
      const int64_t column = i % s.out_w(), row = i / s.out_w() % s.out_h();
      const bool second = i >= after.y.size() / 2;
      const bool nan = second && reads(row, kRow) && reads(column, kColumn);
      hit += nan;
      CHECK(nan ? std::isnan(after.y[i]) : after.y[i] == before.y[i]);
    }
    CHECK(hit >= s.out_channels);
  }
}

// ---- bits, not tolerances ----

TEST(every_run_gives_the_same_bits) {
  Random random(5);
  for (const int stage : {0, 1, 2, 3}) {
    const Inputs<float> in(shape_of(stage, 2, 7, 8), random);
    Outputs<float> first = run(in), without = run(in, false);
    in_both_orders([&] {
      Outputs<float> again = run(in);
      CHECK(first == again);
    });
    CHECK(first.same_parameters(without));
    for (int64_t i = 0; i < without.grad_x.size(); ++i) CHECK(std::isnan(without.grad_x[i]));  // not touched
  }
}

TEST(a_sample_gives_the_same_bits_alone_as_in_a_batch) {
  Random random(6);
  for (const int stage : {0, 1, 2, 3}) {
    INFO("stage " << stage + 1);
    Inputs<float> batch(shape_of(stage, 10, 7, 8), random), alone(shape_of(stage, 1, 7, 8), random);
    const auto last = [](const std::vector<float>& all, std::vector<float>& one) {
      std::copy(all.end() - static_cast<std::ptrdiff_t>(one.size()), all.end(), one.begin());
    };
    last(batch.x, alone.x);
    last(batch.grad, alone.grad);
    alone.weight = batch.weight, alone.bias = batch.bias, alone.beta = batch.beta, alone.gamma = batch.gamma;
    Outputs<float> of_batch = run(batch), of_alone = run(alone);
    const auto check_last = [](Buffer<float>& all, Buffer<float>& one) {
      const int64_t first = all.size() - one.size();
      for (int64_t i = 0; i < one.size(); ++i) CHECK(all[first + i] == one[i]);
    };
    check_last(of_batch.y, of_alone.y);
    check_last(of_batch.grad_x, of_alone.grad_x);
  }
}

template <int kStage>
void check_splits(Random& random) {
  INFO("stage " << kStage + 1);
  using meon::cuda::Workspace;
  Inputs<float> in(shape_of(kStage, kStage == 3 ? 17 : 3, 7, 8), random);
  const StageOracle<float> oracle = in.oracle();
  const std::vector<bool> decided = oracle.decided();
  for (size_t i = 0; i < in.grad.size(); ++i) in.grad[i] = decided[i] ? in.grad[i] : 0;
  const auto want = oracle.backward(in.grad);
  for (const Splits splits : {Splits{1, 2}, Splits{2, 1}}) {
    Outputs<float> got(in.s);
    Device<float> x(in.x), weight(in.weight), bias(in.bias), beta(in.beta), gamma(in.gamma), grad(in.grad);
    Buffer<char> workspace(static_cast<int64_t>(Workspace<kStage>(meon::cuda::stage_shape_of(in.s), splits).bytes()));
    const meon::ConvGdnPoolBackward<float> p{in.s,
                                             grad.data(),
                                             x.data(),
                                             weight.data(),
                                             bias.data(),
                                             beta.data(),
                                             gamma.data(),
                                             got.grad_x.data(),
                                             got.grad_weight.data(),
                                             got.grad_bias.data(),
                                             got.grad_beta.data(),
                                             got.grad_gamma.data()};
    CHECK(meon::cuda::backward_in_splits<float, kStage>(p, meon::cuda::planar_source(in.s, p.x), p.grad_x, splits,
                                                        workspace.data(), nullptr)
              .error == cudaSuccess);
    check_gradients(got, want);
  }
}

TEST(blocks_that_work_on_several_tiles) {
  Random random(7);
  check_splits<0>(random);
  check_splits<1>(random);
  check_splits<2>(random);
  check_splits<3>(random);
}

TEST(the_number_of_partial_sums_is_bounded) {
  const auto bytes_beside_dz = [](const ConvShape& s) {
    return static_cast<int64_t>(meon::cuda::conv_gdn_pool_backward_workspace(s)) -
           16 * s.batch * s.out_channels * s.out_h() * s.out_w();
  };
  for (const int stage : {0, 1, 2, 3}) {
    const int64_t side = int64_t{256} >> 2 * stage;
    CHECK(bytes_beside_dz(shape_of(stage, 1 << 20, side, side)) <= 32 << 20);
    CHECK(bytes_beside_dz(shape_of(stage, 1 << 20, side, side)) ==
          bytes_beside_dz(shape_of(stage, 1 << 21, side, side)));
  }
}

// ---- crops ----

struct Crops {
  static constexpr int64_t kHeight = 41, kWidth = 45;

  Crops(const ConvShape& s, Random& random) : image(kHeight * kWidth * 3), boxes(4 * s.batch) {
    const auto bytes = random.bytes(image.size());
    std::copy(bytes.begin(), bytes.end(), image.data());
    for (int64_t k = 0; k < s.batch; ++k) {
      // The first and last touch the corners.
      const int64_t x0 = k == 0 ? 0 : k == s.batch - 1 ? kWidth - s.in_w : random.integer(0, kWidth - s.in_w);
      const int64_t y0 = k == 0 ? 0 : k == s.batch - 1 ? kHeight - s.in_h : random.integer(0, kHeight - s.in_h);
      const int64_t box[4] = {x0, y0, x0 + s.in_w, y0 + s.in_h};
      std::copy_n(box, 4, boxes.data() + 4 * k);
    }
  }
  meon::CropInput input() { return {image.data(), kWidth, boxes.data(), kHeight}; }

  // [K, 3, h, w]
  std::vector<float> cut(const ConvShape& s) {
    std::vector<float> x;
    for (int64_t k = 0; k < s.batch; ++k) {
      for (int64_t c = 0; c < 3; ++c) {
        for (int64_t row = boxes[4 * k + 1]; row < boxes[4 * k + 3]; ++row) {
          for (int64_t column = boxes[4 * k]; column < boxes[4 * k + 2]; ++column) {
            x.push_back(image[(row * kWidth + column) * 3 + c]);
          }
        }
      }
    }
    return x;
  }

  Buffer<uint8_t> image;
  Buffer<int64_t> boxes;
};

template <class T>
Outputs<T> run_crops(const Inputs<T>& in, Crops& crops) {
  Outputs<T> out(in.s);
  Device<T> weight(in.weight), bias(in.bias), beta(in.beta), gamma(in.gamma), grad(in.grad);
  CHECK(meon::cuda::crop_conv_gdn_pool_forward<T>(
            {in.s, crops.input(), weight.data(), bias.data(), beta.data(), gamma.data(), out.y.data()}, nullptr)
            .error == cudaSuccess);
  Buffer<char> workspace(static_cast<int64_t>(meon::cuda::conv_gdn_pool_backward_workspace(in.s)));
  CHECK(meon::cuda::crop_conv_gdn_pool_backward<T>(
            {in.s, crops.input(), grad.data(), weight.data(), bias.data(), beta.data(), gamma.data(),
             out.grad_weight.data(), out.grad_bias.data(), out.grad_beta.data(), out.grad_gamma.data()},
            workspace.data(), nullptr)
            .error == cudaSuccess);
  return out;
}

// Crops read where they lie give, to the bit, what the same crops give when they are cut out first. A byte is exact in
// every type.
TEST(crops_equal_tensors) {
  Random random(8);
  for_every_type([&](auto type) {
    using T = decltype(type);
    for (const int64_t count : {4, 0}) {
      Inputs<T> in(shape_of(0, count, 21, 18), random);
      Crops crops(in.s, random);
      in.x = crops.cut(in.s);
      Outputs<T> want = run(in, false), got = run_crops(in, crops);
      CHECK(got.same_parameters(want));
    }
  });
}

TEST(a_bad_box_gives_nan_and_reads_nothing) {
  Random random(9);
  const Inputs<float> in(shape_of(0, 3, 9, 12), random);
  Crops good(in.s, random);
  Outputs<float> want = run_crops(in, good);
  constexpr int64_t kLast = std::numeric_limits<int64_t>::max();
  const int64_t width = Crops::kWidth, height = Crops::kHeight;
  const int64_t bad[][4] = {
      {-1, 0, 11, 9}, {0, -1, 12, 8}, {width - 11, 0, width + 1, 9}, {0, height - 8, 12, height + 1}, {0, 0, 11, 9},
      {0, 0, 12, 10}, {12, 9, 0, 0},  {kLast - 5, 0, kLast, 9},      {-kLast, -kLast, kLast, kLast}};
  for (const auto& box : bad) {
    INFO(box[0] << " " << box[1] << " " << box[2] << " " << box[3]);
    Crops crops(in.s, random);
    std::copy_n(good.image.data(), good.image.size(), crops.image.data());
    std::copy_n(good.boxes.data(), good.boxes.size(), crops.boxes.data());
    std::copy_n(box, 4, crops.boxes.data() + 4);
    Outputs<float> got = run_crops(in, crops);
    const int64_t each = got.y.size() / 3;
    for (int64_t i = 0; i < got.y.size(); ++i) CHECK(i / each == 1 ? std::isnan(got.y[i]) : got.y[i] == want.y[i]);
    for (int64_t i = 0; i < got.grad_weight.size(); ++i) CHECK(std::isnan(got.grad_weight[i]));
  }
}

// ---- sizes ----

TEST(only_the_stages_of_meon_are_taken) {
  for (const int stage : {0, 1, 2, 3}) {
    const ConvShape good = shape_of(stage, 2, 20, 30);
    CHECK(meon::cuda::has_fused_stage(good));
    for (int64_t ConvShape::* member :
         {&ConvShape::in_channels, &ConvShape::out_channels, &ConvShape::kernel_h, &ConvShape::kernel_w,
          &ConvShape::stride_h, &ConvShape::stride_w, &ConvShape::pad_h, &ConvShape::pad_w, &ConvShape::pool}) {
      ConvShape other = good;
      ++(other.*member);
      CHECK(!meon::cuda::has_fused_stage(other));
    }
    CHECK(meon::cuda::has_fused_stage(shape_of(stage, 2, 1 << 30, 30)));
    CHECK(!meon::cuda::has_fused_stage(shape_of(stage, 2, 20, (1 << 30) + 1)));
  }
}

// A tensor whose offsets need more than 32 bits, all zeros but in the last corner of its last sample, where it is as
// `in`: the block that this corner falls to must do, in every kernel, what it does for `in` alone. Only the last window
// has a gradient. So every sum over windows has the same terms in the same order, and zeros: the same bits.
template <int kStage>
void check_last_corner(int64_t batch, int64_t side, int64_t small_side) {
  using namespace meon::cuda;
  using Tile = StageTile<kStage>;
  using WeightTile = WeightGradientTile<kStage>;
  using InputTile = InputGradientTile<kStage>;
  INFO("stage " << kStage + 1);
  Random random(10);
  Inputs<float> in(shape_of(kStage, 1, small_side, small_side), random);
  const int64_t windows = in.s.out_h() * in.s.out_w();
  for (size_t i = 0; i < in.grad.size(); ++i) {
    if (static_cast<int64_t>(i + 1) % windows != 0) in.grad[i] = 0;
  }
  Outputs<float> want = run(in);

  const ConvShape large = shape_of(kStage, batch, side, side);
  const int64_t outputs = batch * large.out_channels * large.out_h() * large.out_w();
  REQUIRE(outputs > int64_t{1} << 31);
  SparseBuffer<float> x(batch * large.in_channels * side * side), grad_x(batch * large.in_channels * side * side);
  SparseBuffer<float> y(outputs), grad_y(outputs), dz(4 * outputs);
  // Where element i of small planes [C, small, small] lies in large ones, which end in them.
  const auto corner = [&](int64_t i, int64_t channels, int64_t small, int64_t of_large) {
    const int64_t c = i / (small * small), row = i / small % small, column = i % small, first = of_large - small;
    return (((batch - 1) * channels + c) * of_large + first + row) * of_large + first + column;
  };
  const auto in_x = [&](int64_t i) { return corner(i, in.s.in_channels, small_side, side); };
  const auto in_y = [&](int64_t i) { return corner(i, in.s.out_channels, in.s.out_h(), large.out_h()); };
  for (size_t i = 0; i < in.x.size(); ++i) x[in_x(static_cast<int64_t>(i))] = in.x[i];
  for (size_t i = 0; i < in.grad.size(); ++i) grad_y[in_y(static_cast<int64_t>(i))] = in.grad[i];

  Device<float> weight(in.weight), bias(in.bias), beta(in.beta), gamma(in.gamma);
  const StageShape s = stage_shape_of(large);
  const PlanarSource<float> source = planar_source(large, static_cast<const float*>(x.data()));
  const StageParameters<float> p{weight.data(), bias.data(), beta.data(), gamma.data()};
  const int64_t tiles = tile_count<Tile>(s), weight_tiles = tile_count<WeightTile>(s);
  constexpr int64_t kGdnPartial = gdn_partial_size(Tile::kOut), kWeightPartial = Workspace<kStage>::partial_size();
  SparseBuffer<float> gdn_partials(tiles * kGdnPartial), weight_partials(weight_tiles * kWeightPartial);
  const auto run_last = [&](auto kernel, int64_t blocks, int threads, auto... args) {
    cuda_on_host::options().only_block = uint3{static_cast<unsigned>(blocks - 1), 0, 0};
    CHECK(launch("", kernel, {blocks}, threads, nullptr, args...).error == cudaSuccess);
    cuda_on_host::options().only_block.reset();
  };
  run_last(conv_gdn_pool_kernel<float, kStage, PlanarSource<float>>, tiles, Tile::kThreads, s, source, p, y.data());
  run_last(stage_gdn_gradient_kernel<float, kStage, PlanarSource<float>>, tiles, Tile::kThreads, s, source, p,
           grad_y.data(), tiles, dz.data(), gdn_partials.data());
  run_last(stage_weight_gradient_kernel<kStage, PlanarSource<float>>, weight_tiles, WeightTile::kThreads, s, source,
           dz.data(), weight_tiles, weight_partials.data());
  run_last(stage_input_gradient_kernel<float, kStage>, input_tile_count<InputTile>(s), InputTile::kThreads, s,
           weight.data(), dz.data(), grad_x.data());

  for (int64_t i = 0; i < want.y.size(); ++i) CHECK(y[in_y(i)] == want.y[i]);
  for (int64_t i = 0; i < want.grad_x.size(); ++i) CHECK(grad_x[in_x(i)] == want.grad_x[i]);
  const float* sums = gdn_partials.data() + (tiles - 1) * kGdnPartial;
  for (int64_t i = 0; i < want.grad_gamma.size(); ++i) CHECK(*sums++ == want.grad_gamma[i]);
  for (int64_t i = 0; i < want.grad_beta.size(); ++i) CHECK(*sums++ == want.grad_beta[i]);
  sums = weight_partials.data() + (weight_tiles - 1) * kWeightPartial;  // of the first block of channels
  const int64_t weights = want.grad_weight.size() / WeightTile::kChannelBlocks;
  for (int64_t i = 0; i < weights; ++i) CHECK(sums[i] == want.grad_weight[i]);
}

TEST(offsets_beyond_32_bits) {
  check_last_corner<0>(2, 65536, 8);
  check_last_corner<3>(34'000'000, 4, 4);
}

TEST(a_grid_that_cuda_cannot_count_is_refused_by_name) {
  const ConvShape s = shape_of(0, int64_t{1} << 32, 8, 8);
  const meon::cuda::LaunchResult result = meon::cuda::conv_gdn_pool_forward<float>({s}, nullptr);
  CHECK(result.error == cudaErrorInvalidConfiguration);
  CHECK(std::string(result.kernel) == "conv_gdn_pool_kernel");
}

}  // namespace

int main(int argc, char** argv) { return meon::test::run(argc, argv); }
