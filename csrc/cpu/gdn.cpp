// GDN alone: tiles of pixels, [C][tile] in cache, vectors over pixels.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/reduction.h"
#include "cpu/vector_math.h"

namespace meon::cpu {
namespace {

constexpr int64_t kTile = 64;          // pixels
constexpr int64_t kTilesPerTask = 16;  // of the forward: enough work to be worth a thread's while

// One run of at most kTile neighbouring pixels of one sample.
struct Tile {
  int64_t offset;  // of channel 0 of the first pixel
  int64_t pixels;
};

// Samples of one position each are the positions of one sample: with them a tile is full.
GdnShape with_full_tiles(const GdnShape& s) {
  if (s.spatial != 1) return s;
  return {.batch = 1, .channels = s.channels, .spatial = s.batch, .stride_c = 1, .stride_s = s.channels};
}

int64_t tile_count(const GdnShape& s) { return s.batch * ((s.spatial + kTile - 1) / kTile); }

Tile tile_at(const GdnShape& s, int64_t index) {
  const int64_t per_sample = (s.spatial + kTile - 1) / kTile;
  const int64_t first = index % per_sample * kTile;
  return {index / per_sample * s.channels * s.spatial + first * s.stride_s, std::min(kTile, s.spatial - first)};
}

template <class T>
void load(const GdnShape& s, const Tile& tile, const T* from, T* to) {
  for (int64_t c = 0; c < s.channels; ++c) {
    for (int64_t i = 0; i < tile.pixels; ++i) to[c * kTile + i] = from[tile.offset + c * s.stride_c + i * s.stride_s];
  }
}

template <class T>
void store(const GdnShape& s, const Tile& tile, const T* from, T* to) {
  for (int64_t c = 0; c < s.channels; ++c) {
    for (int64_t i = 0; i < tile.pixels; ++i) to[tile.offset + c * s.stride_c + i * s.stride_s] = from[c * kTile + i];
  }
}

// norm[i] = beta + sum_j gamma[j] squares[j][i], for one output channel.
template <class T>
void norm_row(int64_t channels, int64_t pixels, T beta, const T* gamma, const T* squares, T* norm) {
  std::fill_n(norm, pixels, beta);
  for (int64_t j = 0; j < channels; ++j) axpy(pixels, gamma[j], squares + j * kTile, norm);
}

}  // namespace

template <class T>
void gdn_forward(const GdnForward<T>& p, const Parallel& parallel) {
  const GdnShape s = with_full_tiles(p.shape);
  if (s.batch * s.channels * s.spatial == 0) return;
  const int64_t tiles = tile_count(s);
  parallel.for_each((tiles + kTilesPerTask - 1) / kTilesPerTask, [&](int64_t task) {
    std::vector<T> scratch(static_cast<size_t>(2 * s.channels * kTile + kTile));
    T* x = scratch.data();
    T* squares = x + s.channels * kTile;
    T* norm = squares + s.channels * kTile;
    for (int64_t t = task * kTilesPerTask; t < std::min(tiles, (task + 1) * kTilesPerTask); ++t) {
      const Tile tile = tile_at(s, t);
      load(s, tile, p.x, x);
      for (int64_t c = 0; c < s.channels; ++c) {
        for (int64_t i = 0; i < tile.pixels; ++i) squares[c * kTile + i] = x[c * kTile + i] * x[c * kTile + i];
      }
      for (int64_t c = 0; c < s.channels; ++c) {
        norm_row(s.channels, tile.pixels, p.beta[c], p.gamma + c * s.channels, squares, norm);
        for (int64_t i = 0; i < tile.pixels; ++i) x[c * kTile + i] /= std::sqrt(norm[i]);
      }
      store(s, tile, x, p.y);
    }
  });
}

// With n_i = beta_i + sum_j gamma_ij x_j^2, r_i = n_i^-1/2, t_i = dL/dn_i = -1/2 (g_i x_i r_i) r_i^2:
//   dL/dx_j = g_j r_j + 2 x_j sum_i t_i gamma_ij,  dL/dbeta_i = sum t_i,  dL/dgamma_ij = sum t_i x_j^2.
template <class T>
void gdn_backward(const GdnBackward<T>& p, const Parallel& parallel) {
  const GdnShape s = with_full_tiles(p.shape);
  const int64_t C = s.channels;
  const int64_t tiles = s.spatial == 0 ? 0 : tile_count(s);
  const ChunkedSum sums(tiles, C + C * C);
  parallel.for_each(sums.chunks(), [&](int64_t chunk) {
    double* grad_beta = sums.partial(chunk);
    double* grad_gamma = grad_beta + C;
    std::vector<T> scratch(static_cast<size_t>(5 * C * kTile + kTile));
    T* x = scratch.data();
    T* squares = x + C * kTile;
    T* g = squares + C * kTile;
    T* r = g + C * kTile;
    T* t = r + C * kTile;
    T* sum = t + C * kTile;
    for (int64_t index = sums.begin(chunk); index < sums.end(chunk); ++index) {
      const Tile tile = tile_at(s, index);
      const int64_t pixels = tile.pixels;
      load(s, tile, p.x, x);
      load(s, tile, p.grad_y, g);
      for (int64_t c = 0; c < C; ++c) {
        for (int64_t i = 0; i < pixels; ++i) squares[c * kTile + i] = x[c * kTile + i] * x[c * kTile + i];
      }
      for (int64_t c = 0; c < C; ++c) {
        T* rc = r + c * kTile;
        T* tc = t + c * kTile;
        norm_row(C, pixels, p.beta[c], p.gamma + c * C, squares, rc);
        T beta_sum = 0;
        for (int64_t i = 0; i < pixels; ++i) {
          rc[i] = T(1) / std::sqrt(rc[i]);
          // x r first: it stays bounded where x is huge, and so does r^2.
          tc[i] = T(-0.5) * (g[c * kTile + i] * (x[c * kTile + i] * rc[i])) * (rc[i] * rc[i]);
          beta_sum += tc[i];
        }
        grad_beta[c] += beta_sum;
        for (int64_t j = 0; j < C; ++j) grad_gamma[c * C + j] += dot(pixels, tc, squares + j * kTile);
      }
      for (int64_t j = 0; j < C; ++j) {
        std::fill_n(sum, pixels, T(0));
        for (int64_t c = 0; c < C; ++c) axpy(pixels, p.gamma[c * C + j], t + c * kTile, sum);
        for (int64_t i = 0; i < pixels; ++i) {
          const int64_t at = j * kTile + i;
          x[at] = g[at] * r[at] + 2 * x[at] * sum[i];
        }
      }
      store(s, tile, x, p.grad_x);
    }
  });
  sums.finish(0, C, p.grad_beta);
  sums.finish(C, C * C, p.grad_gamma);
}

template void gdn_forward<float>(const GdnForward<float>&, const Parallel&);
template void gdn_forward<double>(const GdnForward<double>&, const Parallel&);
template void gdn_backward<float>(const GdnBackward<float>&, const Parallel&);
template void gdn_backward<double>(const GdnBackward<double>&, const Parallel&);

}  // namespace meon::cpu
