// What tests of CUDA kernels on the host have in common: element types, memory as the device sees it, comparisons.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <sys/mman.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "cuda_on_host.h"
#include "native/check.h"

namespace cuda_on_host {

// ---- element types ----

template <class T>
struct Format {  // float, double
  static constexpr double kRoundoff = std::numeric_limits<T>::epsilon() / 2;
  static constexpr double kLargest = std::numeric_limits<T>::max();
  static constexpr double kSmallest = std::numeric_limits<T>::denorm_min();
  static T from(double v) { return static_cast<T>(v); }
  static double to(T v) { return v; }
};
template <>
struct Format<__half> {
  static constexpr double kRoundoff = 0x1p-11, kLargest = 65504, kSmallest = 0x1p-24;
  static __half from(double v) { return __float2half_rn(static_cast<float>(v)); }
  static double to(__half v) { return __half2float(v); }
};
template <>
struct Format<__nv_bfloat16> {
  static constexpr double kRoundoff = 0x1p-8, kLargest = 0x1.fep127, kSmallest = 0x1p-133;
  static __nv_bfloat16 from(double v) { return __float2bfloat16_rn(static_cast<float>(v)); }
  static double to(__nv_bfloat16 v) { return __bfloat162float(v); }
};

// ---- memory as the device sees it ----

// Exactly as long as asked for, so that AddressSanitizer sees an access past the end; poisoned at first.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : size_(size), data_(static_cast<T*>(std::malloc(static_cast<size_t>(size) * sizeof(T)))) {
    cuda_on_host::poison(data_, static_cast<size_t>(size) * sizeof(T));
  }
  ~Buffer() { std::free(data_); }
  Buffer(Buffer&& other) noexcept : size_(other.size_), data_(std::exchange(other.data_, nullptr)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(size_, other.size_);
    std::swap(data_, other.data_);
    return *this;
  }

  T* data() { return data_; }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) { return data_[i]; }
  long double real(int64_t i) const { return Format<T>::to(data_[i]); }

 private:
  int64_t size_;
  T* data_;
};

// Zeros as long as a tensor of more than 2^31 elements; only the pages that are touched take memory.
template <class T>
class SparseBuffer {
 public:
  explicit SparseBuffer(int64_t size) : bytes_(static_cast<size_t>(size) * sizeof(T)) {
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    data_ = static_cast<T*>(memory);
  }
  ~SparseBuffer() { munmap(data_, bytes_); }
  SparseBuffer(const SparseBuffer&) = delete;
  SparseBuffer& operator=(const SparseBuffer&) = delete;
  T* data() { return data_; }
  T& operator[](int64_t i) { return data_[i]; }

 private:
  size_t bytes_;
  T* data_;
};

// ---- comparisons ----

// Like CHECK_CLOSE, and right for results that the storage type cannot hold.
template <class T>
void check_value(T got, long double want, long double tolerance) {
  const double value = Format<T>::to(got);
  const long double allowed = tolerance + Format<T>::kRoundoff * (std::fabs(want) + tolerance) + Format<T>::kSmallest;
  if (std::isinf(value)) {
    CHECK(std::fabs(want) + allowed >= Format<T>::kLargest && std::signbit(value) == std::signbit(want));
  } else {
    CHECK_CLOSE(value, want, allowed);
  }
}

// To the bit, so that -0 and 0 differ.
template <class T>
bool same_bits(Buffer<T>& a, Buffer<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), static_cast<size_t>(a.size()) * sizeof(T)) == 0;
}

// Every order of the fibers must give the same: f(reverse).
template <class F>
void in_both_orders(F&& f) {
  for (const bool reverse : {false, true}) {
    INFO("reverse " << reverse);
    cuda_on_host::options().reverse = reverse;
    f();
  }
  cuda_on_host::options().reverse = false;
}

}  // namespace cuda_on_host
