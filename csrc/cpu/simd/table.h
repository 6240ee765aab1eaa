// The kernels that exist once per instruction set, behind one table of function pointers. Everything here is float32.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/crop_plan.h"
#include "cpu/gdn_tiles.h"

namespace meon::cpu {

// Row lengths are padded to this many floats, whatever the instruction set, so that no kernel has a tail.
inline constexpr int64_t kRowPad = 16;

// Enough to hide the time that one takes, and few enough for 16 registers.
inline constexpr int kMultiplyAddChains = 12;

// Columns of a matrix product come in groups of this many.
inline constexpr int64_t kMatmulPad = 64;

constexpr int64_t padded(int64_t n) { return (n + kRowPad - 1) / kRowPad * kRowPad; }

// Taps of a column where the next column's serve as its last ones.
inline constexpr int kSharedTaps = 4;

// One pooled row of a shared stage, for all its columns at once.
struct StageRow {
  const float* const* rows;  // [kTaps] input rows, each [Cin][kTaps][columns]: element (c, t, i) is what output column
                             // i reads at its tap t
  int64_t in_channels;
  int64_t columns;      // padded
  const float* weight;  // [Cout / block][Cin][5][5][block]
  const float* bias;    // [Cout]
  const float* beta;    // [Cout]
  const float* gamma;   // [Cout / block][Cout][block]: entry (b, j, i) is gamma[b * block + i, j]
  float* out;           // [Cout][out_stride]
  int64_t out_stride;
  float* z = nullptr;  // [2 ry][2 rx][Cout][columns], the convolution's output; null where it is not wanted
  // Where each column's taps 4 to 6 are the next column's taps 0 to 2, they need not be stored: input rows are then
  // [Cin][kSharedTaps][tap_stride], tap_stride at least columns + 1. Otherwise tap_stride is columns.
  bool shared_taps = false;
  int64_t tap_stride = columns;
};

// The gradient of one pooled row, from the output of a stage to that of its convolution.
struct GdnRowBackward {
  int64_t columns;             // padded
  const float* z;              // [2 ry][2 rx][Cout][columns]
  const float* grad_y;         // [Cout][columns], 0 in columns that hold no output
  const int32_t* valid;        // [columns] -1 where the column holds an output, else 0
  const float* beta;           // [Cout]
  const float* gamma;          // as StageRow's
  const float* gamma_columns;  // [Cout / block][Cout][block]: entry (b, i, j) is gamma[i, b * block + j]
  float* dz;                   // [2 ry][2 rx][Cout][columns], the gradient of z
  float* t;                    // [2 ry][2 rx][Cout][columns], the gradient of the norm (gdn.cpp)
  float* bias_sums;            // [Cout][kRowPad] and
  float* beta_sums;            // [Cout][kRowPad]: sums of dz and t, one to a lane, added to
};

// The gradients of weight and gamma from a band of pooled rows, added to float64 sums.
struct ParameterGradient {
  int64_t rows;  // pooled
  int64_t in_channels, out_channels;
  int64_t columns;           // padded
  const float* const* taps;  // [4 rows + 3] input rows as in StageRow
  const float* const* z;     // [rows], each [2 ry][2 rx][Cout][columns]
  const float* const* dz;    // [rows], likewise
  const float* const* t;     // [rows], likewise
  double* weight;            // [Cout][Cin][5][5]
  double* gamma;             // [Cout][Cout]
  bool shared_taps = false;  // as StageRow's
  int64_t tap_stride = columns;
};

// The gradient of one input row.
struct InputRowGradient {
  int count;            // of the rows of the convolution's output that read this input row, at most 3
  const float* dz[3];   // those rows, each [2 rx][Cout][columns]
  int kernel_row[3];    // with which row of the kernel they read it
  int64_t in_channels;  // rounded up to gradient_block
  int64_t out_channels;
  int64_t columns;              // padded
  const float* weight;          // [Cin / gradient_block][5 kh][Cout][5 kw][gradient_block]
  const int32_t* has_previous;  // [columns] -1 where the column before belongs to the same sample, else 0
  const int32_t* has_next;      // [columns]
  float* out;                   // [Cin][4 columns]
};

struct SimdTable {
  const char* name;       // as MEON_ISA takes it
  int64_t channel_block;  // output channels that share a pass, the `block` of StageRow
  void (*stage_row_8)(const StageRow&);
  void (*stage_row_16)(const StageRow&);
  void (*stage_row_32)(const StageRow&);

  // taps[t][i] = from[index[t][i]] for each tap, i < columns (padded); index is [kTaps][columns].
  void (*gather_taps)(const float* from, const int32_t* index, int64_t columns, float* taps);

  // Pixels [4 (count - 1) + kTaps][3] to rows with shared taps: taps[c][t][i] = pixel 4 i + t, channel c, t < 4, for
  // i < count, and for i = count the three pixels there are. tap_stride floats from one tap to the next. What lies
  // `ahead` bytes further on is fetched for later.
  void (*pixels_to_taps)(const uint8_t* pixels, int64_t count, float* taps, int64_t tap_stride, int64_t ahead);

  // One channel of an input row [4 columns] without its padding, samples one after the other, to its taps
  // [kTaps][columns]: what lies before the first or after the last column of a sample is 0.
  void (*line_to_taps)(const float* line, int64_t columns, const int32_t* has_previous, const int32_t* has_next,
                       float* taps);

  // The same for a sample alone in its row, whose columns share taps: [kSharedTaps][tap_stride]. What lies before the
  // first input column, element 0 of taps 0 and 1, and behind the last, element `columns` of taps 2 and 3, is left as
  // it is: zero.
  void (*line_to_shared_taps)(const float* line, int64_t columns, float* taps, int64_t tap_stride);

  int64_t gradient_block;  // input channels that share a pass of input_row_gradient
  void (*gdn_row_backward_8)(const GdnRowBackward&);
  void (*gdn_row_backward_16)(const GdnRowBackward&);
  void (*gdn_row_backward_32)(const GdnRowBackward&);
  void (*parameter_gradient)(const ParameterGradient&);
  void (*input_row_gradient)(const InputRowGradient&);

  // c[m][n] = bias[n] + sum_k a[m][k] b[k][n], k in ascending order for every m and n. N is a multiple of kMatmulPad.
  void (*matmul)(int64_t M, int64_t N, int64_t K, const float* a, const float* b, const float* bias, float* c);

  // x[i] = x[i] / sqrt(norm[i]), n a multiple of kRowPad.
  void (*normalize)(int64_t n, const float* norm, float* x);

  // `rounds` multiply-adds of kMultiplyAddChains independent vectors, all in registers: as fast as the processor can.
  // Their result goes to out [kRowPad], lest the compiler leave them out.
  int64_t lanes;
  void (*multiply_adds)(int64_t rounds, float* out);

  GdnKernels<float> gdn;
};

// nullptr where this build has no such table (another processor family).
const SimdTable* simd_portable();
const SimdTable* simd_avx2();
const SimdTable* simd_avx512();

// The tables that this processor can run, slowest first.
std::span<const SimdTable* const> usable_simd();

// The one to use: the fastest usable, or the one that the environment variable MEON_ISA names.
// Throws std::invalid_argument where MEON_ISA names none of the usable.
const SimdTable& choose_simd();

}  // namespace meon::cpu
