// GDN and GDN with max-pool, forward and backward, over the vectors V of body.h.
//
// A tile is kGdnTile pixels as [C][kGdnTile], whatever the layout in memory, so that both layouts share every bit. The
// norms of a tile are a matrix product, gamma times squares, kGdnRows channels and kGdnVectors vectors of pixels at a
// time in registers; so are both products of the backward. Every sum of a pixel runs over the channels in order.
//
// No standard library here; body.h says why.
#pragma once

#include "cpu/gdn_tiles.h"

namespace meon::cpu {
namespace {

// sum[m][v] += sum_k a[m * a_row + k * a_column] b[k * b_row + v * kLanes ...], k in order.
template <class V, int M, int NV, class T = typename V::Element>
inline __attribute__((always_inline)) void multiply_add(int64_t K, const T* a, int64_t a_row, int64_t a_column,
                                                        const T* b, int64_t b_row, V (&sum)[M][NV]) {
  for (int64_t k = 0; k < K; ++k, a += a_column, b += b_row) {
    V column[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) column[v] = V::load(b + v * V::kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const V weight = V::set1(a[m * a_row]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[m][v] = V::fma(weight, column[v], sum[m][v]);
    }
  }
}

// A number of rows or vectors as a template argument.
template <int N>
struct Count {
  static constexpr int value = N;
};

// Cuts 0..count-1 into blocks of Most, and what is left into smaller ones: f(first, Count<size>).
template <int Most, class F>
inline __attribute__((always_inline)) void in_blocks(int64_t first, int64_t count, const F& f) {
  for (; first + Most <= count; first += Most) f(first, Count<Most>());
  if constexpr (Most > 1) in_blocks<Most == 3 ? 2 : Most / 2>(first, count, f);
}

// The product a [rows, K] times b [K, vectors], block by block of registers: `start(row)` is what the sums of a row
// start from, and `finish(row, vector, sum)` takes each vector of them. Blocks of columns outside, so that theirs of b
// stay in the first-level cache.
template <class V, class Start, class Finish, class T = typename V::Element>
inline void product(int64_t rows, int64_t vectors, int64_t K, const T* a, int64_t a_row, int64_t a_column, const T* b,
                    int64_t b_row, const Start& start, const Finish& finish) {
  in_blocks<V::kGdnVectors>(0, vectors, [&](int64_t vector, auto vectors_of) {
    in_blocks<V::kGdnRows>(0, rows, [&](int64_t row, auto rows_of) {
      constexpr int M = decltype(rows_of)::value, NV = decltype(vectors_of)::value;
      V sum[M][NV];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const V first = start(row + m);
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) sum[m][v] = first;
      }
      multiply_add<V, M, NV>(K, a + row * a_row, a_row, a_column, b + vector * V::kLanes, b_row, sum);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) finish(row + m, vector + v, sum[m][v]);
      }
    });
  });
}

// --- between memory and tiles -------------------------------------------------------------------------------------

// Rows to columns: kLanes vectors, interleaved log2(kLanes) times.
template <class V>
inline __attribute__((always_inline)) void transpose(V (&r)[V::kLanes]) {
  constexpr int W = V::kLanes;
#pragma GCC unroll 4
  for (int step = 1; step < W; step *= 2) {
    V next[W];
#pragma GCC unroll 8
    for (int i = 0; i < W / 2; ++i) V::zip(r[i], r[i + W / 2], next[2 * i], next[2 * i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) r[i] = next[i];
  }
}

// to[column * to_row + row] = from[row * from_row + column]
template <class V, class T = typename V::Element>
void transpose_copy(const T* from, int64_t from_row, int64_t rows, int64_t columns, T* to, int64_t to_row) {
  constexpr int W = V::kLanes;
  for (int64_t row = 0; row < rows; row += W) {
    const int height = rows - row < W ? static_cast<int>(rows - row) : W;
    for (int64_t column = 0; column < columns; column += W) {
      const int width = columns - column < W ? static_cast<int>(columns - column) : W;
      const T* in = from + row * from_row + column;
      T* out = to + column * to_row + row;
      V r[W];
      if (height == W && width == W) {
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) r[i] = V::load(in + i * from_row);
        transpose(r);
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) V::store(out + i * to_row, r[i]);
      } else {
        for (int i = 0; i < W; ++i) r[i] = i < height ? V::load_first(in + i * from_row, width) : V::set1(0);
        transpose(r);
        for (int i = 0; i < width; ++i) V::store_first(out + i * to_row, r[i], height);
      }
    }
  }
}

