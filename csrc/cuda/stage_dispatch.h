// From a shape that is known when the program runs to the stage that the kernels are compiled for.
#pragma once

#include <type_traits>

#include "core/layers.h"
#include "cuda/stage.cuh"

namespace meon::cuda {

// The place in kStages, or -1.
inline int stage_of(const ConvShape& s) {
  if (s.in_h > kLargestSide || s.in_w > kLargestSide) return -1;
  for (int i = 0; i < static_cast<int>(kStages.size()); ++i) {
    const StageSpec& stage = kStages[static_cast<size_t>(i)];
    if (s.in_channels == stage.in_channels && s.out_channels == stage.out_channels && s.kernel_h == stage.kernel &&
        s.kernel_w == stage.kernel && s.stride_h == stage.stride && s.stride_w == stage.stride &&
        s.pad_h == stage.pad && s.pad_w == stage.pad && s.pool == stage.pool) {
      return i;
    }
  }
  return -1;
}

// f(std::integral_constant<int, kStage>)
template <class F>
auto dispatch_stage(const ConvShape& s, F&& f) {
  switch (stage_of(s)) {
    case 0:
      return f(std::integral_constant<int, 0>{});
    case 1:
      return f(std::integral_constant<int, 1>{});
    case 2:
      return f(std::integral_constant<int, 2>{});
    default:
      return f(std::integral_constant<int, 3>{});
  }
}

inline StageShape stage_shape_of(const ConvShape& s) {
  return {s.batch, static_cast<int>(s.in_h), static_cast<int>(s.in_w), static_cast<int>(s.out_h()),
          static_cast<int>(s.out_w())};
}

template <class T>
PlanarSource<T> planar_source(const ConvShape& s, const T* x) {
  return {x, s.batch, static_cast<int>(s.in_channels), static_cast<int>(s.in_h), static_cast<int>(s.in_w)};
}

inline CropSource<kImageChannels> crop_source(const ConvShape& s, const CropInput& in) {
  return {in.image, in.image_h, in.image_w, in.boxes, s.batch, static_cast<int>(s.in_h), static_cast<int>(s.in_w)};
}

template <class T, class Params>
StageParameters<T> stage_parameters(const Params& p) {
  return {p.weight, p.bias, p.beta, p.gamma};
}

}  // namespace meon::cuda
