// Every GDN kernel for ThreadSanitizer: see race.h.
#include "cuda/gdn.cuh"
#include "race.h"

namespace {

using namespace meon::cuda;
using race::ramp;
using race::run;

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
  run(gdn_forward_kernel<float, kRows>, {1, row_tiles}, kGdnThreads, forward);
  if (channels > kRows) {
    run(gdn_inverse_norm_kernel<float, kRows>, {1, row_tiles}, kGdnThreads, backward, inverse.data());
    run(gdn_input_gradient_kernel<float, kRows>, {1, row_tiles}, kGdnThreads, backward, inverse.data());
    run(gdn_parameter_gradient_kernel<float, kRows>, {1, row_tiles, row_tiles}, kGdnThreads, backward, 2,
        inverse.data(), partials.data());
  } else {
    run(gdn_backward_kernel<float, kRows>, {1}, kGdnThreads, backward, 2, partials.data());
  }
}

}  // namespace

int main(int argc, char** argv) {
  race::skip_barrier(argc, argv);
  for (const bool channels_last : {false, true}) {
    run_all<8>(5, channels_last);
    run_all<64>(70, channels_last);
  }
  return EXIT_SUCCESS;
}
