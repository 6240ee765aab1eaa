// The heads' kernel and launcher, run on the host, against an oracle in float64 with a bound on the rounding of every
// step.
#include "cuda/heads.cu"

#include <algorithm>
#include <cmath>
#include <vector>

#include "device.h"
#include "native/inputs.h"
#include "native/oracle.h"

namespace {

using cuda_on_host::Buffer;
using cuda_on_host::in_both_orders;
using cuda_on_host::same_bits;
using meon::kFeatures;
using meon::kQualityHidden;
using meon::kTypeHidden;
using meon::test::agrees;
using meon::test::Bounded;
using meon::test::fresh_seed;
using meon::test::Random;

using Vector = meon::test::Tensor<float>;

struct Head {
  int64_t hidden, classes;
  std::vector<float> weight, bias, beta, gamma, out_weight, out_bias;

  Head(Random& random, int64_t units, int64_t c)
      : hidden(units),
        classes(c),
        weight(random.normal<float>(units * kFeatures, 0.125)),
        bias(random.normal<float>(units, 0.1)),
        beta(random.uniform<float>(units, 0.1, 0.2)),
        gamma(random.gamma<float>(units)),
        out_weight(random.normal<float>(c * units, 3 / std::sqrt(static_cast<double>(units)))),
        out_bias(random.normal<float>(c, 0.1)) {}

  static Vector linear(const Vector& x, const std::vector<float>& w, const std::vector<float>& b) {
    Vector y;
    for (size_t o = 0; o < b.size(); ++o) {
      meon::test::Sum<float> sum;
      sum.add(b[o]);
      for (size_t d = 0; d < x.size(); ++d) sum.add(x[d] * Bounded<float>(w[o * x.size() + d]));
      y.push_back(sum.result());
    }
    return y;
  }
  Vector outputs(const Vector& features) const {
    const meon::test::GdnOracle<float> gdn{
        1, hidden, 1, linear(features, weight, bias), meon::test::bounded(beta), meon::test::bounded(gamma)};
    return linear(gdn.forward(), out_weight, out_bias);
  }
};

// exp(x) of the device and of the host is off by no more than two units in the last place.
constexpr double kExp = 4 * Bounded<float>::kUnit;

// From logits that are off by at most `shift`, each e^(l - top) is off by a factor e^(2 shift), and so is their sum.
Vector softmax(const Vector& logits) {
  double top = logits[0].value, shift = 0, total = 0;
  for (const auto& l : logits) top = std::max(top, l.value);
  for (const auto& l : logits) {
    shift = std::max(shift, l.error + Bounded<float>::kUnit * (std::fabs(l.value - top) + l.error));
    total += std::exp(l.value - top);
  }
  const double terms = static_cast<double>(logits.size() + 3) * Bounded<float>::kUnit;
  Vector p;
  for (const auto& l : logits) {
    const double value = std::exp(l.value - top) / total;
    const double factor = std::exp(4 * shift) * (1 + kExp) / ((1 - kExp) * (1 - terms));
    p.push_back(Bounded<float>::rounded(value, value * (factor - 1)));
  }
  return p;
}

struct Problem {
  int64_t crops, classes;
  std::vector<float> features;
  Head type, quality;

  Problem(Random& random, int64_t n, int64_t c)
      : crops(n),
        classes(c),
        features(random.normal<float>(n * kFeatures)),
        type(random, kTypeHidden, c),
        quality(random, kQualityHidden, c) {}

