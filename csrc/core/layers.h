// The layers of MEON (Ma et al., IEEE TIP 2018): the one table that the native code takes its sizes from.
#pragma once

#include <array>
#include <cstdint>

#include "core/params.h"

namespace meon {

inline constexpr int64_t kCropSize = 256;  // pixels a side
inline constexpr int64_t kImageChannels = 3;

struct StageSpec {
  int64_t in_channels, out_channels, kernel, stride, pad, pool;
};

inline constexpr std::array<StageSpec, 4> kStages{{
    {3, 8, 5, 2, 2, 2},
    {8, 16, 5, 2, 2, 2},
    {16, 32, 5, 2, 2, 2},
    {32, 64, 3, 1, 0, 2},
}};
inline constexpr int64_t kFeatures = 64;
inline constexpr int64_t kTypeHidden = 128;
inline constexpr int64_t kQualityHidden = 256;

// The shape of one stage for `batch` crops whose side at this stage's input is `side`.
constexpr ConvShape stage_shape(const StageSpec& s, int64_t batch, int64_t side) {
  return {.batch = batch,
          .in_channels = s.in_channels,
          .in_h = side,
          .in_w = side,
          .out_channels = s.out_channels,
          .kernel_h = s.kernel,
          .kernel_w = s.kernel,
          .stride_h = s.stride,
          .stride_w = s.stride,
          .pad_h = s.pad,
          .pad_w = s.pad,
          .pool = s.pool};
}

namespace detail {
constexpr int64_t features_after_all_stages() {
  int64_t side = kCropSize;
  for (const StageSpec& s : kStages) side = ((side + 2 * s.pad - s.kernel) / s.stride + 1) / s.pool;
  return side * side * kStages.back().out_channels;
}
}  // namespace detail
static_assert(detail::features_after_all_stages() == kFeatures, "the stages must end in the vector the heads expect");

}  // namespace meon
