// GDN with max-pool in one kernel, in every memory layout of its two sides, against the simplest loops.
#include <algorithm>
#include <vector>

#include "cpu/gdn_tiles.h"
#include "cpu/kernels.h"
#include "inputs.h"
#include "oracle.h"

using meon::GdnPoolShape;
using meon::Serial;
using meon::Threads;
using meon::test::agrees;
using meon::test::bounded;
using meon::test::fresh_seed;
using meon::test::on_every_instruction_set;
using meon::test::PooledGdnOracle;
using meon::test::Random;
using meon::test::same_bits;

namespace {

struct Case {
  int64_t N, C, H, W, pool;
  double scale = 1, beta = 0.1;
};

template <class T>
struct Inputs {
  Inputs(const Case& c, Random& random)
      : s{.batch = c.N, .channels = c.C, .height = c.H, .width = c.W, .pool = c.pool},
        x(random.normal<T>(c.N * c.C * c.H * c.W, c.scale)),
        beta(random.uniform<T>(c.C, c.beta, 2 * c.beta)),
        gamma(random.gamma<T>(c.C)),
        grad(random.normal<T>(c.N * c.C * s.out_h() * s.out_w())) {}

  GdnPoolShape s;
  std::vector<T> x, beta, gamma, grad;
};

template <class T>
struct Outputs {
  std::vector<T> y, grad_x, grad_beta, grad_gamma;
};

// [N, C, S] -> [N, S, C], or back.
template <class T>
std::vector<T> swapped(const std::vector<T>& from, int64_t N, int64_t C, bool to_last) {
  const int64_t S = N * C == 0 ? 0 : static_cast<int64_t>(from.size()) / (N * C);
  std::vector<T> out(from.size());
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t c = 0; c < C; ++c) {
      for (int64_t s = 0; s < S; ++s) {
        const auto planar = static_cast<size_t>((n * C + c) * S + s), last = static_cast<size_t>((n * S + s) * C + c);
        out[to_last ? last : planar] = from[to_last ? planar : last];
      }
    }
  }
  return out;
}

// What the kernels write, in planar order; whatever they leave out stays -7.
template <class T>
Outputs<T> run(const Inputs<T>& in, bool x_last, bool y_last, const meon::Parallel& parallel) {
  GdnPoolShape s = in.s;
  s.x_channels_last = x_last;
  s.y_channels_last = y_last;
  const auto x = x_last ? swapped(in.x, s.batch, s.channels, true) : in.x;
  const auto grad = y_last ? swapped(in.grad, s.batch, s.channels, true) : in.grad;
  Outputs<T> out{std::vector<T>(grad.size(), T(-7)), std::vector<T>(x.size(), T(-7)),
                 std::vector<T>(in.beta.size(), T(-7)), std::vector<T>(in.gamma.size(), T(-7))};
  meon::cpu::gdn_pool_forward<T>({s, x.data(), in.beta.data(), in.gamma.data(), out.y.data()}, parallel);
  meon::cpu::gdn_pool_backward<T>({s, grad.data(), x.data(), in.beta.data(), in.gamma.data(), out.grad_x.data(),
                                   out.grad_beta.data(), out.grad_gamma.data()},
                                  parallel);
  if (y_last) out.y = swapped(out.y, s.batch, s.channels, false);
  if (x_last) out.grad_x = swapped(out.grad_x, s.batch, s.channels, false);
  return out;
}