// Pixels `step` apart to one row of a tile, and back.
template <class V, class T = typename V::Element>
inline void load_pixels(const T* from, int64_t step, int64_t count, T* to) {
  if (step == 1) {
    int64_t i = 0;
    for (; i + V::kLanes <= count; i += V::kLanes) V::store(to + i, V::load(from + i));
    if (i < count)
      V::store_first(to + i, V::load_first(from + i, static_cast<int>(count - i)), static_cast<int>(count - i));
  } else if (step == 2) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[2 * i];
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i * step];
  }
}

template <class V, class T = typename V::Element>
inline void store_pixels(const T* from, int64_t step, int64_t count, T* to) {
  if (step == 1) {
    load_pixels<V>(from, 1, count, to);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i * step] = from[i];
  }
}

// f(offset in memory, column of the tile, pixels) for each stretch of output pixels [first, first + count) that lies in
// one row.
template <class F>
inline void for_each_run(const GdnGeometry& g, const GdnGeometry::Side& side, int64_t first, int64_t count,
                         const F& f) {
  for (int64_t column = 0; column < count;) {
    const int64_t row = (first + column) / g.row_length, at = (first + column) % g.row_length;
    const int64_t rest = count - column, run = rest < g.row_length - at ? rest : g.row_length - at;
    f(row / g.rows * side.sample + row % g.rows * side.row + at * side.pixel, column, run);
    column += run;
  }
}

template <class V, class T = typename V::Element>
void load_tile(const GdnGeometry& g, const GdnGeometry::Side& side, const T* from, int64_t first, int64_t count,
               T* tile) {
  for_each_run(g, side, first, count, [&](int64_t offset, int64_t column, int64_t run) {
    if (side.channel == 1) {
      transpose_copy<V>(from + offset, side.pixel, run, g.channels, tile + column, kGdnTile);
    } else {
      for (int64_t c = 0; c < g.channels; ++c) {
        load_pixels<V>(from + offset + c * side.channel, side.pixel, run, tile + c * kGdnTile + column);
      }
    }
  });
}

template <class V, class T = typename V::Element>
void store_tile(const GdnGeometry& g, const GdnGeometry::Side& side, const T* tile, int64_t first, int64_t count,
                T* to) {
  for_each_run(g, side, first, count, [&](int64_t offset, int64_t column, int64_t run) {
    if (side.channel == 1) {
      transpose_copy<V>(tile + column, kGdnTile, g.channels, run, to + offset, side.pixel);
    } else {
      for (int64_t c = 0; c < g.channels; ++c) {
        store_pixels<V>(tile + c * kGdnTile + column, side.pixel, run, to + offset + c * side.channel);
      }
    }
  });
}

// Asks for the memory of a tile, one share with each channel's turn in a product, so that it arrives meanwhile: strided
// as it is, no hardware prefetcher follows it.
template <class T>
struct Prefetch {
  const T* first;
  int64_t share;  // from one share to the next

  Prefetch(const GdnGeometry& g, const GdnGeometry::Side& side, const T* from, int64_t pixel)
      : first(from), share(side.channel == 1 ? kGdnTile : side.channel) {
    for_each_run(g, side, pixel, 1, [&](int64_t offset, int64_t, int64_t) { first += offset; });
  }

  void operator()(int64_t channel) const {
    const char* at = reinterpret_cast<const char*>(first + channel * share);
#pragma GCC unroll 8
    for (int line = 0; line <= static_cast<int>(kGdnTile * sizeof(T) / 64); ++line) {
      __builtin_prefetch(at + 64 * line, 0, 2);
    }
  }
};

inline int64_t window_offset(const GdnGeometry& g, int64_t element) {
  return element / g.pool * g.window_row + element % g.pool * g.window_column;
}

// --- the kernels --------------------------------------------------------------------------------------------------

// Columns [first, last) of each row. Scratch memory is not initialised, and whatever is found there, NaN or subnormal,
// would be computed with in the last vector of a row: not wrong, as it is not stored, but slow.
template <class T>
inline void clear(int64_t rows, int64_t row_length, int64_t first, int64_t last, T* tile) {
  if (first == last) return;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = first; i < last; ++i) tile[row * row_length + i] = 0;
  }
}

template <class V, class T = typename V::Element>
inline void square(int64_t channels, int64_t vectors, const T* x, T* squares) {
  for (int64_t c = 0; c < channels; ++c, x += kGdnTile, squares += kGdnTile) {
    for (int64_t i = 0; i < vectors * V::kLanes; i += V::kLanes) {
      const V value = V::load(x + i);
      V::store(squares + i, V::mul(value, value));
    }
  }
}

