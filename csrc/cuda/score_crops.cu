// Launchers of the stages over crops that share their work. Also compiled by g++ (tests/cuda_on_host).
#include "cuda/byte_stage.cuh"
#include "cuda/conv_gdn_pool.cuh"
#include "cuda/plan_source.cuh"
#include "cuda/score_crops.h"

namespace meon::cuda {
namespace {

// What a stage computes of each image: a plane for each channel.
struct Planes {
  int64_t channels = 0, rows = 0, columns = 0;
  int64_t numel() const { return channels * rows * columns; }
};

Planes planes_of(const CropScoring& p, size_t stage) {
  return {kStages[stage].out_channels, p.rows.places[stage], p.columns.places[stage]};
}

// The sample of a shared stage: all places, one block of the tables.
PlanAxis stage_axis(const CropAxisTables& axis, size_t stage, int64_t limit) {
  const int64_t each = kWindowStep * axis.places[stage] + kTaps - kWindowStep;
  return {axis.inputs[stage], 1, static_cast<int>(each), static_cast<int>(limit)};
}

// The samples of the last stage: the crops.
PlanAxis crop_axis(const CropAxisTables& axis) {
  return {axis.crops, axis.count, kCropPlaces, static_cast<int>(axis.places.back())};
}

template <int kRows, class Source>
LaunchResult run_byte_stage_in(const StageShape& s, const Source& source, const StageParameters<float>& parameters,
                               float* y, cudaStream_t stream) {
  using Tile = ByteTile<kRows>;
  return launch("byte_stage_kernel", byte_stage_kernel<Source, kRows>, {tile_count<Tile>(s)}, Tile::kThreads, stream, s,
                source, parameters, y);
}

// The first stage, whose input is bytes, on tensor cores where there are any that can.
template <class Source>
LaunchResult run_byte_stage(const StageWeights& weights, const Source& source, int64_t samples, int64_t rows,
                            int64_t columns, float* y, cudaStream_t stream) {
  const StageShape s{samples, 0, 0, static_cast<int>(rows), static_cast<int>(columns)};
  const StageParameters<float> parameters{weights.weight, weights.bias, weights.beta, weights.gamma};
  return tile_count<ByteTile<kFewRows>>(s) <= kFewBlocks
             ? run_byte_stage_in<kFewRows>(s, source, parameters, y, stream)
             : run_byte_stage_in<kManyRows>(s, source, parameters, y, stream);
}

template <int kStage, class Source>
LaunchResult run_stage(const StageWeights& weights, const Source& source, int64_t samples, int64_t rows,
                       int64_t columns, float* y, cudaStream_t stream) {
  using Tile = StageTile<kStage>;
  const StageShape s{samples, 0, 0, static_cast<int>(rows), static_cast<int>(columns)};
  const StageParameters<float> parameters{weights.weight, weights.bias, weights.beta, weights.gamma};
  return launch("conv_gdn_pool_kernel", conv_gdn_pool_kernel<float, kStage, Source>, {tile_count<Tile>(s)},
                Tile::kThreads, stream, s, source, parameters, y);
}

template <int kStage>
auto planar(const float* x, int64_t images, const Planes& planes, const PlanAxis& rows, const PlanAxis& columns) {
  return PlanSource<float, Layer<kStage>::kPad>{x, images, planes.numel(), planes.rows * planes.columns, planes.columns,
                                                1, rows,   columns};
}

template <int kStage>
LaunchResult shared_stage(const CropScoring& p, const float* x, float* y, cudaStream_t stream) {
  const Planes before = planes_of(p, kStage - 1), out = planes_of(p, kStage);
  const auto source = planar<kStage>(x, p.images.count, before, stage_axis(p.rows, kStage, before.rows),
                                     stage_axis(p.columns, kStage, before.columns));
  return run_stage<kStage>(p.stages[kStage], source, p.images.count, out.rows, out.columns, y, stream);
}

}  // namespace

size_t score_crops_workspace(const CropScoring& p) {
  int64_t floats = p.crops() * kFeatures;
  for (size_t s = 0; s < kSharedStages; ++s) floats += p.images.count * planes_of(p, s).numel();
  return static_cast<size_t>(floats) * sizeof(float);
}

LaunchResult score_crops(const CropScoring& p, void* workspace, cudaStream_t stream) {
  if (p.crops() == 0) return {};
  const Images& in = p.images;
  float* maps[kSharedStages + 1] = {static_cast<float*>(workspace)};  // of each stage; the last: features
  for (size_t s = 0; s < kSharedStages; ++s) maps[s + 1] = maps[s] + in.count * planes_of(p, s).numel();

  const Planes first = planes_of(p, 0), last = planes_of(p, kSharedStages - 1);
  const PlanSource<uint8_t, Layer<0>::kPad> pixels{in.pixels,
                                                   in.count,
                                                   in.image_stride,
                                                   in.channel_stride,
                                                   in.row_stride,
                                                   in.column_stride,
                                                   stage_axis(p.rows, 0, in.height),
                                                   stage_axis(p.columns, 0, in.width)};
  const bool tensor_cores = kernel_uses_mma(byte_stage_kernel<PlanSource<uint8_t, Layer<0>::kPad>, kManyRows>);
  LaunchResult result = tensor_cores
                            ? run_byte_stage(p.stages[0], pixels, in.count, first.rows, first.columns, maps[0], stream)
                            : run_stage<0>(p.stages[0], pixels, in.count, first.rows, first.columns, maps[0], stream);
  if (result.error == cudaSuccess) result = shared_stage<1>(p, maps[0], maps[1], stream);
  if (result.error == cudaSuccess) result = shared_stage<2>(p, maps[1], maps[2], stream);
  if (result.error == cudaSuccess) {
    const auto crops = planar<3>(maps[2], in.count, last, crop_axis(p.rows), crop_axis(p.columns));
    result = run_stage<3>(p.stages[3], crops, p.crops(), 1, 1, maps[3], stream);
  }
  if (result.error != cudaSuccess) return result;
  return heads_forward({p.crops(), p.classes, maps[3], p.type, p.quality, p.answers}, stream);
}

}  // namespace meon::cuda
