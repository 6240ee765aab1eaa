// Parameter gradients summed over a batch, the same whatever the number of threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace meon::cpu {

// Items 0..count-1 are cut into chunks whose number depends on the problem alone, never on the threads. Each chunk
// adds to a partial sum of its own, in float64; the partial sums are added up in chunk order.
class ChunkedSum {
 public:
  ChunkedSum(int64_t count, int64_t width) : count_(count), width_(width) {
    constexpr int64_t kMaxChunks = 16;
    constexpr int64_t kMaxBytes = int64_t{64} << 20;
    const int64_t fit = kMaxBytes / (std::max<int64_t>(width, 1) * static_cast<int64_t>(sizeof(double)));
    chunks_ = std::min(count, std::clamp<int64_t>(fit, 1, kMaxChunks));
    partials_.resize(static_cast<size_t>(chunks_ * width));
  }

  int64_t chunks() const { return chunks_; }
  int64_t begin(int64_t chunk) const { return count_ * chunk / chunks_; }
  int64_t end(int64_t chunk) const { return count_ * (chunk + 1) / chunks_; }

  // [width], zero at the start, for the one task that works on this chunk.
  double* partial(int64_t chunk) const { return partials_.data() + chunk * width_; }

  // Writes entries [first, first + count) of the total; zeros where there was no item.
  template <class T>
  void finish(int64_t first, int64_t count, T* out) const {
    for (int64_t i = 0; i < count; ++i) {
      double total = 0;
      for (int64_t chunk = 0; chunk < chunks_; ++chunk)
        total += partials_[static_cast<size_t>(chunk * width_ + first + i)];
      out[i] = static_cast<T>(total);
    }
  }

 private:
  int64_t count_, width_, chunks_;
  mutable std::vector<double> partials_;
};

}  // namespace meon::cpu
