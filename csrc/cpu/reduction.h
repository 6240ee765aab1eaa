// Parameter gradients summed over a batch, the same whatever the number of threads.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "core/parallel.h"

namespace meon::cpu {

// Items 0..count-1 are cut into chunks whose number depends on the problem alone, never on the threads. Each chunk
// adds to a partial sum of its own, in float64; the partial sums are added up in chunk order.
class ChunkedSum {
 public:
  // least: items for which a chunk's partial sums are worth their memory.
  ChunkedSum(int64_t count, int64_t width, int64_t least = 1) : count_(count), width_(width) {
    constexpr int64_t kMaxChunks = 16;
    constexpr int64_t kMaxBytes = int64_t{64} << 20;
    const int64_t fit = kMaxBytes / (std::max<int64_t>(width, 1) * static_cast<int64_t>(sizeof(double)));
    chunks_ = std::min((count + least - 1) / least, std::clamp<int64_t>(fit, 1, kMaxChunks));
    // Few chunks of many items: as many as two, four or eight threads share evenly. Of three, one thread would do two.
    if (least > 1) chunks_ = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(chunks_)));
    partials_.reset(new double[static_cast<size_t>(chunks_ * width)]);
    started_.resize(static_cast<size_t>(chunks_));
  }

  int64_t chunks() const { return chunks_; }
  int64_t begin(int64_t chunk) const { return count_ * chunk / chunks_; }
  int64_t end(int64_t chunk) const { return count_ * (chunk + 1) / chunks_; }

  // [width], zero at the start, for the one task that works on this chunk.
  double* partial(int64_t chunk) const {
    double* sums = partials_.get() + chunk * width_;
    // Not before: this way the tasks share the work, and each finds its sums in its own cache.
    if (!std::exchange(started_[static_cast<size_t>(chunk)], char{1})) std::fill_n(sums, width_, 0.0);
    return sums;
  }

  // Writes entries [first, first + count) of the total; zeros where there was no item.
  template <class T>
  void finish(int64_t first, int64_t count, T* out) const {
    constexpr int64_t kBlock = 512;  // in cache while the chunks pass by
    for (int64_t start = 0; start < count; start += kBlock) {
      double total[kBlock] = {};
      const int64_t size = std::min(kBlock, count - start);
      for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
        const double* part = partials_.get() + chunk * width_ + first + start;
        for (int64_t i = 0; i < size; ++i) total[i] += part[i];
      }
      for (int64_t i = 0; i < size; ++i) out[start + i] = static_cast<T>(total[i]);
    }
  }

  template <class T>
  void finish(int64_t first, int64_t count, T* out, const Parallel& parallel) const {
    constexpr int64_t kShare = 8192;  // enough to be worth a thread's while
    parallel.for_each((count + kShare - 1) / kShare, [&](int64_t share) {
      finish(first + share * kShare, std::min(kShare, count - share * kShare), out + share * kShare);
    });
  }

 private:
  int64_t count_, width_, chunks_;
  std::unique_ptr<double[]> partials_;
  mutable std::vector<char> started_;  // by chunk
};

}  // namespace meon::cpu