  // The quality and then the probabilities of one crop.
  Vector oracle(int64_t crop) const {
    const auto first = features.begin() + crop * kFeatures;
    const Vector x(first, first + kFeatures);
    const Vector p = softmax(type.outputs(x)), scores = quality.outputs(x);
    meon::test::Sum<float> mean;
    for (size_t c = 0; c < p.size(); ++c) mean.add(p[c] * scores[c]);
    Vector out{mean.result()};
    out.insert(out.end(), p.begin(), p.end());
    return out;
  }
};

// As long as it must be and no longer.
struct DeviceHead {
  Buffer<float> weight, bias, beta, gamma, out_weight, out_bias;
  explicit DeviceHead(const Head& h)
      : weight(copy(h.weight)),
        bias(copy(h.bias)),
        beta(copy(h.beta)),
        gamma(copy(h.gamma)),
        out_weight(copy(h.out_weight)),
        out_bias(copy(h.out_bias)) {}
  static Buffer<float> copy(const std::vector<float>& from) {
    Buffer<float> to(static_cast<int64_t>(from.size()));
    std::copy(from.begin(), from.end(), to.data());
    return to;
  }
  meon::cuda::HeadParameters parameters() {
    return {weight.data(), bias.data(), beta.data(), gamma.data(), out_weight.data(), out_bias.data()};
  }
};

// With `many`, the kernel for more crops than there are.
Buffer<float> run(const Problem& p, bool many = false) {
  Buffer<float> features = DeviceHead::copy(p.features), answers(p.crops * (1 + p.classes));
  DeviceHead type(p.type), quality(p.quality);
  const meon::cuda::Heads heads{p.crops,       p.classes, features.data(), type.parameters(), quality.parameters(),
                                answers.data()};
  const auto result =
      many ? meon::cuda::run_heads<meon::cuda::kManyCrops>(heads, nullptr) : meon::cuda::heads_forward(heads, nullptr);
  CHECK(result.error == cudaSuccess);
  return answers;
}

TEST(answers_match_the_oracle) {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  for (const auto& [crops, classes] : {std::pair{1, 5}, {8, 31}, {11, 2}, {3, 1}, {9, int{meon::cuda::kMaxClasses}}}) {
    INFO(crops << " crops, " << classes << " classes");
    const Problem p(random, crops, classes);
    cuda_on_host::options().reverse = random.integer(0, 1) == 1;
    Buffer<float> got = run(p);
    for (int64_t k = 0; k < crops; ++k) {
      const Vector want = p.oracle(k);
      double widest = 0;
      for (size_t i = 0; i < want.size(); ++i) {
        agrees(got[k * (1 + classes) + static_cast<int64_t>(i)], want[i]);
        if (i > 0) widest = std::max(widest, want[i].error);
      }
      CHECK(widest < 1e-2);  // a bound that says nothing would be met by anything
    }
  }
  cuda_on_host::options().reverse = false;
}

TEST(a_crop_gives_the_same_bits_whatever_the_others_and_the_order) {
  Random random(2);
  const Problem all(random, 13, 31);
  Buffer<float> want = run(all);
  in_both_orders([&] {
    for (const bool many : {false, true}) {
      Buffer<float> again = run(all, many);
      CHECK(same_bits(again, want));
    }
  });
  for (const int64_t k : {0, 9, 12}) {
    Problem one = all;
    one.crops = 1;
    one.features.assign(all.features.begin() + k * kFeatures, all.features.begin() + (k + 1) * kFeatures);
    Buffer<float> got = run(one);
    for (int64_t i = 0; i < got.size(); ++i) CHECK(got[i] == want[k * got.size() + i]);
  }
}

// Far apart, equal, and not finite: what torch.softmax makes of them.
TEST(extreme_logits) {
  Random random(3);
  Problem p(random, 2, 3);
  for (float& w : p.type.out_weight) w = 0;
  p.type.out_bias = {1000, -1000, 1000};
  Buffer<float> got = run(p);
  for (const int64_t first : {0, 4}) CHECK(got[first + 1] == 0.5f && got[first + 2] == 0 && got[first + 3] == 0.5f);
  p.features[kFeatures + 7] = std::numeric_limits<float>::quiet_NaN();
  got = run(p);
  CHECK(got[1] == 0.5f && std::isfinite(got[0]));  // the other crop keeps its own
  for (int64_t i = 4; i < 8; ++i) CHECK(std::isnan(got[i]));
}

TEST(no_crops_no_launch) {
  Random random(4);
  const Problem p(random, 0, 5);
  run(p);
}

TEST(a_grid_that_cuda_cannot_count_is_refused_by_name) {
  meon::cuda::Heads many;
  many.crops = int64_t{1} << 40;
  const meon::cuda::LaunchResult result = meon::cuda::heads_forward(many, nullptr);
  CHECK(result.error == cudaErrorInvalidConfiguration && std::string(result.kernel) == "heads_kernel");
}

}  // namespace

int main(int argc, char** argv) { return meon::test::run(argc, argv); }
