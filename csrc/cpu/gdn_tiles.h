// GDN and max-pool, tile by tile: what csrc/cpu/gdn.cpp hands to the kernels of csrc/cpu/simd/gdn_body.h.
#pragma once

#include <cstdint>

namespace meon::cpu {

// Pixels of a tile: a whole number of register blocks of every instruction set.
inline constexpr int64_t kGdnTile = 48;

// Rows of scratch memory are as long as a multiple of this many elements, so that no vector ends outside.
inline constexpr int64_t kGdnPad = 16;

constexpr int64_t gdn_padded(int64_t channels) { return (channels + kGdnPad - 1) / kGdnPad * kGdnPad; }

// Where things lie, in elements. Output pixels are numbered through the batch; pixel q is pixel (q % row_length) of row
// (q / row_length % rows) of sample (q / row_length / rows).
struct GdnGeometry {
  struct Side {
    int64_t sample = 0, row = 0, pixel = 0, channel = 0;  // distance from one to the next
  };
  int64_t channels = 0;
  int64_t rows = 0;  // of output pixels in a sample
  int64_t row_length = 0;
  Side x{}, y{};  // of x, the distance between the first elements of two windows
  int64_t pool = 1;
  int64_t window_row = 0, window_column = 0;  // from an element of a window to the one below, to the right
};

template <class T>
struct GdnForwardTiles {
  GdnGeometry geometry;
  const T* x;
  const T* beta;   // [C]
  const T* gamma;  // [C, C]
  T* y;
  int64_t first, last;  // output pixels
  T* scratch;           // [gdn_forward_scratch()]
};

constexpr int64_t gdn_forward_scratch(int64_t channels) { return 3 * gdn_padded(channels) * kGdnTile; }

// Tiles whose part in gamma's gradient is summed in registers, before it is added to the sums in float64.
constexpr int64_t gdn_group(int64_t channels) {
  const int64_t fit = 1024 / (channels > 0 ? channels : 1);  // keeps the group in the second-level cache
  return fit < 4 ? 4 : fit > 8 ? 8 : fit;
}

template <class T>
struct GdnBackwardTiles {
  GdnGeometry geometry;
  const T* grad_y;
  const T* x;
  const T* beta;   // [C]
  const T* gamma;  // [C, C]
  T* grad_x;
  double* grad_beta;    // [C], added to
  double* grad_gamma;   // [C, C], added to
  int64_t first, last;  // output pixels
  T* scratch;           // [gdn_backward_scratch()]
};

// Length of a row of squares by pixel: an odd number of cache lines, so that neighbouring rows share no set.
constexpr int64_t gdn_squares_row(int64_t channels) { return gdn_padded(channels) | kGdnPad; }

constexpr int64_t gdn_backward_scratch(int64_t channels) {
  const int64_t group = gdn_group(channels);
  return kGdnTile * ((5 + group) * gdn_padded(channels) + group * gdn_squares_row(channels));
}

// The largest window whose gradient the backward kernel can route: it must fit a tile.
inline constexpr int64_t kGdnMaxPool = 6;
static_assert(kGdnMaxPool * kGdnMaxPool <= kGdnTile);

template <class T>
struct GdnKernels {
  void (*forward)(const GdnForwardTiles<T>&);
  void (*backward)(const GdnBackwardTiles<T>&);
};

// Those of float64, the same on every processor; those of float32 are in SimdTable.
const GdnKernels<double>& gdn_kernels_double();

}  // namespace meon::cpu
