#include "cpu/network.h"

#include <algorithm>
#include <cmath>

#include "cpu/crop_strip.h"
#include "cpu/pack.h"
#include "cpu/patches.h"
#include "cpu/vector_math.h"

namespace meon::cpu {
namespace {

std::span<const float> get(const TensorLookup& lookup, const std::string& name, std::vector<int64_t> shape) {
  return lookup(name, shape);
}

std::vector<float> copied(std::span<const float> v) { return {v.begin(), v.end()}; }

void softmax(const float* logits, int64_t n, float* p) {
  const float top = *std::max_element(logits, logits + n);
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += p[i] = std::exp(logits[i] - top);
  for (int64_t i = 0; i < n; ++i) p[i] /= sum;
}

void linear(const Network::Linear& layer, const float* x, float* y) {
  for (int64_t o = 0; o < layer.outputs; ++o) {
    y[o] = layer.bias[static_cast<size_t>(o)] + dot(layer.inputs, layer.weight.data() + o * layer.inputs, x);
  }
}

// A strip's working memory grows with its width; this many pixels keep it near 4 MB, and lose 4 % to crops that two
// strips at stride 128 share.
constexpr int64_t kStripPixels = 3072;

struct Strip {
  const CropGridJob* job;
  int64_t first_row, rows, first_column, columns;
};

// Cuts jobs into strips for that many threads: across where the image is wide, and down so that every thread has one.
std::vector<Strip> strips_of(const std::vector<CropGridJob>& jobs, int64_t threads) {
  int64_t total = 0;
  for (const CropGridJob& job : jobs) total += static_cast<int64_t>(job.index.size());
  std::vector<Strip> strips;
  for (const CropGridJob& job : jobs) {
    const auto rows = static_cast<int64_t>(job.rows.size()), columns = static_cast<int64_t>(job.columns.size());
    int64_t across = 1;
    while (across < columns && (job.columns.back() - job.columns.front()) / across > kStripPixels) ++across;
    // This job's part of the threads; rounded up, since an idle thread costs more than a shared row.
    const int64_t share = (static_cast<int64_t>(job.index.size()) * threads + total - 1) / total;
    const int64_t down = std::min(rows, (share + across - 1) / across);
    across = std::min(columns, std::max(across, share / down));
    for (int64_t d = 0; d < down; ++d) {
      for (int64_t a = 0; a < across; ++a) {
        const int64_t r0 = rows * d / down, r1 = rows * (d + 1) / down;
        const int64_t c0 = columns * a / across, c1 = columns * (a + 1) / across;
        strips.push_back({&job, r0, r1 - r0, c0, c1 - c0});
      }
    }
  }
  return strips;
}

}  // namespace

Network::Network(const TensorLookup& lookup, const SimdTable& simd) : simd_(simd) {
  for (int i = 0; i < kSharedStages; ++i) {
    const StageSpec& spec = kStages[static_cast<size_t>(i)];
    const std::string name = "stages." + std::to_string(i) + ".";
    const int64_t in = spec.in_channels, out = spec.out_channels, k = spec.kernel;
    const int64_t block = simd.channel_block;
    shared_.push_back({.in_channels = in,
                       .out_channels = out,
                       .weight = blocked(get(lookup, name + "weight", {out, in, k, k}), out, in * k * k, block),
                       .bias = copied(get(lookup, name + "bias", {out})),
                       .beta = copied(get(lookup, name + "beta", {out})),
                       .gamma = blocked(get(lookup, name + "gamma", {out, out}), out, out, block),
                       .row = out == 8    ? simd.stage_row_8
                              : out == 16 ? simd.stage_row_16
                                          : simd.stage_row_32});
  }
  static_assert(kStages[0].out_channels == 8 && kStages[1].out_channels == 16 && kStages[2].out_channels == 32);

  const StageSpec& spec = kStages[kSharedStages];
  const int64_t in = spec.in_channels, out = spec.out_channels, k = spec.kernel;
  last_ = {.inputs = k * k * in,
           .outputs = out,
           .weight = as_matrix(get(lookup, "stages.3.weight", {out, in, k, k}), out, in, k * k),
           .bias = copied(get(lookup, "stages.3.bias", {out})),
           .gamma_t = transposed(get(lookup, "stages.3.gamma", {out, out}), out, out),
           .beta = copied(get(lookup, "stages.3.beta", {out}))};

  auto load_head = [&](const std::string& name, int64_t hidden, Dense& dense, Linear& output) {
    dense = {.inputs = kFeatures,
             .outputs = hidden,
             .weight = transposed(get(lookup, name + "0.weight", {hidden, kFeatures}), hidden, kFeatures),
             .bias = copied(get(lookup, name + "0.bias", {hidden})),
             .gamma_t = transposed(get(lookup, name + "0.gamma", {hidden, hidden}), hidden, hidden),
             .beta = copied(get(lookup, name + "0.beta", {hidden}))};
    std::vector<int64_t> shape{num_classes_, hidden};  // the first head tells the number of classes
    output.weight = copied(lookup(name + "1.weight", shape));
    num_classes_ = shape[0];
    output.bias = copied(get(lookup, name + "1.bias", {num_classes_}));
    output.inputs = hidden;
    output.outputs = num_classes_;
  };
  load_head("type_head.", kTypeHidden, type_hidden_, type_out_);
  load_head("quality_head.", kQualityHidden, quality_hidden_, quality_out_);
}

// x [rows][inputs] -> y [rows][outputs]
void Network::dense(const Dense& layer, int64_t rows, const float* x, float* y) const {
  const int64_t n = rows * layer.outputs;
  std::vector<float> scratch(static_cast<size_t>(2 * n));
  float* squares = scratch.data();
  float* norm = squares + n;
  simd_.matmul(rows, layer.outputs, layer.inputs, x, layer.weight.data(), layer.bias.data(), y);
  for (int64_t i = 0; i < n; ++i) squares[i] = y[i] * y[i];
  simd_.matmul(rows, layer.outputs, layer.outputs, squares, layer.gamma_t.data(), layer.beta.data(), norm);
  simd_.normalize(n, norm, y);
}

void Network::last_stage(const float* map, float* features) const {
  constexpr StageSpec spec = kStages[kSharedStages];
  constexpr ConvShape shape = stage_shape(spec, 1, 4);
  constexpr int64_t out_side = shape.conv_h(), taps = spec.kernel * spec.kernel * spec.in_channels;
  static_assert(spec.pad == 0 && out_side == spec.pool);  // one pool window
  float patches[out_side * out_side * taps];
  to_patches(shape, map, taps, patches);
  float out[out_side * out_side * spec.out_channels];
  dense(last_, out_side * out_side, patches, out);
  for (int64_t c = 0; c < spec.out_channels; ++c) {
    float best = out[c];
    for (int64_t i = 1; i < out_side * out_side; ++i) {
      const float value = out[i * spec.out_channels + c];
      if (value > best || std::isnan(value)) best = value;
    }
    features[c] = best;
  }
}

void Network::heads(int64_t crops, const float* features, float* raw, float* probabilities,
                    const int64_t* where) const {
  std::vector<float> type(static_cast<size_t>(crops * kTypeHidden));
  std::vector<float> quality(static_cast<size_t>(crops * kQualityHidden));
  std::vector<float> logits(static_cast<size_t>(num_classes_)), scores(logits.size());
  dense(type_hidden_, crops, features, type.data());
  dense(quality_hidden_, crops, features, quality.data());
  for (int64_t k = 0; k < crops; ++k) {
    float* p = probabilities + where[k] * num_classes_;
    linear(type_out_, type.data() + k * kTypeHidden, logits.data());
    linear(quality_out_, quality.data() + k * kQualityHidden, scores.data());
    softmax(logits.data(), num_classes_, p);
    raw[where[k]] = dot(num_classes_, p, scores.data());
  }
}

void Network::forward_crops(const CropInput& crops, int64_t count, float* raw, float* probabilities,
                            const Parallel& parallel) const {
  if (count == 0) return;
  const std::vector<CropGridJob> jobs = grid_jobs({crops.boxes, static_cast<size_t>(4 * count)});
  const std::vector<Strip> strips = strips_of(jobs, parallel.threads());
  parallel.for_each(static_cast<int64_t>(strips.size()), [&](int64_t i) {
    const Strip& s = strips[static_cast<size_t>(i)];
    const auto part = [](const std::vector<int64_t>& all, int64_t first, int64_t n) {
      return std::span<const int64_t>(all).subspan(static_cast<size_t>(first), static_cast<size_t>(n));
    };
    CropStrip strip(*this, crops, part(s.job->rows, s.first_row, s.rows),
                    part(s.job->columns, s.first_column, s.columns));
    const auto all_columns = static_cast<int64_t>(s.job->columns.size());
    strip.run(s.job->index.data() + s.first_row * all_columns + s.first_column, all_columns, raw, probabilities);
  });
}

}  // namespace meon::cpu