// One element of every window after another: the best so far waits in a tile of its own.
template <class V, class T = typename V::Element>
void gdn_forward(const GdnForwardTiles<T>& a) {
  constexpr int W = V::kLanes;
  const GdnGeometry& g = a.geometry;
  const int64_t C = g.channels, elements = g.pool * g.pool;
  T* const x = a.scratch;
  T* const squares = x + gdn_padded(C) * kGdnTile;
  T* const best = squares + gdn_padded(C) * kGdnTile;
  for (int64_t first = a.first; first < a.last; first += kGdnTile) {
    const int64_t count = a.last - first < kGdnTile ? a.last - first : kGdnTile;
    const int64_t vectors = (count + W - 1) / W;
    for (int64_t element = 0; element < elements; ++element) {
      load_tile<V>(g, g.x, a.x + window_offset(g, element), first, count, x);
      clear(C, kGdnTile, count, vectors * W, x);
      square<V>(C, vectors, x, squares);
      T* const y = elements == 1 ? x : best;
      const Prefetch<T> next_x(g, g.x, a.x, first + kGdnTile < a.last ? first + kGdnTile : first);
      const Prefetch<T> next_y(g, g.y, a.y, first);
      product<V>(
          C, vectors, C, a.gamma, C, 1, squares, kGdnTile,
          [&](int64_t row) {
            next_x(row);
            next_y(row);
            return V::set1(a.beta[row]);
          },
          [&](int64_t row, int64_t vector, V norm) {
            const int64_t at = row * kGdnTile + vector * W;
            const V value = V::divide_by_root(V::load(x + at), norm);
            V::store(y + at, element == 0 ? value : V::max_nan(value, V::load(y + at)));
          });
    }
    store_tile<V>(g, g.y, elements == 1 ? x : best, first, count, a.y);
  }
}

// grad[c][element * windows + w] = grad_y[c][w] at the first largest element of window w, 0 at the others; NaN counts
// as largest, and of several the last, as in torch's max_pool2d.
template <class T>
void route(int64_t channels, int64_t elements, int64_t windows, const T* y, const T* grad_y, T* grad) {
  for (int64_t c = 0; c < channels; ++c, y += kGdnTile, grad_y += kGdnTile, grad += kGdnTile) {
    T best[kGdnTile];
    int32_t best_at[kGdnTile];
    for (int64_t w = 0; w < windows; ++w) {
      best[w] = y[w];
      best_at[w] = 0;
    }
    for (int64_t element = 1; element < elements; ++element) {
      const T* value = y + element * windows;
      for (int64_t w = 0; w < windows; ++w) {
        const bool better = value[w] > best[w] || value[w] != value[w];
        best[w] = better ? value[w] : best[w];
        best_at[w] = better ? static_cast<int32_t>(element) : best_at[w];
      }
    }
    for (int64_t element = 0; element < elements; ++element) {
      for (int64_t w = 0; w < windows; ++w) grad[element * windows + w] = best_at[w] == element ? grad_y[w] : T(0);
    }
  }
}

// grad_beta[c] += sum over the pixels of t, grad_gamma[i][j] += sum over the pixels of t_i x_j^2. `squares_t` holds the
// squares as [pixels][squares_row]; tile n of the group has counts[n] pixels.
template <class V, class T = typename V::Element>
void add_parameter_gradients(int64_t channels, int tiles, const int64_t* counts, const T* t, const T* squares_t,
                             int64_t squares_row, double* grad_beta, double* grad_gamma) {
  constexpr int W = V::kLanes;
  const int64_t tile_size = gdn_padded(channels) * kGdnTile;
  for (int64_t c = 0; c < channels; ++c) {
    V lanes = V::set1(0);
    for (int tile = 0; tile < tiles; ++tile) {
      const T* row = t + tile * tile_size + c * kGdnTile;
      for (int64_t i = 0; i < counts[tile]; i += W) lanes = V::add(lanes, V::load(row + i));
    }
    T values[W];
    V::store(values, lanes);
    T sum = 0;
    for (int i = 0; i < W; ++i) sum += values[i];
    grad_beta[c] += static_cast<double>(sum);
  }
  const int64_t vectors = (channels + W - 1) / W;
  in_blocks<V::kGdnVectors>(0, vectors, [&](int64_t vector, auto vectors_of) {
    in_blocks<V::kGdnRows>(0, channels, [&](int64_t row, auto rows_of) {
      constexpr int M = decltype(rows_of)::value, NV = decltype(vectors_of)::value;
      V sum[M][NV];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) sum[m][v] = V::set1(0);
      }
      for (int tile = 0; tile < tiles; ++tile) {
        multiply_add<V, M, NV>(counts[tile], t + tile * tile_size + row * kGdnTile, kGdnTile, 1,
                               squares_t + tile * kGdnTile * squares_row + vector * W, squares_row, sum);
      }
      const int64_t column = vector * W, rest = channels - column, width = rest < NV * W ? rest : NV * W;
      for (int m = 0; m < M; ++m) {
        T values[NV * W];
        for (int v = 0; v < NV; ++v) V::store(values + v * W, sum[m][v]);
        double* total = grad_gamma + (row + m) * channels + column;
        for (int64_t i = 0; i < width; ++i) total[i] += static_cast<double>(values[i]);
      }
    });
  });
}

