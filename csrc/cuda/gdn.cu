// Launchers of the GDN kernels. Also compiled by g++ (tests/cuda_on_host).
#include <algorithm>
#include <type_traits>

#include "cuda/gdn.cuh"
#include "cuda/gdn.h"
#include "cuda/reduce.cuh"

namespace meon::cuda {
namespace {

// The one switch from the number of channels to kRows: f(std::integral_constant<int, kRows>).
template <class F>
auto dispatch_rows(int64_t channels, F&& f) {
  if (channels <= 8) return f(std::integral_constant<int, 8>{});
  if (channels <= 16) return f(std::integral_constant<int, 16>{});
  if (channels <= 32) return f(std::integral_constant<int, 32>{});
  return f(std::integral_constant<int, 64>{});
}

struct Tiling {
  int64_t pixels;  // tiles of pixels
  int64_t rows;    // tiles of channels
};

template <class T, int kRows>
Tiling tiling(const GdnShape& s) {
  return {divide_up(s.batch * s.spatial, GdnTile<AccOf<T>, kRows>::kPixels), divide_up(s.channels, kRows)};
}

// How many partial sums of the parameter gradients: enough blocks to fill any GPU, of which none has more than one
// partial sum. From the shape alone, never from the device, so that every GPU adds up in the same order.
int64_t backward_splits(const Tiling& t) {
  constexpr int64_t kBlocks = 1024;
  return std::min(t.pixels, std::max<int64_t>(1, kBlocks / (t.rows * t.rows)));
}

// The workspace: partials [splits, C * C + C], then, where one tile does not hold all channels, inverse [N, C, S].
template <class T>
AccOf<T>* inverse_in(void* workspace, const GdnShape& s, int64_t splits) {
  return static_cast<AccOf<T>*>(workspace) + splits * gdn_partial_size(s.channels);
}

}  // namespace

template <class T>
LaunchResult gdn_forward(const GdnForward<T>& p, cudaStream_t stream) {
  if (p.shape.batch * p.shape.channels * p.shape.spatial == 0) return {};
  return dispatch_rows(p.shape.channels, [&](auto rows) {
    const Tiling t = tiling<T, rows>(p.shape);
    return launch("gdn_forward_kernel", gdn_forward_kernel<T, rows>, {t.pixels, t.rows}, kGdnThreads, stream, p);
  });
}

// gdn_backward with a number of splits of the caller's choice: tests make each block work on several tiles.
template <class T>
LaunchResult gdn_backward_in_splits(const GdnBackward<T>& p, void* workspace, int64_t splits, cudaStream_t stream) {
  const GdnShape& s = p.shape;
  if (s.channels == 0) return {};
  auto* partials = static_cast<AccOf<T>*>(workspace);
  if (splits > 0) {
    const LaunchResult result = dispatch_rows(s.channels, [&](auto rows) -> LaunchResult {
      const Tiling t = tiling<T, rows>(s);
      if constexpr (rows == 64) {
        if (s.channels > rows) {
          AccOf<T>* inverse = inverse_in<T>(workspace, s, splits);
          LaunchResult r = launch("gdn_inverse_norm_kernel", gdn_inverse_norm_kernel<T, rows>, {t.pixels, t.rows},
                                  kGdnThreads, stream, p, inverse);
          if (r.error != cudaSuccess) return r;
          r = launch("gdn_input_gradient_kernel", gdn_input_gradient_kernel<T, rows>, {t.pixels, t.rows}, kGdnThreads,
                     stream, p, inverse);
          if (r.error != cudaSuccess) return r;
          return launch("gdn_parameter_gradient_kernel", gdn_parameter_gradient_kernel<T, rows>,
                        {splits, t.rows, t.rows}, kGdnThreads, stream, p, t.pixels, inverse, partials);
        }
      }
      return launch("gdn_backward_kernel", gdn_backward_kernel<T, rows>, {splits}, kGdnThreads, stream, p, t.pixels,
                    partials);
    });
    if (result.error != cudaSuccess) return result;
  }
  // With no pixel at all there is no partial sum, and this writes zeros.
  const int64_t C = s.channels;
  return reduce<T>({partials, splits, p.grad_gamma, C * C, p.grad_beta, C}, stream);
}

template <class T>
int64_t gdn_backward_splits(const GdnShape& s) {
  return dispatch_rows(s.channels, [&](auto rows) { return backward_splits(tiling<T, rows>(s)); });
}

template <class T>
size_t gdn_backward_workspace_in_splits(const GdnShape& s, int64_t splits) {
  int64_t elements = splits * gdn_partial_size(s.channels);
  if (s.channels > 64) elements += s.batch * s.channels * s.spatial;
  return static_cast<size_t>(elements) * sizeof(AccOf<T>);
}

template <class T>
size_t gdn_backward_workspace(const GdnShape& shape) {
  if (shape.channels == 0) return 0;
  return gdn_backward_workspace_in_splits<T>(shape, gdn_backward_splits<T>(shape));
}

template <class T>
LaunchResult gdn_backward(const GdnBackward<T>& p, void* workspace, cudaStream_t stream) {
  if (p.shape.channels == 0) return {};
  return gdn_backward_in_splits<T>(p, workspace, gdn_backward_splits<T>(p.shape), stream);
}

#define MEON_INSTANTIATE(T)                                                 \
  template LaunchResult gdn_forward<T>(const GdnForward<T>&, cudaStream_t); \
  template size_t gdn_backward_workspace<T>(const GdnShape&);               \
  template LaunchResult gdn_backward<T>(const GdnBackward<T>&, void*, cudaStream_t);
MEON_INSTANTIATE(float)
MEON_INSTANTIATE(double)
MEON_INSTANTIATE(__half)
MEON_INSTANTIATE(__nv_bfloat16)
#undef MEON_INSTANTIATE

}  // namespace meon::cuda
