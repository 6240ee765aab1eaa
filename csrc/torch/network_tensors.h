// The arguments of score_crops, the same on every device: images, where their crops are, and the network's parameters.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/crop_tables.h"
#include "core/layers.h"
#include "torch/checks.h"

namespace meon::torch_ops {

// (N, H, W, 3), in any order in memory.
inline void check_images(const Tensor& images) {
  STD_TORCH_CHECK(images.scalar_type() == ScalarType::Byte, "images must be uint8");
  check_shape(images, "images", {-1, -1, -1, kImageChannels}, "(N, H, W, 3)");
  for (const int64_t side : {images.size(1), images.size(2)}) {
    STD_TORCH_CHECK(side >= kCropSize && side < kSideLimit, "images has shape ", shape_of(images),
                    "; height and width must be from ", kCropSize, " to 2^31 - 1");
  }
}

// One axis of a plan, as meon_ext.ops.crop_plan makes it: the crops' first pixels, and AxisTables. All contiguous.
struct AxisTensors {
  Tensor offsets;              // [crops]
  std::vector<Tensor> inputs;  // [kWindowStep * places + kTaps - kWindowStep] for each shared stage
  Tensor crops;                // [crops, 4]

  AxisTensors(const std::vector<Tensor>& axis, const char* name, const Tensor& images) {
    STD_TORCH_CHECK(axis.size() == kSharedStages + 2, name, " holds ", axis.size(), " tensors; it must hold ",
                    kSharedStages + 2, ", those of meon_ext.ops.crop_plan");
    for (const Tensor& t : axis) {
      STD_TORCH_CHECK(t.scalar_type() == ScalarType::Int && t.device() == images.device(), name,
                      " must hold int32 tensors on the images' device; make the plan with device=images.device");
    }
    offsets = torch::stable::contiguous(axis.front());
    check_shape(offsets, name, {-1}, "(crops,) in its first tensor");
    for (int s = 0; s < kSharedStages; ++s) {
      const Tensor& t = inputs.emplace_back(torch::stable::contiguous(axis[static_cast<size_t>(s + 1)]));
      STD_TORCH_CHECK(t.dim() == 1 && t.size(0) % kWindowStep == kTaps - kWindowStep && t.size(0) < kLongest, name,
                      " has shape ", shape_of(t), " in tensor ", s + 1, "; it must be (4 places + 3,)");
    }
    crops = torch::stable::contiguous(axis.back());
    check_shape(crops, name, {offsets.size(0), 4}, "(crops, 4) in its last tensor");
  }

  int64_t count() const { return offsets.size(0); }

 private:
  static constexpr int64_t kLongest = int64_t{1} << 30;
};

// Named as in a weights file, float32, on the images' device, contiguous.
class NetworkTensors {
 public:
  NetworkTensors(const std::vector<Tensor>& parameters, const Tensor& images) {
    STD_TORCH_CHECK(parameters.size() == kCount, "parameters holds ", parameters.size(), " tensors; it must hold the ",
                    kCount, " of MEON with GDN and fusion, in the order of a weights file");
    const Tensor& last = parameters.back();
    STD_TORCH_CHECK(last.dim() == 1 && last.size(0) > 0, "parameters ends with a tensor of shape ", shape_of(last),
                    "; it must be the class scores' bias, (classes,)");
    classes_ = last.size(0);
    auto next = parameters.begin();
    for (const auto& [name, shape] : expected(classes_)) {
      const Tensor& t = *next++;
      STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float, name, " must be float32; convert it with .float()");
      STD_TORCH_CHECK(t.device() == images.device(), name,
                      " and images are on different devices; move one with .to(device)");
      STD_TORCH_CHECK(t.sizes().vec() == shape, name, " has shape ", shape_of(t), ", which does not fit a network of ",
                      classes_, " classes");
      tensors_.emplace(name, torch::stable::contiguous(t));
    }
  }

  int64_t classes() const { return classes_; }
  const Tensor& at(const std::string& name) const { return tensors_.at(name); }
  const float* data(const std::string& name) const { return in<float>(at(name)); }

 private:
  using Expected = std::vector<std::pair<std::string, std::vector<int64_t>>>;
  static constexpr size_t kCount = 4 * kStages.size() + 2 * 6;

  static Expected expected(int64_t classes) {
    Expected out;
    const auto layer = [&](const std::string& name, const std::vector<int64_t>& weight, bool gdn) {
      out.emplace_back(name + ".weight", weight);
      out.push_back({name + ".bias", {weight[0]}});
      if (!gdn) return;
      out.push_back({name + ".beta", {weight[0]}});
      out.push_back({name + ".gamma", {weight[0], weight[0]}});
    };
    for (size_t i = 0; i < kStages.size(); ++i) {
      const StageSpec& s = kStages[i];
      layer("stages." + std::to_string(i), {s.out_channels, s.in_channels, s.kernel, s.kernel}, true);
    }
    for (const auto& [name, hidden] : {std::pair<std::string, int64_t>{"type_head", kTypeHidden},
                                       std::pair<std::string, int64_t>{"quality_head", kQualityHidden}}) {
      layer(name + ".0", {hidden, kFeatures}, true);
      layer(name + ".1", {classes, hidden}, false);
    }
    return out;
  }

  int64_t classes_ = 0;
  std::map<std::string, Tensor> tensors_;
};

// [N, crops, 1 + classes]: of each crop the quality, then the probabilities.
inline Tensor new_answers(const Tensor& images, const AxisTensors& rows, const AxisTensors& columns, int64_t classes) {
  const std::array<int64_t, 3> sizes{images.size(0), rows.count() * columns.count(), 1 + classes};
  return torch::stable::empty({sizes.data(), sizes.size()}, ScalarType::Float, std::nullopt, images.device(),
                              std::nullopt, std::nullopt);
}

}  // namespace meon::torch_ops
