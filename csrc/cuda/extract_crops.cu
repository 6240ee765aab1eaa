// Launchers of the crop kernels. Also compiled by g++ (tests/cuda_on_host).
#include "core/crop_grid.h"
#include "cuda/extract_crops.cuh"
#include "cuda/extract_crops.h"
#include "cuda/launch.h"

namespace meon::cuda {
namespace {

CropAxis crop_axis(int64_t length, const CropExtraction& s) {
  return {crop_count(length, s.size, s.stride), s.stride, length - s.size};
}

}  // namespace

template <class P, class T>
LaunchResult extract_crops_forward(const CropExtraction& s, const P* image, T* crops, cudaStream_t stream) {
  const CropAxis rows = crop_axis(s.height, s), columns = crop_axis(s.width, s);
  const int64_t elements = rows.count * columns.count * s.channels * s.size * s.size;
  if (elements == 0) return {};
  return launch("extract_crops_kernel", extract_crops_kernel<P, T>, {divide_up(elements, kCropThreads)}, kCropThreads,
                stream, s, rows, columns, image, crops);
}

template <class T>
LaunchResult extract_crops_backward(const CropExtraction& s, const T* grad_crops, T* grad_image, cudaStream_t stream) {
  const int64_t elements = s.height * s.width * s.channels;
  if (elements == 0) return {};
  return launch("extract_crops_backward_kernel", extract_crops_backward_kernel<T>, {divide_up(elements, kCropThreads)},
                kCropThreads, stream, s, crop_axis(s.height, s), crop_axis(s.width, s), grad_crops, grad_image);
}

template LaunchResult extract_crops_forward<uint8_t, float>(const CropExtraction&, const uint8_t*, float*,
                                                            cudaStream_t);
template LaunchResult extract_crops_forward<uint8_t, double>(const CropExtraction&, const uint8_t*, double*,
                                                             cudaStream_t);
template LaunchResult extract_crops_forward<float, float>(const CropExtraction&, const float*, float*, cudaStream_t);
template LaunchResult extract_crops_forward<double, double>(const CropExtraction&, const double*, double*,
                                                            cudaStream_t);
template LaunchResult extract_crops_backward<float>(const CropExtraction&, const float*, float*, cudaStream_t);
template LaunchResult extract_crops_backward<double>(const CropExtraction&, const double*, double*, cudaStream_t);

}  // namespace meon::cuda
