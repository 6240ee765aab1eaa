#include "cpu/network.h"

#include <algorithm>
#include <cmath>

#include "cpu/vector_math.h"

namespace meon::cpu {
namespace {

std::vector<float> transposed(std::span<const float> m, int64_t rows, int64_t columns) {
  std::vector<float> out(m.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c)
      out[static_cast<size_t>(c * rows + r)] = m[static_cast<size_t>(r * columns + c)];
  }
  return out;
}

std::vector<float> copied(std::span<const float> v) { return {v.begin(), v.end()}; }

std::span<const float> get(const TensorLookup& lookup, const std::string& name, std::vector<int64_t> shape) {
  return lookup(name, shape);
}

void softmax(const float* logits, int64_t n, float* p) {
  const float top = *std::max_element(logits, logits + n);
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += p[i] = std::exp(logits[i] - top);
  for (int64_t i = 0; i < n; ++i) p[i] /= sum;
}

}  // namespace

struct Network::Scratch {
  std::vector<StageScratch<float>> stages;
  std::array<std::vector<float>, kStages.size()> out;  // [Cout, Hp, Wp] of each stage
  std::vector<float> hidden, logits, scores;

  explicit Scratch(const Network& net)
      : hidden(static_cast<size_t>(2 * std::max(kTypeHidden, kQualityHidden))),
        logits(static_cast<size_t>(net.num_classes_)),
        scores(logits.size()) {
    for (size_t i = 0; i < kStages.size(); ++i) {
      const ConvShape& s = net.stages_[i].shape;
      stages.emplace_back(s);
      out[i].resize(static_cast<size_t>(s.out_channels * s.out_h() * s.out_w()));
    }
  }
};

Network::Network(const TensorLookup& lookup) {
  int64_t side = kCropSize;
  for (size_t i = 0; i < kStages.size(); ++i) {
    const ConvShape s = stage_shape(kStages[i], 1, side);
    const std::string name = "stages." + std::to_string(i) + ".";
    const int64_t C = s.out_channels;
    const auto weight = get(lookup, name + "weight", {C, s.in_channels, s.kernel_h, s.kernel_w});
    const auto bias = get(lookup, name + "bias", {C});
    const auto beta = get(lookup, name + "beta", {C});
    const auto gamma = get(lookup, name + "gamma", {C, C});
    stages_.emplace_back(s, weight.data(), bias.data(), beta.data(), gamma.data());
    side = s.out_h();
  }
  type_head_ = load_head(lookup, "type_head.", kTypeHidden);
  quality_head_ = load_head(lookup, "quality_head.", kQualityHidden);
}

Network::Head Network::load_head(const TensorLookup& lookup, const std::string& name, int64_t hidden) {
  Head head;
  head.hidden = hidden;
  head.weight_t = transposed(get(lookup, name + "0.weight", {hidden, kFeatures}), hidden, kFeatures);
  head.bias = copied(get(lookup, name + "0.bias", {hidden}));
  head.beta = copied(get(lookup, name + "0.beta", {hidden}));
  head.gamma_t = transposed(get(lookup, name + "0.gamma", {hidden, hidden}), hidden, hidden);
  std::vector<int64_t> shape{num_classes_,
                             hidden};  // the first head tells the number of classes, the second must agree
  head.out_weight = copied(lookup(name + "1.weight", shape));
  num_classes_ = shape[0];
  head.out_bias = copied(get(lookup, name + "1.bias", {num_classes_}));
  return head;
}

// hidden_scratch: [2, hidden]
void Network::Head::forward(const float* features, float* hidden_scratch, float* out) const {
  float* h = hidden_scratch;
  float* norm = h + hidden;
  std::copy(bias.begin(), bias.end(), h);
  for (int64_t k = 0; k < kFeatures; ++k) axpy(hidden, features[k], weight_t.data() + k * hidden, h);
  std::copy(beta.begin(), beta.end(), norm);
  for (int64_t j = 0; j < hidden; ++j) axpy(hidden, h[j] * h[j], gamma_t.data() + j * hidden, norm);
  for (int64_t i = 0; i < hidden; ++i) h[i] /= std::sqrt(norm[i]);
  for (size_t c = 0; c < out_bias.size(); ++c) {
    out[c] = out_bias[c] + dot(hidden, out_weight.data() + static_cast<int64_t>(c) * hidden, h);
  }
}

void Network::forward_crops(const CropInput& crops, int64_t count, float* raw, float* probabilities,
                            const Parallel& parallel) const {
  // One task takes several crops so that its scratch is set up once; a crop's result knows nothing of its task.
  constexpr int64_t kCropsPerTask = 4;
  parallel.for_each((count + kCropsPerTask - 1) / kCropsPerTask, [&](int64_t task) {
    Scratch scratch(*this);
    for (int64_t k = task * kCropsPerTask; k < std::min(count, (task + 1) * kCropsPerTask); ++k) {
      const CropSource crop = crop_source(crops, kImageChannels, k);
      stage_forward(stages_[0], crop, scratch.stages[0], scratch.out[0].data());
      for (size_t i = 1; i < stages_.size(); ++i) {
        const ConvShape& s = stages_[i].shape;
        const PlanarSource<float> source{scratch.out[i - 1].data(), s.in_h, s.in_w};
        stage_forward(stages_[i], source, scratch.stages[i], scratch.out[i].data());
      }
      const float* features = scratch.out.back().data();
      float* p = probabilities + k * num_classes_;
      type_head_.forward(features, scratch.hidden.data(), scratch.logits.data());
      softmax(scratch.logits.data(), num_classes_, p);
      quality_head_.forward(features, scratch.hidden.data(), scratch.scores.data());
      raw[k] = dot(num_classes_, p, scratch.scores.data());
    }
  });
}

}  // namespace meon::cpu