// The formulas are in gdn.cpp. A tile holds every element of its windows, [C][elements * windows].
template <class V, class T = typename V::Element>
void gdn_backward(const GdnBackwardTiles<T>& a) {
  constexpr int W = V::kLanes;
  const GdnGeometry& g = a.geometry;
  const int64_t C = g.channels, elements = g.pool * g.pool, most = kGdnTile / elements;
  const int64_t tile_size = gdn_padded(C) * kGdnTile;
  const int64_t group = gdn_group(C);
  const int64_t squares_row = gdn_squares_row(C);
  T* const x = a.scratch;
  T* const grad = x + tile_size;
  T* const squares = grad + tile_size;
  T* const root = squares + tile_size;
  T* const y = root + tile_size;
  T* const group_t = y + tile_size;
  T* const group_squares = group_t + group * tile_size;
  clear(group * kGdnTile, squares_row, C, squares_row, group_squares);
  int64_t counts[8];
  int tiles = 0;
  for (int64_t first = a.first; first < a.last; first += most) {
    const int64_t windows = a.last - first < most ? a.last - first : most;
    const int64_t count = elements * windows, vectors = (count + W - 1) / W;
    T* const t = group_t + tiles * tile_size;
    for (int64_t element = 0; element < elements; ++element) {
      load_tile<V>(g, g.x, a.x + window_offset(g, element), first, windows, x + element * windows);
    }
    clear(C, kGdnTile, count, vectors * W, x);
    square<V>(C, vectors, x, squares);
    transpose_copy<V>(squares, kGdnTile, C, count, group_squares + tiles * kGdnTile * squares_row, squares_row);
    const int64_t next = first + most < a.last ? first + most : first;
    const Prefetch<T> next_x(g, g.x, a.x, next), next_grad(g, g.y, a.grad_y, next), out(g, g.x, a.grad_x, first);
    product<V>(
        C, vectors, C, a.gamma, C, 1, squares, kGdnTile,
        [&](int64_t row) {
          out(row);
          return V::set1(a.beta[row]);
        },
        [&](int64_t row, int64_t vector, V norm) {
          const int64_t at = row * kGdnTile + vector * W;
          V::store(root + at, V::divide_by_root(V::set1(1), norm));
          // The forward's own rounding, so that ties fall as they fell there.
          if (elements > 1) V::store(y + at, V::divide_by_root(V::load(x + at), norm));
        });
    if (elements > 1) {
      load_tile<V>(g, g.y, a.grad_y, first, windows, t);
      route(C, elements, windows, y, t, grad);
    } else {
      load_tile<V>(g, g.y, a.grad_y, first, windows, grad);
    }
    clear(C, kGdnTile, count, vectors * W, grad);
    for (int64_t c = 0; c < C; ++c) {
      for (int64_t i = 0; i < vectors * W; i += W) {
        const int64_t at = c * kGdnTile + i;
        const V r = V::load(root + at);
        // x r first: it stays bounded where x is huge. Then r twice: r^2 leaves the range where the norm is subnormal.
        const V gxr = V::mul(V::load(grad + at), V::mul(V::load(x + at), r));
        V::store(t + at, V::mul(V::mul(V::mul(V::set1(T(-0.5)), gxr), r), r));
      }
    }
    clear(C, kGdnTile, count, vectors * W, t);
    product<V>(
        C, vectors, C, a.gamma, 1, C, t, kGdnTile,
        [&](int64_t row) {
          next_x(row);
          next_grad(row);
          return V::set1(0);
        },
        [&](int64_t row, int64_t vector, V sum) {
          const int64_t at = row * kGdnTile + vector * W;
          const V half = V::mul(V::load(x + at), sum);
          V::store(x + at, V::fma(V::load(grad + at), V::load(root + at), V::add(half, half)));
        });
    for (int64_t element = 0; element < elements; ++element) {
      store_tile<V>(g, g.x, x + element * windows, first, windows, a.grad_x + window_offset(g, element));
    }
    counts[tiles++] = count;
    if (tiles == group || first + most >= a.last) {
      add_parameter_gradients<V>(C, tiles, counts, group_t, group_squares, squares_row, a.grad_beta, a.grad_gamma);
      tiles = 0;
    }
  }
}

template <class V>
constexpr GdnKernels<typename V::Element> gdn_kernels() {
  return {.forward = gdn_forward<V>, .backward = gdn_backward<V>};
}

}  // namespace
}  // namespace meon::cpu
