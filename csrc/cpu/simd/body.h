// The kernels, written once over a vector type V and compiled once per instruction set (kernels_*.cpp).
//
// V holds kLanes floats. kBlock output channels of a stage, and kColumnVectors vectors of a matrix product, keep their
// sums in registers; kGradientBlock channels of a gradient. divide_by_root(x, n) is x / sqrt(n), within 2 units in the
// last place; max_nan lets NaN win, and beats(a, b) tells where max_nan takes a. masked(x, m) is x where the integer m
// is -1, 0 where it is 0.
//
// No standard library here: its inline functions would be compiled with this file's instruction set, and the linker
// might then use them everywhere, also on a processor without it. For the same reason the tables are constants: code
// that fills one in would run on every processor that asks what there is to choose from.
#pragma once

#include "cpu/prefetch.h"
#include "cpu/simd/gdn_body.h"
#include "cpu/simd/stage_backward.h"
#include "cpu/simd/table.h"
#include "cpu/simd/tap_places.h"

namespace meon::cpu {
namespace {

// Convolution 5 x 5 stride 2 + bias, GDN, 2 x 2 max-pool. Vectors run over pooled columns, so that stride and pool need
// no shuffles: conv column 2 i + rx reads tap 2 rx + kw of pooled column i.
template <class V, int CO>
void stage_row(const StageRow& a) {
  constexpr int W = V::kLanes, B = V::kBlock;
  static_assert(CO % B == 0);
  alignas(64) float z[2][CO][W];
  alignas(64) float squares[2][CO][W];
  alignas(64) float best[CO][W];
  const TapPlaces places(a.shared_taps, a.tap_stride);
  for (int64_t column = 0; column < a.columns; column += W) {
    for (int ry = 0; ry < 2; ++ry) {
      for (int block = 0; block < CO / B; ++block) {
        V sum[B][2];
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) sum[b][0] = sum[b][1] = V::set1(a.bias[block * B + b]);
        const float* w = a.weight + block * a.in_channels * 25 * B;
        for (int64_t ci = 0; ci < a.in_channels; ++ci) {
          for (int kh = 0; kh < 5; ++kh, w += 5 * B) {
            const float* x = a.rows[2 * ry + kh] + ci * places.channel + column;
            V t[kTaps];
#pragma GCC unroll 7
            for (int k = 0; k < kTaps; ++k) t[k] = V::load(x + places.at[k]);
#pragma GCC unroll 5
            for (int kw = 0; kw < 5; ++kw) {
#pragma GCC unroll 8
              for (int b = 0; b < B; ++b) {
                const V weight = V::set1(w[kw * B + b]);
                sum[b][0] = V::fma(weight, t[kw], sum[b][0]);
                sum[b][1] = V::fma(weight, t[kw + 2], sum[b][1]);
              }
            }
          }
        }
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) {
          for (int rx = 0; rx < 2; ++rx) {
            V::store(z[rx][block * B + b], sum[b][rx]);
            V::store(squares[rx][block * B + b], V::mul(sum[b][rx], sum[b][rx]));
          }
        }
        if (a.z != nullptr) {
#pragma GCC unroll 8
          for (int b = 0; b < B; ++b) {
            for (int rx = 0; rx < 2; ++rx) {
              float* z = a.z + ((2 * ry + rx) * CO + block * B + b) * a.columns + column;
              V::store(z, sum[b][rx]);
              __builtin_prefetch(z + 4 * CO * a.columns, 1);  // the next row's, see stage_backward.h
            }
          }
        }
      }
      for (int block = 0; block < CO / B; ++block) {
        V norm[B][2];
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) norm[b][0] = norm[b][1] = V::set1(a.beta[block * B + b]);
        const float* g = a.gamma + block * CO * B;
        for (int j = 0; j < CO; ++j, g += B) {
          const V s0 = V::load(squares[0][j]), s1 = V::load(squares[1][j]);
#pragma GCC unroll 8
          for (int b = 0; b < B; ++b) {
            const V gamma = V::set1(g[b]);
            norm[b][0] = V::fma(gamma, s0, norm[b][0]);
            norm[b][1] = V::fma(gamma, s1, norm[b][1]);
          }
        }
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) {
          const int c = block * B + b;
          const V y0 = V::divide_by_root(V::load(z[0][c]), norm[b][0]);
          const V y1 = V::divide_by_root(V::load(z[1][c]), norm[b][1]);
          V y = V::max_nan(y1, y0);
          if (ry == 0) {
            V::store(best[c], y);
          } else {
            V::store(a.out + c * a.out_stride + column, V::max_nan(y, V::load(best[c])));
          }
        }
      }
    }
  }
}

template <class V>
void gather_taps(const float* from, const int32_t* index, int64_t columns, float* taps) {
  for (int64_t i = 0; i < kTaps * columns; i += V::kLanes) V::store(taps + i, V::gather(from, index + i));
}

// Taps 2 to 5 of a column are its own four inputs; taps 0, 1 and 6 are its neighbours', read back from where they were
// stored, an element to the side. The element beside the first or the last column is another tap's, and is masked out.
template <class V>
void line_to_taps(const float* line, int64_t columns, const int32_t* has_previous, const int32_t* has_next,
                  float* taps) {
  for (int64_t i = 0; i < columns; i += V::kLanes) {
    V phase[4];
    V::deinterleave(line + 4 * i, phase);
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) V::store(taps + (2 + p) * columns + i, phase[p]);
  }
  for (int64_t i = 0; i < columns; i += V::kLanes) {
    for (int t = 0; t < 2; ++t) {
      V::store(taps + t * columns + i, V::masked(V::load(taps + (t + 4) * columns + i - 1), has_previous + i));
    }
    V::store(taps + 6 * columns + i, V::masked(V::load(taps + 2 * columns + i + 1), has_next + i));
  }
}

