// The whole network on every instruction set, against the simplest loops.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "core/crop_grid.h"
#include "core/layers.h"
#include "cpu/network.h"
#include "inputs.h"

using meon::CropInput;
using meon::Serial;
using meon::Threads;
using meon::cpu::Network;
using meon::test::fresh_seed;
using meon::test::Random;
using meon::test::same_bits;

namespace {

struct Weights {
  struct Entry {
    std::vector<int64_t> shape;
    std::vector<float> values;
  };
  std::map<std::string, Entry> entries;
  int64_t classes;

  Weights(Random& random, int64_t c) : classes(c) {
    for (size_t i = 0; i < meon::kStages.size(); ++i) {
      const meon::StageSpec& s = meon::kStages[i];
      layer(random, "stages." + std::to_string(i), {s.out_channels, s.in_channels, s.kernel, s.kernel}, true);
    }
    for (const auto& [head, hidden] : {std::pair{"type_head", 128}, std::pair{"quality_head", 256}}) {
      layer(random, head + std::string(".0"), {hidden, 64}, true);
      layer(random, head + std::string(".1"), {classes, hidden}, false);
    }
  }

  void layer(Random& random, const std::string& name, const std::vector<int64_t>& shape, bool gdn) {
    int64_t fan_in = 1;
    for (size_t d = 1; d < shape.size(); ++d) fan_in *= shape[d];
    const int64_t out = shape[0];
    entries[name + ".weight"] = {shape, random.normal<float>(out * fan_in, 1 / std::sqrt(static_cast<double>(fan_in)))};
    entries[name + ".bias"] = {{out}, random.normal<float>(out, 0.1)};
    if (!gdn) return;
    entries[name + ".beta"] = {{out}, random.uniform<float>(out, 0.1, 0.2)};
    entries[name + ".gamma"] = {{out, out}, random.gamma<float>(out)};
  }

  const std::vector<float>& operator[](const std::string& name) const { return entries.at(name).values; }

