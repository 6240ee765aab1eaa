// score_crops on the CPU: the network of csrc/cpu, whose schema is in ops.cpp.
#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "cpu/network.h"
#include "torch/box.h"
#include "torch/network_tensors.h"
#include "torch/parallel.h"

namespace meon::torch_ops {
namespace {

void check_offsets(const AxisTensors& axis, const char* name, int64_t side) {
  for (int64_t k = 0; k < axis.count(); ++k) {
    const int64_t first = in<int32_t>(axis.offsets)[k];
    STD_TORCH_CHECK(first >= 0 && first + kCropSize <= side, name, " has a crop from pixel ", first, " to ",
                    first + kCropSize, ", outside of the images' ", side);
  }
}

// The tables are for kernels that compute whole planes; the CPU's makes its own from the offsets, strip by strip.
Tensor score_crops(const Tensor& images, const std::vector<Tensor>& rows, const std::vector<Tensor>& columns,
                   const std::vector<Tensor>& parameters) {
  STD_TORCH_CHECK(images.is_cpu(), "images is not on the CPU");
  check_images(images);
  const AxisTensors row_axis(rows, "rows", images), column_axis(columns, "columns", images);
  check_offsets(row_axis, "rows", images.size(1));
  check_offsets(column_axis, "columns", images.size(2));
  const NetworkTensors tensors(parameters, images);
  Tensor answers = new_answers(images, row_axis, column_axis, tensors.classes());
  const int64_t height = images.size(1), width = images.size(2), crops = answers.size(1), classes = tensors.classes();
  if (answers.numel() == 0) return answers;

  const cpu::Network network([&](const std::string& name, std::vector<int64_t>& shape) {
    const Tensor& t = tensors.at(name);
    shape = t.sizes().vec();
    return std::span<const float>(in<float>(t), static_cast<size_t>(t.numel()));
  });
  std::vector<int64_t> boxes;
  boxes.reserve(static_cast<size_t>(4 * crops));
  for (int64_t r = 0; r < row_axis.count(); ++r) {
    for (int64_t c = 0; c < column_axis.count(); ++c) {
      const int64_t y = in<int32_t>(row_axis.offsets)[r], x = in<int32_t>(column_axis.offsets)[c];
      boxes.insert(boxes.end(), {x, y, x + kCropSize, y + kCropSize});
    }
  }
  const Tensor pixels = torch::stable::contiguous(images);
  std::vector<float> raw(static_cast<size_t>(crops)), probabilities(static_cast<size_t>(crops * classes));
  float* answer = out<float>(answers);
  for (int64_t n = 0; n < images.size(0); ++n) {
    const uint8_t* image = in<uint8_t>(pixels) + n * height * width * kImageChannels;
    network.forward_crops({image, width, boxes.data()}, crops, raw.data(), probabilities.data(), TorchParallel());
    const float* p = probabilities.data();
    for (const float quality : raw) {
      *answer++ = quality;
      answer = std::copy_n(p, classes, answer);
      p += classes;
    }
  }
  return answers;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meon_ext, CPU, m) { m.impl("score_crops", MEON_BOX(&score_crops)); }

}  // namespace meon::torch_ops
