// What a stage reads when crops share their work: a choice of rows and columns out of larger planes, by the tables of
// core/crop_tables.h. With it the kernels of the stages compute every distinct output once, with the very operations
// that they use for a crop alone.
#pragma once

#include <cstdint>

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
// nobody may have looked at them: an entry that lies outside of the planes gives NaN, and is not followed.
template <class T, int kPad>
struct PlanSource {
  const T* planes;
  int64_t images;
  int64_t image_stride, channel_stride, row_stride, column_stride;  // elements
  PlanAxis rows, columns;

  static constexpr int kZero = -1, kBad = -2;  // in place of a coordinate
  static constexpr uint32_t kNanBits = 0x7fc00000u;

  // Where there is no coordinate the first row or column is read, and what it holds is taken away, bit by bit, and zero
  // or NaN put in its place: cheaper than to read or not to read. `keep` has all bits or none.
  struct Columns {
    int64_t offset[4];
    uint32_t keep[4], instead[4];
  };
  struct Row {
    const T* values;  // of channel 0
    int64_t channel_stride;
    uint32_t keep, instead;
    template <int kCount>
    __device__ __forceinline__ void read(int channel, int step, const Columns& columns, float (&to)[kCount][4]) const {
#pragma unroll
      for (int c = 0; c < kCount; ++c) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const float value = widen(fetch(values + columns.offset[k] + (channel + c * step) * channel_stride));
          to[c][k] = float_of((bits_of(value) & (keep & columns.keep[k])) | (instead | columns.instead[k]));
        }
      }
    }
  };
  __device__ __forceinline__ static uint32_t keep(int coordinate) { return coordinate >= 0 ? 0xffffffffu : 0u; }
  __device__ __forceinline__ static uint32_t instead(int coordinate) { return coordinate == kBad ? kNanBits : 0u; }
  struct Sample {
    const T* planes;  // of its image
    bool inside;      // the batch
    int64_t channel_stride, row_stride, column_stride;
    PlanAxis rows, columns;  // entries: of its block

    __device__ __forceinline__ static int coordinate(const PlanAxis& axis, int at) {
      if (at + kPad < 0 || at + kPad >= axis.each) return kZero;
      const int entry = fetch(axis.entries + at + kPad);
      return entry >= kZero && entry < axis.limit ? entry : kBad;
    }
    __device__ __forceinline__ Columns columns_at(int first) const {
      Columns out;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int at = coordinate(columns, first + k);
        out.offset[k] = at >= 0 ? at * column_stride : 0;
        out.keep[k] = keep(at), out.instead[k] = instead(at);
      }
      return out;
    }
    __device__ __forceinline__ Row row(int y) const {
      const int from = inside ? coordinate(rows, y) : kZero;
      return {from >= 0 ? planes + from * row_stride : planes, channel_stride, keep(from), instead(from)};
    }
  };
  __device__ __forceinline__ Sample sample(int64_t n) const {
    const int64_t block = columns.blocks == 1 ? n : n / columns.blocks;
    const int64_t image = rows.blocks == 1 ? block : block / rows.blocks;
    Sample out{planes, image < images, channel_stride, row_stride, column_stride, rows, columns};
    if (!out.inside) {
      out.columns.each = 0;
      return out;
    }
    out.planes += image * image_stride;
    out.rows.entries += (block - image * rows.blocks) * rows.each;
    out.columns.entries += (n - block * columns.blocks) * columns.each;
    return out;
  }
};

}  // namespace meon::cuda