  Network network(const meon::cpu::SimdTable& simd) const {
    return Network(
        [this](const std::string& name, std::vector<int64_t>& shape) {
          const Entry& entry = entries.at(name);
          for (size_t d = 0; d < shape.size(); ++d) {
            if (shape[d] < 0) shape[d] = entry.shape[d];
          }
          if (shape != entry.shape) throw std::invalid_argument(name + " was asked for in another shape");
          return std::span<const float>(entry.values);
        },
        simd);
  }
};

// Everything from here to the end of `oracle` in Real: double for the result, float for how much rounding a
// straightforward float implementation shows.
template <class Real>
std::vector<Real> gdn(const std::vector<Real>& x, const std::vector<float>& beta, const std::vector<float>& gamma,
                      size_t pixels) {
  const size_t channels = beta.size();
  std::vector<Real> y(x.size());
  for (size_t i = 0; i < channels; ++i) {
    for (size_t s = 0; s < pixels; ++s) {
      Real norm = beta[i];
      for (size_t j = 0; j < channels; ++j) norm += gamma[i * channels + j] * (x[j * pixels + s] * x[j * pixels + s]);
      y[i * pixels + s] = x[i * pixels + s] / std::sqrt(norm);
    }
  }
  return y;
}

template <class Real>
std::vector<Real> linear(const std::vector<Real>& x, const std::vector<float>& weight, const std::vector<float>& bias) {
  std::vector<Real> y;
  for (size_t o = 0; o < bias.size(); ++o) {
    Real sum = bias[o];
    for (size_t i = 0; i < x.size(); ++i) sum += weight[o * x.size() + i] * x[i];
    y.push_back(sum);
  }
  return y;
}

// x [Cin][side][side] -> [Cout][result side]^2
template <class Real>
std::vector<Real> stage(const std::vector<Real>& x, int64_t side, const meon::StageSpec& s, const Weights& weights,
                        const std::string& name) {
  const auto& weight = weights[name + ".weight"];
  const int64_t conv = (side + 2 * s.pad - s.kernel) / s.stride + 1, out = conv / s.pool;
  std::vector<Real> z;
  for (int64_t co = 0; co < s.out_channels; ++co) {
    for (int64_t row = 0; row < conv; ++row) {
      for (int64_t column = 0; column < conv; ++column) {
        Real sum = weights[name + ".bias"][static_cast<size_t>(co)];
        for (int64_t ci = 0; ci < s.in_channels; ++ci) {
          for (int64_t kh = 0; kh < s.kernel; ++kh) {
            for (int64_t kw = 0; kw < s.kernel; ++kw) {
              const int64_t h = row * s.stride + kh - s.pad, w = column * s.stride + kw - s.pad;
              if (h < 0 || h >= side || w < 0 || w >= side) continue;
              sum += weight[static_cast<size_t>(((co * s.in_channels + ci) * s.kernel + kh) * s.kernel + kw)] *
                     x[static_cast<size_t>((ci * side + h) * side + w)];
            }
          }
        }
        z.push_back(sum);
      }
    }
  }
  const auto y = gdn(z, weights[name + ".beta"], weights[name + ".gamma"], static_cast<size_t>(conv * conv));
  std::vector<Real> pooled;
  for (int64_t co = 0; co < s.out_channels; ++co) {
    for (int64_t row = 0; row < out; ++row) {
      for (int64_t column = 0; column < out; ++column) {
        auto at = [&](int64_t k) {
          return y[static_cast<size_t>((co * conv + row * s.pool + k / s.pool) * conv + column * s.pool + k % s.pool)];
        };
        Real top = at(0);
        for (int64_t k = 1; k < s.pool * s.pool; ++k) top = std::max(top, at(k));
        pooled.push_back(top);
      }
    }
  }
  return pooled;
}

// Quality, then the probabilities, of the crop at (x0, y0).
template <class Real>
std::vector<Real> oracle(const Weights& weights, const std::vector<uint8_t>& image, int64_t width, int64_t x0,
                         int64_t y0) {
  std::vector<Real> x;
  for (int64_t c = 0; c < 3; ++c) {
    for (int64_t row = y0; row < y0 + 256; ++row) {
      for (int64_t column = x0; column < x0 + 256; ++column) {
        x.push_back(image[static_cast<size_t>((row * width + column) * 3 + c)]);
      }
    }
  }
  int64_t side = 256;
  for (size_t i = 0; i < meon::kStages.size(); ++i) {
    const meon::StageSpec& s = meon::kStages[i];
    x = stage(x, side, s, weights, "stages." + std::to_string(i));
    side = ((side + 2 * s.pad - s.kernel) / s.stride + 1) / s.pool;
  }
  auto head = [&](const std::string& name) {
    auto hidden = linear(x, weights[name + ".0.weight"], weights[name + ".0.bias"]);
    hidden = gdn(hidden, weights[name + ".0.beta"], weights[name + ".0.gamma"], 1);
    return linear(hidden, weights[name + ".1.weight"], weights[name + ".1.bias"]);
  };
  const auto logits = head("type_head"), scores = head("quality_head");
  std::vector<Real> out{0};
  Real total = 0;
  for (const Real logit : logits) total += std::exp(logit - *std::max_element(logits.begin(), logits.end()));
  for (size_t c = 0; c < logits.size(); ++c) {
    out.push_back(std::exp(logits[c] - *std::max_element(logits.begin(), logits.end())) / total);
    out[0] += out.back() * scores[c];
  }
  return out;
}

struct Result {
  std::vector<float> raw, probabilities;
  bool operator==(const Result& o) const { return same_bits(raw, o.raw) && same_bits(probabilities, o.probabilities); }
};

Result score(const Network& network, const std::vector<uint8_t>& image, int64_t width,
             const std::vector<int64_t>& boxes, const meon::Parallel& parallel) {
  const auto count = static_cast<int64_t>(boxes.size() / 4);
  Result out{std::vector<float>(static_cast<size_t>(count), -7),
             std::vector<float>(static_cast<size_t>(count * network.num_classes()), -7)};
  network.forward_crops({image.data(), width, boxes.data()}, count, out.raw.data(), out.probabilities.data(), parallel);
  return out;
}

// Neighbouring pixels alike, as in a photograph, so that crops differ in more than their noise.
std::vector<uint8_t> photo(Random& random, int64_t height, int64_t width) {
  std::vector<uint8_t> out(static_cast<size_t>(height * width * 3));
  for (int64_t c = 0; c < 3; ++c) {
    int64_t level = 128;
    for (int64_t i = c; i < height * width * 3; i += 3) {
      level = std::clamp<int64_t>(level + random.integer(-9, 9), 0, 255);
      out[static_cast<size_t>(i)] = static_cast<uint8_t>(level);
    }
  }
  return out;
}

}  // namespace

