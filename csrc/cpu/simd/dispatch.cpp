#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "cpu/simd/table.h"

namespace meon::cpu {
namespace {

bool processor_has_avx2() {
#if defined(__x86_64__) || defined(__i386__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

bool processor_has_avx512() {
#if defined(__x86_64__) || defined(__i386__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
  return false;
#endif
}

}  // namespace

std::span<const SimdTable* const> usable_simd() {
  static const std::vector<const SimdTable*> tables = [] {
    std::vector<const SimdTable*> found{simd_portable()};
    if (simd_avx2() != nullptr && processor_has_avx2()) found.push_back(simd_avx2());
    if (simd_avx512() != nullptr && processor_has_avx512()) found.push_back(simd_avx512());
    return found;
  }();
  return tables;
}

const SimdTable& choose_simd() {
  const auto tables = usable_simd();
  const char* wanted = std::getenv("MEON_ISA");
  if (wanted == nullptr || *wanted == '\0') return *tables.back();
  std::string names;
  for (const SimdTable* table : tables) {
    if (std::string(wanted) == table->name) return *table;
    names += (names.empty() ? "" : ", ") + std::string(table->name);
  }
  throw std::invalid_argument("MEON_ISA is '" + std::string(wanted) + "'; this build on this processor has " + names);
}

}  // namespace meon::cpu
