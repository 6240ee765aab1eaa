// The whole MEON over crops of one uint8 image, float32, with exact overlap reuse (core/crop_plan.h).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/crop_plan.h"
#include "core/layers.h"
#include "core/parallel.h"
#include "cpu/simd/table.h"

namespace meon::cpu {

// Gives the tensor of that name: its elements, row-major, and its shape. Throws std::invalid_argument, naming the
// tensor, where it is missing or has another shape; a dimension of -1 in `shape` is filled in with what it has.
using TensorLookup = std::function<std::span<const float>(const std::string& name, std::vector<int64_t>& shape)>;

class Network {
 public:
  // The weights are copied, packed for `simd`.
  explicit Network(const TensorLookup& lookup, const SimdTable& simd = choose_simd());

  int64_t num_classes() const { return num_classes_; }
  const SimdTable& simd() const { return simd_; }

  // crops: `count` boxes of kCropSize a side of an image [H, W, 3]. raw [count], probabilities [count, C]. A crop's
  // result depends on its pixels alone: not on the other boxes, nor on how the work is shared out.
  // Working memory: a few rows per thread; of a wide image, a strip is done at a time.
  void forward_crops(const CropInput& crops, int64_t count, float* raw, float* probabilities,
                     const Parallel& parallel) const;

  // What the strips below work with.
  struct SharedStage {
    int64_t in_channels, out_channels;
    std::vector<float> weight, bias, beta, gamma;  // as StageRow wants them
    void (*row)(const StageRow&);
  };
  struct Dense {  // y = x W + b, then GDN
    int64_t inputs, outputs;
    std::vector<float> weight, bias;   // [inputs][outputs], [outputs]
    std::vector<float> gamma_t, beta;  // [outputs][outputs] transposed, [outputs]
  };
  struct Linear {
    int64_t inputs, outputs;
    std::vector<float> weight, bias;  // [outputs][inputs], [outputs]
  };
  // Heads of up to kBatch crops: features [crops][kFeatures].
  void heads(int64_t crops, const float* features, float* raw, float* probabilities, const int64_t* where) const;
  // features [kFeatures] of one crop from the last shared stage's map [4][4][32].
  void last_stage(const float* map, float* features) const;
  const SharedStage& shared(int stage) const { return shared_[static_cast<size_t>(stage)]; }

 private:
  void dense(const Dense& layer, int64_t rows, const float* x, float* y) const;

  const SimdTable& simd_;
  std::vector<SharedStage> shared_;
  Dense last_;  // the fourth stage's convolution as a matrix product over [kh][kw][Cin]
  Dense type_hidden_, quality_hidden_;
  Linear type_out_, quality_out_;
  int64_t num_classes_ = -1;
};

}  // namespace meon::cpu