template <class T>
void check_against_oracle(const Case& c, Random& random) {
  INFO(c.N << " x " << c.C << " x " << c.H << " x " << c.W << ", pool " << c.pool << ", scale " << c.scale << ", "
           << sizeof(T) << " bytes");
  Inputs<T> in(c, random);
  const PooledGdnOracle<T> oracle({c.N, c.C, c.H * c.W, bounded(in.x), bounded(in.beta), bounded(in.gamma)}, c.H, c.W,
                                  c.pool);
  // Where rounding decides which element of a pool window is the largest, the gradient may go to either of two.
  const std::vector<bool> decided = oracle.decided();
  for (size_t i = 0; i < in.grad.size(); ++i) in.grad[i] = decided[i] ? in.grad[i] : T(0);
  const auto y = oracle.forward();
  const auto gradients = oracle.backward(in.grad);
  auto check = [](const std::vector<T>& kernel, const meon::test::Tensor<T>& want) {
    REQUIRE(kernel.size() == want.size());
    for (size_t i = 0; i < want.size(); ++i) agrees(kernel[i], want[i]);
  };
  for (const bool x_last : {false, true}) {
    for (const bool y_last : {false, true}) {
      INFO("x channels last: " << x_last << ", y channels last: " << y_last);
      const Outputs<T> got = run(in, x_last, y_last, Serial());
      check(got.y, y);
      check(got.grad_x, gradients.x);
      check(got.grad_beta, gradients.beta);
      check(got.grad_gamma, gradients.gamma);
      for (const int threads : {2, 3, 8}) {
        const Outputs<T> again = run(in, x_last, y_last, Threads(threads));
        CHECK(same_bits(again.y, got.y) && same_bits(again.grad_x, got.grad_x));
        CHECK(same_bits(again.grad_beta, got.grad_beta) && same_bits(again.grad_gamma, got.grad_gamma));
      }
    }
  }
}

constexpr Case kCases[] = {
    {2, 8, 6, 8, 2},
    {1, 1, 1, 1, 1},
    {3, 5, 7, 9, 2},  // rows and columns that fill no window
    {2, 3, 9, 10, 3},
    {1, 17, 9, 8, 2},
    {1, 40, 8, 6, 2},
    {2, 4, 5, 7, 1},
    {1, 3, 33, 35, 2},
    {1, 2, 2 * meon::cpu::kGdnMaxPool, meon::cpu::kGdnMaxPool, meon::cpu::kGdnMaxPool},
    {0, 3, 6, 6, 2},
    {2, 4, 6, 6, 2, 1e18, 1e-6},
    {2, 4, 6, 6, 2, 1e-30, 1e-6},
};

template <class T>
void check_all_cases() {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  on_every_instruction_set([&] {
    for (const Case& c : kCases) check_against_oracle<T>(c, random);
  });
}

// Where all pixels are equal, the gradient goes to the first of each window, as in torch's max_pool2d; the oracle's
// cases leave out what rounding might decide, and ties with it.
template <class T>
void check_ties() {
  Random random(1);
  for (const int64_t pool : {2, 3}) {
    Inputs<T> in({2, 5, 3 * pool + 1, 4 * pool, pool}, random);
    std::fill(in.x.begin(), in.x.end(), T(2));
    std::fill(in.gamma.begin(), in.gamma.end(), T(0));
    for (T& g : in.grad) g = T(1);
    on_every_instruction_set([&] {
      for (const bool last : {false, true}) {
        INFO("pool " << pool << ", channels last: " << last << ", " << sizeof(T) << " bytes");
        const Outputs<T> got = run(in, last, last, Serial());
        for (size_t i = 0; i < got.grad_x.size(); ++i) {
          const int64_t at = static_cast<int64_t>(i) % (in.s.height * in.s.width);
          const int64_t row = at / in.s.width, column = at % in.s.width;
          const bool first = row % pool == 0 && column % pool == 0 && row < in.s.out_h() * pool;
          CHECK((got.grad_x[i] != T(0)) == first);
        }
      }
    });
  }
}

}  // namespace

TEST(ties_go_to_the_first) {
  check_ties<float>();
  check_ties<double>();
}

TEST(agrees_with_the_oracle_in_float) { check_all_cases<float>(); }
TEST(agrees_with_the_oracle_in_double) { check_all_cases<double>(); }

TEST(nothing_gives_gradients_of_zero) {
  Random random(1);
  const auto out = run(Inputs<float>({0, 3, 6, 6, 2}, random), false, false, Threads(2));
  CHECK(out.y.empty() && out.grad_x.empty());
  CHECK(out.grad_beta == std::vector<float>(3, 0.0F));
  CHECK(out.grad_gamma == std::vector<float>(9, 0.0F));
}

int main(int argc, char** argv) { return meon::test::run(argc, argv); }
