// GDN alone, against the simplest loops.
#include <vector>

#include "cpu/kernels.h"
#include "inputs.h"
#include "oracle.h"

using meon::GdnShape;
using meon::Serial;
using meon::Threads;
using meon::test::agrees;
using meon::test::fresh_seed;
using meon::test::GdnOracle;
using meon::test::on_every_instruction_set;
using meon::test::Random;
using meon::test::same_bits;

namespace {

struct Case {
  int64_t N, C, S;
  double scale = 1, beta = 0.1;
};

template <class T>
struct Inputs {
  Inputs(const Case& c, Random& random)
      : N(c.N),
        C(c.C),
        S(c.S),
        x(random.normal<T>(N * C * S, c.scale)),
        beta(random.uniform<T>(C, c.beta, 2 * c.beta)),
        gamma(random.gamma<T>(C)),
        grad(random.normal<T>(N * C * S)) {}

  GdnShape shape(bool channels_last) const {
    return {
        .batch = N, .channels = C, .spatial = S, .stride_c = channels_last ? 1 : S, .stride_s = channels_last ? C : 1};
  }

  // [N, C, S] <-> [N, S, C]
  std::vector<T> swapped(const std::vector<T>& from, bool to_last) const {
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

  int64_t N, C, S;
  std::vector<T> x, beta, gamma, grad;
};

template <class T>
struct Outputs {
  std::vector<T> y, grad_x, grad_beta, grad_gamma;
  bool operator==(const Outputs& o) const {
    return same_bits(y, o.y) && same_bits(grad_x, o.grad_x) && same_bits(grad_beta, o.grad_beta) &&
           same_bits(grad_gamma, o.grad_gamma);
  }
};

// What the kernels write, in [N, C, S] order; whatever they leave out stays -7.
template <class T>
Outputs<T> run(const Inputs<T>& in, const meon::Parallel& parallel, bool channels_last = false) {
  const std::vector<T> x = channels_last ? in.swapped(in.x, true) : in.x;
  const std::vector<T> grad = channels_last ? in.swapped(in.grad, true) : in.grad;
  Outputs<T> out{std::vector<T>(x.size(), T(-7)), std::vector<T>(x.size(), T(-7)),
                 std::vector<T>(in.beta.size(), T(-7)), std::vector<T>(in.gamma.size(), T(-7))};
  const GdnShape shape = in.shape(channels_last);
  meon::cpu::gdn_forward<T>({shape, x.data(), in.beta.data(), in.gamma.data(), out.y.data()}, parallel);
  meon::cpu::gdn_backward<T>({shape, grad.data(), x.data(), in.beta.data(), in.gamma.data(), out.grad_x.data(),
                              out.grad_beta.data(), out.grad_gamma.data()},
                             parallel);
  if (channels_last) {
    out.y = in.swapped(out.y, false);
    out.grad_x = in.swapped(out.grad_x, false);
  }
  return out;
}

template <class T>
void check_against_oracle(const Case& c, Random& random) {
  INFO("N " << c.N << ", C " << c.C << ", S " << c.S << ", scale " << c.scale << ", " << sizeof(T) << " bytes");
  const Inputs<T> in(c, random);
  const GdnOracle<T> oracle{
      c.N, c.C, c.S, meon::test::bounded(in.x), meon::test::bounded(in.beta), meon::test::bounded(in.gamma)};
  const auto y = oracle.forward();
  const auto gradients = oracle.backward(in.grad);
  const Outputs<T> got = run(in, Serial());
  for (size_t i = 0; i < y.size(); ++i) agrees(got.y[i], y[i]);
  for (size_t i = 0; i < y.size(); ++i) agrees(got.grad_x[i], gradients.x[i]);
  for (size_t i = 0; i < in.beta.size(); ++i) agrees(got.grad_beta[i], gradients.beta[i]);
  for (size_t i = 0; i < in.gamma.size(); ++i) agrees(got.grad_gamma[i], gradients.gamma[i]);

  CHECK(run(in, Serial(), true) == got);  // channels_last: the same bits
  for (const int threads : {1, 2, 3, 8}) CHECK(run(in, Threads(threads)) == got);
}

constexpr Case kCases[] = {
    {2, 8, 35},
    {1, 1, 1},
    {3, 1, 5},
    {2, 3, 64},
    {1, 5, 65},
    {2, 17, 129},
    {1, 64, 33},
    {1, 128, 9},
    {7, 3, 1},
    {40, 2, 65},
    {2, 4, 9, 1e15},
    {2, 4, 9, 1e18},
    {2, 4, 9, 1e-30},
    {2, 4, 9, 0},
    {0, 3, 5},
    {2, 3, 0},
    {2, 0, 5},
    {2, 4, 9, 1, 1e-6},
    {2, 4, 9, 1e18, 1e-6},
    {2, 4, 9, 0, 1e-6},
};

}  // namespace

TEST(agrees_with_the_oracle_in_float) {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  on_every_instruction_set([&] {
    for (const Case& c : kCases) check_against_oracle<float>(c, random);
  });
}

TEST(agrees_with_the_oracle_in_double) {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  on_every_instruction_set([&] {
    for (const Case& c : kCases) check_against_oracle<double>(c, random);
  });
}

TEST(nothing_gives_gradients_of_zero) {
  Random random(1);
  for (const Case& c : {Case{0, 3, 5}, Case{2, 3, 0}}) {
    const auto out = run(Inputs<float>(c, random), Threads(2));
    CHECK(out.grad_beta == std::vector<float>(3, 0.0F));
    CHECK(out.grad_gamma == std::vector<float>(9, 0.0F));
  }
}

// Central differences of sum(grad * y) at two steps. Their error falls with the square of the step, so that of the
// smaller is a third of their difference; the rest is rounding: of the sums, over the step.
TEST(gradients_are_those_of_the_forward) {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  Inputs<double> in({2, 3, 4, 1, 1}, random);
  const Outputs<double> analytic = run(in, Serial());
  auto loss = [&] {
    const auto y = run(in, Serial()).y;
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += in.grad[i] * y[i];
    return sum;
  };
  double magnitude = 0;
  for (size_t i = 0; i < in.grad.size(); ++i) magnitude += std::abs(in.grad[i] * analytic.y[i]);
  const double rounding = 2 * magnitude * static_cast<double>(in.grad.size() + 8) * 0x1p-53;
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
      constexpr double kStep = 0x1p-10;
      const double coarse = slope(kStep), fine = slope(kStep / 2);
      CHECK_CLOSE(gradient[i], fine, std::abs(coarse - fine) + rounding / kStep * 2);
    }
  };
  check(in.x, analytic.grad_x);
  check(in.beta, analytic.grad_beta);
  check(in.gamma, analytic.grad_gamma);
}

int main(int argc, char** argv) { return meon::test::run(argc, argv); }
