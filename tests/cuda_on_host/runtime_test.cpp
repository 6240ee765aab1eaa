// The stand-in runtime itself: a kernel test is worth no more than what runs it.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <limits>
#include <vector>

#include "cuda/launch.h"
#include "native/check.h"

namespace {

using meon::cuda::block_shared;
using meon::cuda::launch;

__global__ void write_position(int64_t* out) {
  const int64_t block = blockIdx.x + int64_t{gridDim.x} * (blockIdx.y + int64_t{gridDim.y} * blockIdx.z);
  out[block * blockDim.x + threadIdx.x] += block * 1000 + threadIdx.x;
}

TEST(every_thread_of_every_block_runs_once) {
  std::vector<int64_t> out(3 * 4 * 5 * 70, 1);
  CHECK(launch("write_position", write_position, {3, 4, 5}, 70, nullptr, out.data()).error == cudaSuccess);
  for (size_t i = 0; i < out.size(); ++i) {
    CHECK(out[i] == static_cast<int64_t>(1 + i / 70 * 1000 + i % 70));
  }
}

TEST(one_block_can_be_picked) {
  std::vector<int64_t> out(6 * 2, 0);
  cuda_on_host::options().only_block = uint3{2, 1, 0};
  CHECK(launch("write_position", write_position, {3, 2}, 2, nullptr, out.data()).error == cudaSuccess);
  cuda_on_host::options().only_block.reset();
  for (size_t i = 0; i < out.size(); ++i) CHECK((out[i] != 0) == (i >= 10));
}

struct Sums {
  double values[96];
};

// A tree of sums over the block through shared memory.
__global__ void sum_block(const double* in, double* out) {
  auto& s = block_shared<Sums>();
  const int t = static_cast<int>(threadIdx.x);
  s.values[t] = in[blockIdx.x * blockDim.x + threadIdx.x];
  for (int half = 48; half >= 3; half /= 2) {
    __syncthreads();
    if (t < half) s.values[t] += s.values[t + half];
  }
  __syncthreads();
  if (t == 0) out[blockIdx.x] = s.values[0] + s.values[1] + s.values[2];
}

TEST(barriers_order_accesses_to_shared_memory) {
  for (const bool reverse : {false, true}) {
    cuda_on_host::options().reverse = reverse;
    std::vector<double> in(2 * 96), out(2);
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<double>(i);
    CHECK(launch("sum_block", sum_block, {2}, 96, nullptr, in.data(), out.data()).error == cudaSuccess);
    CHECK(out[0] == 95 * 96 / 2);
    CHECK(out[1] == 95 * 96 / 2 + 96 * 96);
  }
  cuda_on_host::options().reverse = false;
}

__global__ void read_unwritten(double* out) {
  const Sums& s = block_shared<Sums>();
  out[threadIdx.x] = s.values[threadIdx.x];
}

TEST(shared_memory_starts_as_nan) {
  std::vector<double> out(96, 0);
  CHECK(launch("read_unwritten", read_unwritten, {3}, 96, nullptr, out.data()).error == cudaSuccess);
  for (const double v : out) CHECK(std::isnan(v));
}

TEST(poison_is_nan_in_every_type) {
  unsigned char bytes[8];
  cuda_on_host::poison(bytes, sizeof bytes);
  const auto read = [&](auto value) {
    std::memcpy(&value, bytes, sizeof value);
    return value;
  };
  CHECK(std::isnan(read(float{})));
  CHECK(std::isnan(read(double{})));
  CHECK(std::isnan(__half2float(read(__half{}))));
  CHECK(std::isnan(__bfloat162float(read(__nv_bfloat16{}))));
  CHECK(read(int64_t{}) > int64_t{1} << 60);
}

__global__ void static_shared(int* out) {
  __shared__ int values[64];
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = values[63 - threadIdx.x];
}

TEST(static_shared_memory_is_shared) {
  std::vector<int> out(64);
  CHECK(launch("static_shared", static_shared, {1}, 64, nullptr, out.data()).error == cudaSuccess);
  for (int i = 0; i < 64; ++i) CHECK(out[static_cast<size_t>(i)] == 63 - i);
}

__global__ void shuffles(float* sum, int* down, int* up, int* from) {
  const int t = static_cast<int>(threadIdx.x);
  float v = static_cast<float>(t);
  for (int mask = 16; mask > 0; mask /= 2) v += __shfl_xor_sync(0xffffffffu, v, mask);
  __syncwarp();
  sum[t] = v;
  down[t] = __shfl_down_sync(0xffffffffu, t, 5);
  up[t] = __shfl_up_sync(0xffffffffu, t, 5);
  from[t] = __shfl_sync(0xffffffffu, t, 7);
}

TEST(shuffles_move_values_within_a_warp) {
  for (const bool reverse : {false, true}) {
    cuda_on_host::options().reverse = reverse;
    std::vector<float> sum(64);
    std::vector<int> down(64), up(64), from(64);
    CHECK(launch("shuffles", shuffles, {1}, 64, nullptr, sum.data(), down.data(), up.data(), from.data()).error ==
          cudaSuccess);
    for (int t = 0; t < 64; ++t) {
      const size_t i = static_cast<size_t>(t);
      CHECK(sum[i] == (t < 32 ? 496 : 496 + 32 * 32));
      CHECK(down[i] == (t % 32 + 5 < 32 ? t + 5 : t));
      CHECK(up[i] == (t % 32 >= 5 ? t - 5 : t));
      CHECK(from[i] == t / 32 * 32 + 7);
    }
  }
  cuda_on_host::options().reverse = false;
}

__global__ void two_barriers() {
  if (threadIdx.x < 10) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void barrier_without_some() {
  if (threadIdx.x == 3) return;
  __syncthreads();
}

TEST(barriers_that_threads_disagree_on_fail_the_launch) {
  CHECK(launch("two_barriers", two_barriers, {1}, 32, nullptr).error == cudaErrorLaunchFailure);
  CHECK(cuda_on_host::last_failure().find("thread 10 waits at the barrier") != std::string::npos);
  CHECK(launch("barrier_without_some", barrier_without_some, {1}, 32, nullptr).error == cudaErrorLaunchFailure);
  CHECK(cuda_on_host::last_failure().find("thread 3 has returned") != std::string::npos);
  CHECK(cudaGetLastError() == cudaSuccess);  // launch() fetched it
}

__global__ void nothing() {}

TEST(launches_that_cuda_would_refuse_are_refused) {
  CHECK(launch("nothing", nothing, {1}, 1024, nullptr).error == cudaSuccess);
  for (const meon::cuda::Grid grid : {meon::cuda::Grid{0}, {int64_t{1} << 31}, {1, 65536}, {1, 1, 65536}}) {
    const meon::cuda::LaunchResult result = launch("nothing", nothing, grid, 32, nullptr);
    CHECK(result.error == cudaErrorInvalidConfiguration);
    CHECK(std::string(result.kernel) == "nothing");
  }
  CHECK(launch("nothing", nothing, {1}, 1025, nullptr).error == cudaErrorInvalidConfiguration);
}

// Rounds to a grid of 2^-`fraction_bits` of the leading bit, no finer than `smallest`, ties to even. In double, which
// holds every step exactly.
double round_to(double v, int fraction_bits, double smallest, double largest) {
  if (v == 0 || std::isnan(v) || std::isinf(v)) return v;
  const double step = std::fmax(std::ldexp(1.0, std::ilogb(v) - fraction_bits), smallest);
  const double rounded = std::nearbyint(v / step) * step;
  return std::fabs(rounded) > largest ? std::copysign(std::numeric_limits<double>::infinity(), v) : rounded;
}

bool same(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

TEST(half_and_bfloat16_round_to_nearest_even) {
  bool exact = true, half_rounds = true, bfloat_rounds = true;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const __half h{static_cast<uint16_t>(bits)};
    const __nv_bfloat16 b{static_cast<uint16_t>(bits)};
    const float hf = __half2float(h), bf = __bfloat162float(b);
    exact =
        exact && (std::isnan(hf) ? std::isnan(__half2float(__float2half_rn(hf))) : __float2half_rn(hf).bits == bits);
    exact = exact && (std::isnan(bf) ? std::isnan(__bfloat162float(__float2bfloat16_rn(bf)))
                                     : __float2bfloat16_rn(bf).bits == bits);
  }
  CHECK(exact);
  CHECK(__half2float({0x3c00}) == 1 && __half2float({0x0001}) == 0x1p-24f && __half2float({0x7bff}) == 65504);
  CHECK(__half2float({0xc000}) == -2 && __half2float({0x0400}) == 0x1p-14f && std::isinf(__half2float({0xfc00})));
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 997) {
    const float f = std::bit_cast<float>(static_cast<uint32_t>(bits));
    const double half = round_to(f, 10, 0x1p-24, 65504), bfloat = round_to(f, 7, 0x1p-133, 0x1.fep127);
    half_rounds = half_rounds && same(__half2float(__float2half_rn(f)), half);
    bfloat_rounds = bfloat_rounds && same(__bfloat162float(__float2bfloat16_rn(f)), bfloat);
  }
  CHECK(half_rounds);
  CHECK(bfloat_rounds);
}

}  // namespace

int main(int argc, char** argv) { return meon::test::run(argc, argv); }
