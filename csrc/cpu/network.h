// The whole MEON over crops of one uint8 image.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/layers.h"
#include "core/parallel.h"
#include "cpu/stage.h"

namespace meon::cpu {

// Gives the tensor of that name: its elements, row-major, and its shape. Throws std::invalid_argument, naming the
// tensor, where it is missing or has another shape; a dimension of -1 in `shape` is filled in with what it has.
using TensorLookup = std::function<std::span<const float>(const std::string& name, std::vector<int64_t>& shape)>;

class Network {
 public:
  explicit Network(const TensorLookup& lookup);
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  int64_t num_classes() const { return num_classes_; }

  // crops: `count` boxes of kCropSize a side of an image [H, W, 3]. raw [count], probabilities [count, C].
  void forward_crops(const CropInput& crops, int64_t count, float* raw, float* probabilities,
                     const Parallel& parallel) const;

 private:
  struct Head {
    int64_t hidden;
    std::vector<float> weight_t;    // [64, hidden]
    std::vector<float> bias, beta;  // [hidden]
    std::vector<float> gamma_t;     // [hidden, hidden], transposed
    std::vector<float> out_weight;  // [C, hidden]
    std::vector<float> out_bias;    // [C]
    void forward(const float* features, float* hidden_scratch, float* out) const;
  };
  struct Scratch;

  Head load_head(const TensorLookup& lookup, const std::string& name, int64_t hidden);

  std::vector<PackedStage<float>> stages_;
  int64_t num_classes_ = -1;
  Head type_head_, quality_head_;
};

}  // namespace meon::cpu
