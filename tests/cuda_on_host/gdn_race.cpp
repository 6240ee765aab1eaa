// Every GDN kernel once, with real threads, for ThreadSanitizer: a pair of accesses to shared memory that no barrier
// orders is reported, whatever came out. Prints nothing and succeeds where there is none.
//
//   gdn_race [LINE]   LINE: a __syncthreads() in gdn.cuh that then does nothing. Succeeding would mean that the barrier
//                     is not needed, or that nothing here needs it.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda/gdn.cuh"
#include "cuda_on_host.h"

namespace {

using namespace meon::cuda;

std::vector<float> ramp(int64_t size) {
  std::vector<float> v(static_cast<size_t>(size));
  for (size_t i = 0; i < v.size(); ++i) v[i] = 0.01f + static_cast<float>(i % 17) / 17;
  return v;
}

template <class... Params, class... Args>
void run(void (*kernel)(Params...), Grid grid, Args... args) {
  if (launch("", kernel, grid, kGdnThreads, nullptr, args...).error != cudaSuccess) {
    std::fprintf(stderr, "launch failed: %s\n", cuda_on_host::last_failure().c_str());
    std::exit(2);
  }
}

// One block for each row of tiles, and two tiles for each block that works on several.
template <int kRows>
void run_all(int64_t channels, bool channels_last) {
  using Tile = GdnTile<float, kRows>;
  const int64_t spatial = Tile::kPixels + 3, row_tiles = (channels + kRows - 1) / kRows, size = channels * spatial;
  const std::vector<float> x = ramp(size), grad_y = ramp(size), beta = ramp(channels),
                           gamma = ramp(channels * channels);
  std::vector<float> y(x.size()), grad_x(x.size()), grad_beta(beta.size()), grad_gamma(gamma.size());
  std::vector<float> inverse(x.size()), partials(static_cast<size_t>(gdn_partial_size(channels)));
  const meon::GdnShape s{1, channels, spatial, channels_last ? 1 : spatial, channels_last ? channels : 1};
  const meon::GdnForward<float> forward{s, x.data(), beta.data(), gamma.data(), y.data()};
  const meon::GdnBackward<float> backward{
      s, grad_y.data(), x.data(), beta.data(), gamma.data(), grad_x.data(), grad_beta.data(), grad_gamma.data()};
  run(gdn_forward_kernel<float, kRows>, {1, row_tiles}, forward);
  if (channels > kRows) {
    run(gdn_inverse_norm_kernel<float, kRows>, {1, row_tiles}, backward, inverse.data());
    run(gdn_input_gradient_kernel<float, kRows>, {1, row_tiles}, backward, inverse.data());
    run(gdn_parameter_gradient_kernel<float, kRows>, {1, row_tiles, row_tiles}, backward, 2, inverse.data(),
        partials.data());
  } else {
    run(gdn_backward_kernel<float, kRows>, {1}, backward, 2, partials.data());
    run(gdn_reduce_kernel<float>, {1}, backward, 1, partials.data());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) {
    cuda_on_host::options().skipped_file = "cuda/gdn.cuh";
    cuda_on_host::options().skipped_line = std::atoi(argv[1]);
  }
  for (const bool channels_last : {false, true}) {
    run_all<8>(5, channels_last);
    run_all<64>(70, channels_last);
  }
  return EXIT_SUCCESS;
}
