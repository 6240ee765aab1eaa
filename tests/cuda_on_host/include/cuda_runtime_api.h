// Test-only stand-in for CUDA's header of the same name; see cuda_on_host.h. Only what csrc/cuda uses.
#pragma once

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
};

using cudaStream_t = struct CUstream_st*;

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Aligned as on the device, where a load from elsewhere is an error: UndefinedBehaviorSanitizer sees one here.
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

struct cudaFuncAttributes {
  int ptxVersion;
};

// Returns the error of the last launch that failed and forgets it, as CUDA's does.
cudaError_t cudaGetLastError();
