// The backward of a shared stage (5 x 5, stride 2, pad 2, 2 x 2 pool) over the vector type V of body.h. Vectors run
// over pooled columns, as in its forward. No standard library here, for the reason given there.
#pragma once

#include "cpu/simd/table.h"
#include "cpu/simd/tap_places.h"

namespace meon::cpu {
namespace {

// Adds the lane sums of `N` vectors to to[0], to[stride] ... , `run` neighbours at a time.
template <class V, int N, int Run>
void add_sums(const V* sums, double* to, int64_t stride) {
  constexpr int kQuads = (N + 3) / 4;
  float total[4 * kQuads];
#pragma GCC unroll 8
  for (int q = 0; q < kQuads; ++q) {
    // Past the end the last vector stands in; nobody reads its sum.
    auto at = [&](int i) { return sums[i < N ? i : N - 1]; };
    V::sum4(at(4 * q), at(4 * q + 1), at(4 * q + 2), at(4 * q + 3), total + 4 * q);
  }
  for (int i = 0; i < N / Run; ++i) {
    for (int k = 0; k < Run; ++k) to[i * stride + k] += total[i * Run + k];
  }
}

// Per column: norm and GDN output again, the gradient to the first maximum of the window, then through GDN. The
// formulas are in gdn.cpp.
template <class V, int CO>
void gdn_row_backward(const GdnRowBackward& a) {
  constexpr int W = V::kLanes, B = V::kBlock;
  alignas(64) float squares[2][CO][W];
  alignas(64) float y[4][CO][W];
  alignas(64) float r[4][CO][W];  // norm^-1/2, later times the gradient of y
  const int64_t plane = CO * a.columns;
  for (int64_t column = 0; column < a.columns; column += W) {
    for (int ry = 0; ry < 2; ++ry) {
      const float* z = a.z + 2 * ry * plane + column;
      for (int c = 0; c < CO; ++c) {
        const V z0 = V::load(z + c * a.columns), z1 = V::load(z + plane + c * a.columns);
        V::store(squares[0][c], V::mul(z0, z0));
        V::store(squares[1][c], V::mul(z1, z1));
        // The next row's z, where it was kept: the processor sees no pattern in these strides.
        __builtin_prefetch(z + 4 * plane + c * a.columns);
        __builtin_prefetch(z + 5 * plane + c * a.columns);
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
#pragma GCC unroll 2
          for (int rx = 0; rx < 2; ++rx) {
            // The forward's own rounding of y, so that ties fall as they fell there.
            V::store(y[2 * ry + rx][c], V::divide_by_root(V::load(z + rx * plane + c * a.columns), norm[b][rx]));
            V::store(r[2 * ry + rx][c], V::divide_by_root(V::set1(1.0f), norm[b][rx]));
          }
        }
      }
    }

    for (int c = 0; c < CO; ++c) {
      const V g = V::load(a.grad_y + c * a.columns + column);
      const V y1 = V::load(y[1][c]), y2 = V::load(y[2][c]), y3 = V::load(y[3][c]);
      V best = V::load(y[0][c]);
      const auto second = V::beats(y1, best);
      best = V::max_nan(y1, best);
      const auto third = V::beats(y2, best);
      best = V::max_nan(y2, best);
      const auto fourth = V::beats(y3, best);
      const V upper = V::drop(fourth, V::drop(third, g));
      const V routed[4] = {V::drop(second, upper), V::keep(second, upper), V::drop(fourth, V::keep(third, g)),
                           V::keep(fourth, g)};
      V sum = V::load(a.beta_sums + c * kRowPad);
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) {
        const V d = routed[p], root = V::load(r[p][c]);
        // The root twice: its square leaves the range where the norm is subnormal.
        const V t = V::mul(V::mul(V::mul(V::set1(-0.5f), V::mul(d, V::load(y[p][c]))), root), root);
        // Where nothing comes in, nothing goes on, not even 0 times infinity.
        const V used = V::keep(V::nonzero(d), t);
        V::store(a.t + p * plane + c * a.columns + column, used);
        V::store(r[p][c], V::mul(d, root));
        sum = V::add(sum, used);
      }
      V::store(a.beta_sums + c * kRowPad, sum);
    }

    for (int ry = 0; ry < 2; ++ry) {
      const int64_t first = 2 * ry * plane + column;
      for (int block = 0; block < CO / B; ++block) {
        V sum[B][2];
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) sum[b][0] = sum[b][1] = V::set1(0.0f);
        const float* g = a.gamma_columns + block * CO * B;
        for (int i = 0; i < CO; ++i, g += B) {
          const V t0 = V::load(a.t + first + i * a.columns), t1 = V::load(a.t + first + plane + i * a.columns);
#pragma GCC unroll 8
          for (int b = 0; b < B; ++b) {
            const V gamma = V::set1(g[b]);
            sum[b][0] = V::fma(gamma, t0, sum[b][0]);
            sum[b][1] = V::fma(gamma, t1, sum[b][1]);
          }
        }
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) {
          const int c = block * B + b;
          V total = V::load(a.bias_sums + c * kRowPad);
#pragma GCC unroll 2
          for (int rx = 0; rx < 2; ++rx) {
            const int64_t at = first + rx * plane + c * a.columns;
            const V z = V::load(a.z + at);
            const V all = V::fma(V::add(z, z), sum[b][rx], V::load(r[2 * ry + rx][c]));
            const V dz = V::masked(all, a.valid + column);
            V::store(a.dz + at, dz);
            total = V::add(total, dz);
          }
          V::store(a.bias_sums + c * kRowPad, total);
        }
      }
    }
  }
}

