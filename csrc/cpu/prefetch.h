// Asks the processor for memory that will be read soon.
#pragma once

#include <cstdint>

namespace meon::cpu {
namespace {

// The `bytes` that lie `offset` bytes on from `from`, into the second-level cache. They may lie outside of any object:
// asking for them does nothing then.
inline void prefetch(const void* from, int64_t offset, int64_t bytes) {
  constexpr int64_t kCacheLine = 64;
  const auto first = reinterpret_cast<uintptr_t>(from) + static_cast<uintptr_t>(offset);
  for (int64_t i = 0; i < bytes; i += kCacheLine) {
    __builtin_prefetch(reinterpret_cast<const void*>(first + static_cast<uintptr_t>(i)), 0, 2);
  }
}

}  // namespace
}  // namespace meon::cpu
