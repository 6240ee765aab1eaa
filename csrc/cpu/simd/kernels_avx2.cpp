// Compiled with -mavx2 -mfma; run only where choose_simd found them.
#include "cpu/simd/table.h"

#ifdef MEON_HAVE_AVX2
#include <immintrin.h>

#include "cpu/simd/body.h"

namespace meon::cpu {
namespace {

struct Avx2 {
  // 16 registers: 4 channels x 2 columns of sums, 7 taps, a weight.
  static constexpr int kLanes = 8, kBlock = 4, kColumnVectors = 2;
  using Words = __m256i;
  __m256 v;

  static Avx2 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static void store(float* p, Avx2 a) { _mm256_storeu_ps(p, a.v); }
  static Avx2 set1(float x) { return {_mm256_set1_ps(x)}; }
  static Avx2 mul(Avx2 a, Avx2 b) { return {_mm256_mul_ps(a.v, b.v)}; }
  static Avx2 fma(Avx2 a, Avx2 b, Avx2 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

  static Avx2 max_nan(Avx2 a, Avx2 b) {
    // max_ps gives b where either is NaN, so a NaN in b is kept already.
    return {_mm256_blendv_ps(_mm256_max_ps(a.v, b.v), a.v, _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q))};
  }

  static Avx2 divide_by_root(Avx2 x, Avx2 n) {
    // The estimate r is off by e/2, e = 1 - n r^2 < 2^-10.4; the next two terms of its series leave e^3 * 5/16 < 2^-32.
    const __m256 r = _mm256_rsqrt_ps(n.v);
    const __m256 e = _mm256_fnmadd_ps(_mm256_mul_ps(n.v, r), r, _mm256_set1_ps(1.0f));
    const __m256 p = _mm256_fmadd_ps(e, _mm256_set1_ps(0.375f), _mm256_set1_ps(0.5f));
    const __m256 y = _mm256_mul_ps(x.v, _mm256_fmadd_ps(_mm256_mul_ps(r, e), p, r));
    // Zero, subnormal, huge, infinite, negative and NaN norms take the exact road, lane by lane.
    const __m256 usual = _mm256_and_ps(_mm256_cmp_ps(n.v, _mm256_set1_ps(0x1p-100f), _CMP_GE_OQ),
                                       _mm256_cmp_ps(n.v, _mm256_set1_ps(0x1p100f), _CMP_LT_OQ));
    if (__builtin_expect(_mm256_movemask_ps(usual) != 255, 0)) {
      return {_mm256_blendv_ps(_mm256_div_ps(x.v, _mm256_sqrt_ps(n.v)), y, usual)};
    }
    return {y};
  }

  static Avx2 gather(const float* from, const int32_t* index) {
    return {_mm256_i32gather_ps(from, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)), 4)};
  }

  // w[j] = words j, 3 + j, 6 + j, ... of 96 bytes.
  static void words(const uint8_t* bytes, Words w[3]) {
    const __m256i lane = _mm256_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21);
    for (int j = 0; j < 3; ++j) {
      w[j] = _mm256_i32gather_epi32(reinterpret_cast<const int*>(bytes + 4 * j), lane, 4);
    }
  }

  static Avx2 byte_of(Words w, int byte) {
    const __m256i x = _mm256_and_si256(_mm256_srli_epi32(w, 8 * byte), _mm256_set1_epi32(255));
    return {_mm256_cvtepi32_ps(x)};
  }
};

}  // namespace

const SimdTable* simd_avx2() {
  static const SimdTable table = make_table<Avx2>("avx2");
  return &table;
}

}  // namespace meon::cpu

#else
namespace meon::cpu {
const SimdTable* simd_avx2() { return nullptr; }
}  // namespace meon::cpu
#endif