// Outer products summed over pixels. The sums of a few channels with 5 taps, or with 4 channels, stay in registers over
// the whole band, which is small enough for what they read to stay in the cache.
template <class V>
void parameter_gradient(const ParameterGradient& a) {
  constexpr int W = V::kLanes, G = V::kGradientBlock, J = 4;
  const int64_t columns = a.columns, plane = a.out_channels * columns;
  const TapPlaces places(a.shared_taps, a.tap_stride);
  for (int64_t ci = 0; ci < a.in_channels; ++ci) {
    for (int64_t co = 0; co < a.out_channels; co += G) {
      for (int kh = 0; kh < 5; ++kh) {
        V sum[G * 5];
#pragma GCC unroll 20
        for (int i = 0; i < G * 5; ++i) sum[i] = V::set1(0.0f);
        for (int64_t row = 0; row < 2 * a.rows; ++row) {
          const float* x = a.taps[2 * row + kh] + ci * places.channel;
          const float* dz = a.dz[row / 2] + row % 2 * 2 * plane + co * columns;
          for (int64_t column = 0; column < columns; column += W) {
            V d[G][2];
#pragma GCC unroll 4
            for (int c = 0; c < G; ++c) {
              d[c][0] = V::load(dz + c * columns + column);
              d[c][1] = V::load(dz + plane + c * columns + column);
            }
#pragma GCC unroll 7
            for (int t = 0; t < kTaps; ++t) {
              const V tap = V::load(x + places.at[t] + column);
#pragma GCC unroll 4
              for (int c = 0; c < G; ++c) {
                if (t < 5) sum[c * 5 + t] = V::fma(d[c][0], tap, sum[c * 5 + t]);
                if (t >= 2) sum[c * 5 + t - 2] = V::fma(d[c][1], tap, sum[c * 5 + t - 2]);
              }
            }
          }
        }
        add_sums<V, G * 5, 5>(sum, a.weight + (co * a.in_channels + ci) * 25 + kh * 5, a.in_channels * 25);
      }
    }
  }
  for (int64_t i = 0; i < a.out_channels; i += G) {
    for (int64_t j = 0; j < a.out_channels; j += J) {
      V sum[G * J];
#pragma GCC unroll 16
      for (int k = 0; k < G * J; ++k) sum[k] = V::set1(0.0f);
      for (int64_t row = 0; row < a.rows; ++row) {
        for (int p = 0; p < 4; ++p) {
          const float* t = a.t[row] + p * plane + i * columns;
          const float* z = a.z[row] + p * plane + j * columns;
          for (int64_t column = 0; column < columns; column += W) {
            V square[J];
#pragma GCC unroll 4
            for (int k = 0; k < J; ++k) {
              const V x = V::load(z + k * columns + column);
              square[k] = V::mul(x, x);
            }
#pragma GCC unroll 4
            for (int c = 0; c < G; ++c) {
              const V factor = V::load(t + c * columns + column);
#pragma GCC unroll 4
              for (int k = 0; k < J; ++k) sum[c * J + k] = V::fma(factor, square[k], sum[c * J + k]);
            }
          }
        }
      }
      add_sums<V, G * J, J>(sum, a.gamma + i * a.out_channels + j, a.out_channels);
    }
  }
}

// Input column 4 c + m gathers from conv columns 2 i + rx with kernel column kw where 2 rx + kw - 2 is m, of i = c, or
// m - 4 (i = c + 1) or m + 4 (i = c - 1).
template <class V>
void input_row_gradient(const InputRowGradient& a) {
  constexpr int W = V::kLanes, G = V::kGradientBlock;
  const int64_t columns = a.columns;
  for (int64_t ci = 0; ci < a.in_channels; ci += G) {
    for (int64_t column = 0; column < columns; column += W) {
      V sum[G][4];
#pragma GCC unroll 4
      for (int c = 0; c < G; ++c) sum[c][0] = sum[c][1] = sum[c][2] = sum[c][3] = V::set1(0.0f);
      for (int k = 0; k < a.count; ++k) {
        const float* w = a.weight + (ci * 5 + a.kernel_row[k] * G) * a.out_channels * 5;
        const float* left = a.dz[k] + column;
        const float* right = left + a.out_channels * columns;
        for (int64_t co = 0; co < a.out_channels; ++co, left += columns, right += columns, w += 5 * G) {
          // An element to the side of a row's first or last is another row's, and is masked out.
          const V d0 = V::load(left), next0 = V::masked(V::load(left + 1), a.has_next + column);
          const V d1 = V::load(right), previous1 = V::masked(V::load(right - 1), a.has_previous + column);
#pragma GCC unroll 4
          for (int c = 0; c < G; ++c) {
            const V w0 = V::set1(w[c]), w1 = V::set1(w[G + c]), w2 = V::set1(w[2 * G + c]);
            const V w3 = V::set1(w[3 * G + c]), w4 = V::set1(w[4 * G + c]);
            sum[c][0] = V::fma(w0, d1, sum[c][0]);
            sum[c][1] = V::fma(w1, d1, sum[c][1]);
            sum[c][2] = V::fma(w2, d1, sum[c][2]);
            sum[c][3] = V::fma(w3, d1, sum[c][3]);
            sum[c][0] = V::fma(w2, d0, sum[c][0]);
            sum[c][1] = V::fma(w3, d0, sum[c][1]);
            sum[c][2] = V::fma(w4, d0, sum[c][2]);
            sum[c][3] = V::fma(w1, next0, sum[c][3]);
            sum[c][0] = V::fma(w4, previous1, sum[c][0]);
            sum[c][2] = V::fma(w0, next0, sum[c][2]);
          }
        }
      }
#pragma GCC unroll 4
      for (int c = 0; c < G; ++c) V::interleave(sum[c], a.out + (ci + c) * 4 * columns + 4 * column);
    }
  }
}

}  // namespace
}  // namespace meon::cpu