// A result is the end of some thousand roundings that four normalisations amplify: their worst case says nothing. What
// a straightforward float implementation is off by does; its root mean square over 8 crops and 12 classes is not
// exceeded by more than 4 times.
TEST(agrees_with_the_oracle_on_every_instruction_set) {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  constexpr int64_t kHeight = 300, kWidth = 417;
  const Weights weights(random, 12);
  const auto image = photo(random, kHeight, kWidth);
  const auto boxes = meon::crop_grid(kHeight, kWidth, 256, 64);
  std::vector<double> want;
  double float_error = 0, magnitude = 0;
  for (size_t k = 0; k < boxes.size() / 4; ++k) {
    const auto exact = oracle<double>(weights, image, kWidth, boxes[4 * k], boxes[4 * k + 1]);
    const auto plain = oracle<float>(weights, image, kWidth, boxes[4 * k], boxes[4 * k + 1]);
    for (size_t i = 0; i < exact.size(); ++i) {
      float_error += (plain[i] - exact[i]) * (plain[i] - exact[i]);
      magnitude += exact[i] * exact[i];
    }
    want.insert(want.end(), exact.begin(), exact.end());
  }
  REQUIRE(want.size() == 8 * 13);
  for (const auto* simd : meon::cpu::usable_simd()) {
    INFO("instruction set " << simd->name);
    const Network network = weights.network(*simd);
    REQUIRE(network.num_classes() == 12);
    const Result got = score(network, image, kWidth, boxes, Serial());
    double error = 0;
    for (size_t k = 0; k < got.raw.size(); ++k) {
      auto add = [&](float value, size_t i) { error += std::pow(value - want[k * 13 + i], 2); };
      add(got.raw[k], 0);
      for (size_t c = 0; c < 12; ++c) add(got.probabilities[k * 12 + c], c + 1);
    }
    CHECK_CLOSE(std::sqrt(error), 0, 4 * std::sqrt(float_error) + 0x1p-24 * std::sqrt(magnitude));
  }
}

TEST(threads_order_and_neighbours_do_not_matter) {
  const uint32_t seed = fresh_seed();
  INFO("MEON_TEST_SEED=" << seed);
  Random random(seed);
  constexpr int64_t kHeight = 390, kWidth = 430;
  const Weights weights(random, 5);
  const auto image = photo(random, kHeight, kWidth);
  auto boxes = meon::crop_grid(kHeight, kWidth, 256, 64);
  for (int i = 0; i < 3; ++i) {
    const int64_t x = random.integer(0, kWidth - 256), y = random.integer(0, kHeight - 256);
    boxes.insert(boxes.end(), {x, y, x + 256, y + 256});
  }
  for (const auto* simd : meon::cpu::usable_simd()) {
    INFO("instruction set " << simd->name);
    const Network network = weights.network(*simd);
    const Result want = score(network, image, kWidth, boxes, Serial());
    for (const int threads : {2, 3, 50}) CHECK(score(network, image, kWidth, boxes, Threads(threads)) == want);
    std::vector<int64_t> reversed;
    for (size_t k = 0; k < want.raw.size(); ++k) {
      const std::vector<int64_t> box(boxes.begin() + static_cast<int64_t>(4 * k),
                                     boxes.begin() + static_cast<int64_t>(4 * k + 4));
      reversed.insert(reversed.begin(), box.begin(), box.end());
      const Result alone = score(network, image, kWidth, box, Serial());
      CHECK(same_bits(alone.raw, {want.raw[k]}));
    }
    Result backwards = score(network, image, kWidth, reversed, Threads(2));
    std::reverse(backwards.raw.begin(), backwards.raw.end());
    CHECK(same_bits(backwards.raw, want.raw));
  }
}

TEST(only_the_pixels_of_a_crop_count) {
  Random random(1);
  constexpr int64_t kSide = 300;
  const Weights weights(random, 5);
  auto image = photo(random, kSide, kSide);
  const std::vector<int64_t> box{20, 30, 276, 286};
  for (const auto* simd : meon::cpu::usable_simd()) {
    INFO("instruction set " << simd->name);
    const Network network = weights.network(*simd);
    const Result want = score(network, image, kSide, box, Serial());
    auto other = image;
    for (int64_t y = 0; y < kSide; ++y) {
      for (int64_t x = 0; x < kSide; ++x) {
        if (x >= 20 && x < 276 && y >= 30 && y < 286) continue;
        for (int64_t c = 0; c < 3; ++c) other[static_cast<size_t>((y * kSide + x) * 3 + c)] ^= 0xFF;
      }
    }
    CHECK(score(network, other, kSide, box, Serial()) == want);
    for (const auto& [x, y] : {std::pair{20, 30}, {275, 30}, {20, 285}, {275, 285}}) {
      auto changed = image;
      for (int64_t c = 0; c < 3; ++c) changed[static_cast<size_t>((y * kSide + x) * 3 + c)] ^= 0xFF;
      CHECK(!(score(network, changed, kSide, box, Serial()) == want));
    }
  }
}

TEST(no_crops) {
  Random random(1);
  const Network network = Weights(random, 3).network(meon::cpu::choose_simd());
  network.forward_crops({nullptr, 0, nullptr}, 0, nullptr, nullptr, Threads(2));
  CHECK(network.num_classes() == 3);
}

int main(int argc, char** argv) { return meon::test::run(argc, argv); }
