// The CUDA kernels of score_crops, whose schema is in ops.cpp.
#include <string>
#include <vector>

#include "cuda/score_crops.h"
#include "torch/box.h"
#include "torch/cuda_device.h"
#include "torch/network_tensors.h"

namespace meon::torch_ops {
namespace {

cuda::CropAxisTables axis_tables(const AxisTensors& axis) {
  cuda::CropAxisTables out;
  for (size_t s = 0; s < kSharedStages; ++s) {
    out.inputs[s] = in<int32_t>(axis.inputs[s]);
    out.places[s] = (axis.inputs[s].size(0) - (kTaps - kWindowStep)) / kWindowStep;
  }
  out.crops = in<int32_t>(axis.crops);
  out.count = axis.count();
  return out;
}

cuda::HeadParameters head_parameters(const NetworkTensors& tensors, const std::string& name) {
  return {tensors.data(name + ".0.weight"), tensors.data(name + ".0.bias"),   tensors.data(name + ".0.beta"),
          tensors.data(name + ".0.gamma"),  tensors.data(name + ".1.weight"), tensors.data(name + ".1.bias")};
}

// The values of the tables are left to the kernels: looking at them here would wait for the device.
Tensor score_crops(const Tensor& images, const std::vector<Tensor>& rows, const std::vector<Tensor>& columns,
                   const std::vector<Tensor>& parameters) {
  check_on_cuda(images, "images");
  check_images(images);
  const OnDeviceOf device(images);
  const AxisTensors row_axis(rows, "rows", images), column_axis(columns, "columns", images);
  const NetworkTensors tensors(parameters, images);
  STD_TORCH_CHECK(tensors.classes() <= cuda::kMaxClasses, "the network has ", tensors.classes(),
                  " classes; this op takes up to ", cuda::kMaxClasses, " on CUDA. Use meon_ext.MEON.forward_crops");
  Tensor answers = new_answers(images, row_axis, column_axis, tensors.classes());
  cuda::CropScoring p;
  p.images = {in<uint8_t>(images), images.size(0),   images.size(1),   images.size(2),
              images.stride(0),    images.stride(3), images.stride(1), images.stride(2)};
  p.rows = axis_tables(row_axis);
  p.columns = axis_tables(column_axis);
  for (size_t s = 0; s < p.stages.size(); ++s) {
    const std::string name = "stages." + std::to_string(s);
    p.stages[s] = {tensors.data(name + ".weight"), tensors.data(name + ".bias"), tensors.data(name + ".beta"),
                   tensors.data(name + ".gamma")};
  }
  p.type = head_parameters(tensors, "type_head");
  p.quality = head_parameters(tensors, "quality_head");
  p.classes = tensors.classes();
  p.answers = out<float>(answers);
  const Tensor workspace = new_workspace(images, cuda::score_crops_workspace(p));
  check_launch(cuda::score_crops(p, workspace.mutable_data_ptr(), device.stream()));
  return answers;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meon_ext, CUDA, m) { m.impl("score_crops", MEON_BOX(&score_crops)); }

}  // namespace meon::torch_ops