// Tap t of column i is input column 4 i + t - 2, so taps 0 and 1 are phases 2 and 3 of the column before.
template <class V>
void line_to_shared_taps(const float* line, int64_t columns, float* taps, int64_t tap_stride) {
  for (int64_t i = 0; i < columns; i += V::kLanes) {
    V phase[4];
    V::deinterleave(line + 4 * i, phase);
    V::store(taps + i + 1, phase[2]);
    V::store(taps + tap_stride + i + 1, phase[3]);
    V::store(taps + 2 * tap_stride + i, phase[0]);
    V::store(taps + 3 * tap_stride + i, phase[1]);
  }
}

// Four pixels are 12 bytes: V::words gives the three 32-bit words of kLanes groups of them, whose bytes are then taken
// apart.
template <class V>
void pixels_to_taps(const uint8_t* pixels, int64_t count, float* taps, int64_t tap_stride, int64_t ahead) {
  constexpr int W = V::kLanes;
  int64_t i = 0;
  while (i < count && count >= W) {
    if (i + W > count) i = count - W;  // the last columns, some of them once more
    typename V::Words words[3];
    V::words(pixels + 12 * i, words);
    prefetch(pixels + 12 * i, ahead, 12 * W);
#pragma GCC unroll 12
    for (int byte = 0; byte < 12; ++byte) {
      V::store(taps + (byte % 3 * 4 + byte / 3) * tap_stride + i, V::byte_of(words[byte / 4], byte % 4));
    }
    i += W;
  }
  for (; i <= count; ++i) {
    const int there = i < count ? 4 : kTaps - 4;
    for (int t = 0; t < there; ++t) {
      for (int c = 0; c < 3; ++c) {
        taps[(c * 4 + t) * tap_stride + i] = static_cast<float>(pixels[(4 * i + t) * 3 + c]);
      }
    }
  }
}

template <class V, int M>
void matmul_rows(int64_t N, int64_t K, const float* a, const float* b, const float* bias, float* c) {
  constexpr int W = V::kLanes, NB = V::kColumnVectors;
  static_assert(kMatmulPad % (W * NB) == 0);
  for (int64_t n = 0; n < N; n += W * NB) {
    V sum[M][NB];
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < NB; ++v) sum[m][v] = V::load(bias + n + v * W);
    }
    for (int64_t k = 0; k < K; ++k) {
#pragma GCC unroll 4
      for (int v = 0; v < NB; ++v) {
        const V column = V::load(b + k * N + n + v * W);
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) sum[m][v] = V::fma(V::set1(a[m * K + k]), column, sum[m][v]);
      }
    }
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < NB; ++v) V::store(c + m * N + n + v * W, sum[m][v]);
    }
  }
}

template <class V>
void matmul(int64_t M, int64_t N, int64_t K, const float* a, const float* b, const float* bias, float* c) {
  int64_t m = 0;
  for (; m + 4 <= M; m += 4) matmul_rows<V, 4>(N, K, a + m * K, b, bias, c + m * N);
  for (; m < M; ++m) matmul_rows<V, 1>(N, K, a + m * K, b, bias, c + m * N);
}

template <class V>
void normalize(int64_t n, const float* norm, float* x) {
  for (int64_t i = 0; i < n; i += V::kLanes) V::store(x + i, V::divide_by_root(V::load(x + i), V::load(norm + i)));
}

template <class V>
void multiply_adds(int64_t rounds, float* out) {
  V chain[kMultiplyAddChains];
  for (int i = 0; i < kMultiplyAddChains; ++i) chain[i] = V::set1(static_cast<float>(i));
  const V factor = V::set1(0.999f), summand = V::set1(0.001f);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kMultiplyAddChains; ++i) chain[i] = V::fma(factor, chain[i], summand);
  }
  V sum = chain[0];
  for (int i = 1; i < kMultiplyAddChains; ++i) sum = V::add(sum, chain[i]);
  V::store(out, sum);
}

template <class V>
constexpr SimdTable make_table(const char* name) {
  return {.name = name,
          .channel_block = V::kBlock,
          .stage_row_8 = stage_row<V, 8>,
          .stage_row_16 = stage_row<V, 16>,
          .stage_row_32 = stage_row<V, 32>,
          .gather_taps = gather_taps<V>,
          .pixels_to_taps = pixels_to_taps<V>,
          .line_to_taps = line_to_taps<V>,
          .line_to_shared_taps = line_to_shared_taps<V>,
          .gradient_block = V::kGradientBlock,
          .gdn_row_backward_8 = gdn_row_backward<V, 8>,
          .gdn_row_backward_16 = gdn_row_backward<V, 16>,
          .gdn_row_backward_32 = gdn_row_backward<V, 32>,
          .parameter_gradient = parameter_gradient<V>,
          .input_row_gradient = input_row_gradient<V>,
          .matmul = matmul<V>,
          .normalize = normalize<V>,
          .lanes = V::kLanes,
          .multiply_adds = multiply_adds<V>,
          .gdn = gdn_kernels<V>()};
}

}  // namespace
}  // namespace meon::cpu
