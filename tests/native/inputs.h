// Random inputs. Another seed in every run; a failing test prints it, and MEON_TEST_SEED=<seed> repeats it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "core/parallel.h"
#include "cpu/simd/table.h"

namespace meon::test {

inline uint32_t fresh_seed() {
  const char* given = std::getenv("MEON_TEST_SEED");
  return given != nullptr ? static_cast<uint32_t>(std::stoul(given)) : std::random_device{}();
}

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}

  template <class T>
  std::vector<T> normal(int64_t count, double scale = 1) {
    std::normal_distribution<double> distribution(0, scale);
    return fill<T>(count, [&] { return distribution(engine_); });
  }
  template <class T>
  std::vector<T> uniform(int64_t count, double low, double high) {
    std::uniform_real_distribution<double> distribution(low, high);
    return fill<T>(count, [&] { return distribution(engine_); });
  }
  // [C, C], asymmetric, about a fifth of it 0. No row is: where nothing normalises a huge activation, the gradients
  // are past the largest number.
  template <class T>
  std::vector<T> gamma(int64_t channels) {
    auto out = uniform<T>(channels * channels, -0.25, 1);
    for (int64_t i = 0; i < channels; ++i) {
      T& diagonal = out[static_cast<size_t>(i * (channels + 1))];
      diagonal = std::max(diagonal, T(0.1));
    }
    for (T& g : out) g = std::max(g, T(0)) / static_cast<T>(channels);
    return out;
  }
  // low to high, both included.
  int64_t integer(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }
  std::vector<uint8_t> bytes(int64_t count) {
    std::vector<uint8_t> out(static_cast<size_t>(count));
    for (uint8_t& b : out) b = static_cast<uint8_t>(integer(0, 255));
    return out;
  }

 private:
  template <class T, class F>
  std::vector<T> fill(int64_t count, F&& next) {
    std::vector<T> out(static_cast<size_t>(count));
    for (T& v : out) v = static_cast<T>(next());
    return out;
  }

  std::mt19937 engine_;
};

// Once for each instruction set that this processor can run.
template <class F>
void on_every_instruction_set(F&& f) {
  for (const auto* simd : cpu::usable_simd()) {
    INFO("instruction set " << simd->name);
    setenv("MEON_ISA", simd->name, 1);
    f();
  }
  unsetenv("MEON_ISA");
}

// To the bit, so that -0 and 0 differ.
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace meon::test
