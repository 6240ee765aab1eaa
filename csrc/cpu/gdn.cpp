// GDN and GDN with max-pool: cuts the pixels into tasks for the kernels of simd/gdn_body.h.
#include <algorithm>
#include <type_traits>

#include "cpu/gdn_tiles.h"
#include "cpu/kernels.h"
#include "cpu/reduction.h"
#include "cpu/scratch.h"
#include "cpu/simd/table.h"

namespace meon::cpu {
namespace {

template <class T>
const GdnKernels<T>& kernels() {
  if constexpr (std::is_same_v<T, float>) {
    return choose_simd().gdn;
  } else {
    return gdn_kernels_double();
  }
}

struct Pixels {
  GdnGeometry geometry;
  int64_t count;  // of the output
};

// Pixels that lie evenly through the whole batch are one row: then no tile is cut short at the end of a sample.
Pixels pixels_of(const GdnShape& s) {
  const int64_t C = s.channels, count = s.batch * s.spatial;
  GdnGeometry g{.channels = C, .rows = 1, .row_length = s.spatial};
  g.x = {.sample = C * s.spatial, .row = 0, .pixel = s.stride_s, .channel = s.stride_c};
  if (s.stride_c == 1 && (s.stride_s == C || s.spatial == 1)) {
    g.row_length = count;
    g.x = {.sample = 0, .row = 0, .pixel = C, .channel = 1};
  }
  g.y = g.x;
  return {g, count};
}

GdnGeometry::Side side_of(int64_t channels, int64_t height, int64_t width, bool channels_last, int64_t pool) {
  const int64_t pixel = channels_last ? channels : 1;
  return {.sample = channels * height * width,
          .row = pool * width * pixel,
          .pixel = pool * pixel,
          .channel = channels_last ? 1 : height * width};
}

Pixels pixels_of(const GdnPoolShape& s) {
  if (s.pool == 1 && s.x_channels_last == s.y_channels_last) {
    const int64_t spatial = s.height * s.width;
    return pixels_of(GdnShape{.batch = s.batch,
                              .channels = s.channels,
                              .spatial = spatial,
                              .stride_c = s.x_channels_last ? 1 : spatial,
                              .stride_s = s.x_channels_last ? s.channels : 1});
  }
  GdnGeometry g{.channels = s.channels, .rows = s.out_h(), .row_length = s.out_w()};
  g.x = side_of(s.channels, s.height, s.width, s.x_channels_last, s.pool);
  g.y = side_of(s.channels, s.out_h(), s.out_w(), s.y_channels_last, 1);
  g.pool = s.pool;
  g.window_row = g.x.row / s.pool;
  g.window_column = g.x.pixel / s.pool;
  return {g, s.batch * s.out_h() * s.out_w()};
}

template <class T>
void forward(const Pixels& pixels, const T* x, const T* beta, const T* gamma, T* y, const Parallel& parallel) {
  const int64_t C = pixels.geometry.channels;
  if (C == 0 || pixels.count == 0) return;
  const GdnKernels<T>& k = kernels<T>();
  // Some tasks for each thread, so that one that is held up does not hold up all; but none too small to be worth a
  // thread's while.
  const int64_t tiles = (pixels.count + kGdnTile - 1) / kGdnTile;
  const int64_t least = 1 + 4096 / (C * C);
  const int64_t tasks = std::clamp<int64_t>(tiles / least, 1, 4 * parallel.threads());
  parallel.for_each(tasks, [&](int64_t task) {
    const Scratch<T> scratch(gdn_forward_scratch(C));
    const int64_t first = tiles * task / tasks * kGdnTile;
    const int64_t last = std::min(tiles * (task + 1) / tasks * kGdnTile, pixels.count);
    k.forward({pixels.geometry, x, beta, gamma, y, first, last, scratch.data()});
  });
}

// With n_i = beta_i + sum_j gamma_ij x_j^2, r_i = n_i^-1/2, t_i = dL/dn_i = -1/2 (g_i x_i r_i) r_i^2:
//   dL/dx_j = g_j r_j + 2 x_j sum_i t_i gamma_ij,  dL/dbeta_i = sum t_i,  dL/dgamma_ij = sum t_i x_j^2.
template <class Params, class T = std::remove_const_t<std::remove_pointer_t<decltype(Params::x)>>>
void backward(const Params& p, const Pixels& pixels, const Parallel& parallel) {
  const int64_t C = pixels.geometry.channels;
  const int64_t windows = kGdnTile / (pixels.geometry.pool * pixels.geometry.pool);  // of a tile
  const ChunkedSum sums(C == 0 ? 0 : (pixels.count + windows - 1) / windows, C + C * C, 8);
  const GdnKernels<T>& k = kernels<T>();
  parallel.for_each(sums.chunks(), [&](int64_t chunk) {
    const Scratch<T> scratch(gdn_backward_scratch(C));
    double* partial = sums.partial(chunk);
    const int64_t first = sums.begin(chunk) * windows, last = std::min(sums.end(chunk) * windows, pixels.count);
    k.backward(
        {pixels.geometry, p.grad_y, p.x, p.beta, p.gamma, p.grad_x, partial, partial + C, first, last, scratch.data()});
  });
  sums.finish(0, C, p.grad_beta);
  sums.finish(C, C * C, p.grad_gamma, parallel);
}

}  // namespace

template <class T>
void gdn_forward(const GdnForward<T>& p, const Parallel& parallel) {
  forward(pixels_of(p.shape), p.x, p.beta, p.gamma, p.y, parallel);
}

template <class T>
void gdn_backward(const GdnBackward<T>& p, const Parallel& parallel) {
  backward(p, pixels_of(p.shape), parallel);
}

template <class T>
void gdn_pool_forward(const GdnPoolForward<T>& p, const Parallel& parallel) {
  forward(pixels_of(p.shape), p.x, p.beta, p.gamma, p.y, parallel);
}

template <class T>
void gdn_pool_backward(const GdnPoolBackward<T>& p, const Parallel& parallel) {
  const GdnPoolShape& s = p.shape;
  // Rows and columns that fill no window.
  if (s.height % s.pool != 0 || s.width % s.pool != 0) {
    std::fill_n(p.grad_x, s.batch * s.channels * s.height * s.width, T(0));
  }
  backward(p, pixels_of(s), parallel);
}

template void gdn_forward<float>(const GdnForward<float>&, const Parallel&);
template void gdn_forward<double>(const GdnForward<double>&, const Parallel&);
template void gdn_backward<float>(const GdnBackward<float>&, const Parallel&);
template void gdn_backward<double>(const GdnBackward<double>&, const Parallel&);
template void gdn_pool_forward<float>(const GdnPoolForward<float>&, const Parallel&);
template void gdn_pool_forward<double>(const GdnPoolForward<double>&, const Parallel&);
template void gdn_pool_backward<float>(const GdnPoolBackward<float>&, const Parallel&);
template void gdn_pool_backward<double>(const GdnPoolBackward<double>&, const Parallel&);

}  // namespace meon::cpu
