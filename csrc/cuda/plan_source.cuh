// What a stage reads when crops share their work: a choice of rows and columns out of larger planes, by the tables of
// core/crop_tables.h. With it the kernels of the stages compute every distinct output once, with the very operations
// that they use for a crop alone.
#pragma once

#include <cstdint>
#include <limits>

#include "cuda/stage.cuh"

namespace meon::cuda {

// One axis. A sample is one block of it; entry i of a block is coordinate i - pad of the sample.
struct PlanAxis {
  const int32_t* entries;  // [blocks][each] coordinates of the planes, or kPadding
  int64_t blocks;
  int each;
  int limit;  // length of the planes along this axis
};

// Samples are numbered image by image, in an image by row block, then by column block. The tables are on the device and
// nobody may have looked at them: an entry that lies outside of the planes gives NaN, and nothing is read.
template <class T, int kPad>
struct PlanSource {
  const T* planes;
  int64_t images;
  int64_t image_stride, channel_stride, row_stride, column_stride;  // elements
  PlanAxis rows, columns;

  static constexpr int kZero = -1, kBad = -2;  // in place of a coordinate
  static constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

  struct Columns {
    int at[4];
    __device__ __forceinline__ int operator[](int i) const { return at[i]; }
  };
  struct Line {
    const T* values;  // null for zeros or NaN
    float without;    // what there is where `values` is null
    int64_t column_stride;
    __device__ __forceinline__ float at(int column) const {
      if (column == kBad) return kNan;
      if (values == nullptr) return without;
      return column == kZero ? 0.0f : widen(values[column * column_stride]);
    }
  };
  struct Sample {
    const T* planes;  // of its image; null outside of the batch
    int64_t channel_stride, row_stride, column_stride;
    PlanAxis rows, columns;  // entries: of its block

    __device__ __forceinline__ static int coordinate(const PlanAxis& axis, int at) {
      if (at + kPad < 0 || at + kPad >= axis.each) return kZero;
      const int entry = axis.entries[at + kPad];
      return entry >= kZero && entry < axis.limit ? entry : kBad;
    }
    __device__ __forceinline__ Columns columns_at(int first) const {
      return {coordinate(columns, first), coordinate(columns, first + 1), coordinate(columns, first + 2),
              coordinate(columns, first + 3)};
    }
    __device__ __forceinline__ Line line(int channel, int row) const {
      const int from = planes == nullptr ? kZero : coordinate(rows, row);
      if (from < 0) return {nullptr, from == kBad ? kNan : 0.0f, column_stride};
      return {planes + channel * channel_stride + from * row_stride, 0.0f, column_stride};
    }
  };
  __device__ __forceinline__ Sample sample(int64_t n) const {
    const int64_t block = n / columns.blocks, image = block / rows.blocks;
    Sample out{nullptr, channel_stride, row_stride, column_stride, rows, columns};
    if (image >= images) {
      out.columns.each = 0;
      return out;
    }
    out.planes = planes + image * image_stride;
    out.rows.entries += block % rows.blocks * rows.each;
    out.columns.entries += n % columns.blocks * columns.each;
    return out;
  }
};

}  // namespace meon::cuda
