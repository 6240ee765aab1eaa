// Compiled with -mavx2 -mfma; run only where choose_simd found them.
#include "cpu/simd/table.h"

#ifdef MEON_HAVE_AVX2
#include <immintrin.h>

#include "cpu/simd/body.h"

namespace meon::cpu {
namespace {

struct Avx2 {
  using Element = float;
  // 16 registers: 4 channels x 2 columns of sums, 7 taps, a weight; or 2 channels x 5 taps of a gradient.
  static constexpr int kLanes = 8, kBlock = 4, kColumnVectors = 2, kGradientBlock = 2;
  static constexpr int kGdnRows = 4, kGdnVectors = 3;  // 12 sums, 3 vectors of pixels, a weight
  using Mask = __m256;
  using Words = __m256i;
  __m256 v;

  static Avx2 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static void store(float* p, Avx2 a) { _mm256_storeu_ps(p, a.v); }
  static Avx2 load_first(const float* p, int count) { return {_mm256_maskload_ps(p, first(count))}; }
  static void store_first(float* p, Avx2 a, int count) { _mm256_maskstore_ps(p, first(count), a.v); }
  static Avx2 set1(float x) { return {_mm256_set1_ps(x)}; }
  static Avx2 add(Avx2 a, Avx2 b) { return {_mm256_add_ps(a.v, b.v)}; }
  static Avx2 mul(Avx2 a, Avx2 b) { return {_mm256_mul_ps(a.v, b.v)}; }
  static Avx2 fma(Avx2 a, Avx2 b, Avx2 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

  static Avx2 max_nan(Avx2 a, Avx2 b) {
    // max_ps gives b where either is NaN, so a NaN in b is kept already.
    return {_mm256_blendv_ps(_mm256_max_ps(a.v, b.v), a.v, _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q))};
  }

  static Mask beats(Avx2 a, Avx2 b) {
    return _mm256_or_ps(_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ), _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
  }
  static Mask nonzero(Avx2 a) { return _mm256_cmp_ps(a.v, _mm256_setzero_ps(), _CMP_NEQ_UQ); }
  static Avx2 keep(Mask m, Avx2 a) { return {_mm256_and_ps(m, a.v)}; }
  static Avx2 drop(Mask m, Avx2 a) { return {_mm256_andnot_ps(m, a.v)}; }
  static Avx2 masked(Avx2 a, const int32_t* mask) {
    return {_mm256_and_ps(a.v, _mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask))))};
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

  static void zip(Avx2 a, Avx2 b, Avx2& low, Avx2& high) {
    const __m256 even = _mm256_unpacklo_ps(a.v, b.v), odd = _mm256_unpackhi_ps(a.v, b.v);
    low = {_mm256_permute2f128_ps(even, odd, 0x20)};
    high = {_mm256_permute2f128_ps(even, odd, 0x31)};
  }

  static Avx2 gather(const float* from, const int32_t* index) {
    return {_mm256_i32gather_ps(from, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)), 4)};
  }

  // out[p] = elements p, p + 4, p + 8, ... of 32.
  static void deinterleave(const float* from, Avx2 out[4]) {
    __m256 q[4];  // q[j]: elements of columns j and 4 + j
    for (int j = 0; j < 4; ++j) {
      q[j] =
          _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from + 4 * j)), _mm_loadu_ps(from + 16 + 4 * j), 1);
    }
    transpose(q);
    for (int p = 0; p < 4; ++p) out[p].v = q[p];
  }

  // The inverse.
  static void interleave(const Avx2 in[4], float* to) {
    __m256 q[4] = {in[0].v, in[1].v, in[2].v, in[3].v};
    transpose(q);
    for (int j = 0; j < 4; ++j) {
      _mm_storeu_ps(to + 4 * j, _mm256_castps256_ps128(q[j]));
      _mm_storeu_ps(to + 16 + 4 * j, _mm256_extractf128_ps(q[j], 1));
    }
  }

  // The sums of all lanes of each.
  static void sum4(Avx2 a, Avx2 b, Avx2 c, Avx2 d, float to[4]) {
    const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v));
    const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c.v, d.v), _mm256_unpackhi_ps(c.v, d.v));
    const __m256 abcd = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
  }

  // Rows and columns of the 4 x 4 matrix in each half.
  static void transpose(__m256 q[4]) {
    const __m256 a = _mm256_unpacklo_ps(q[0], q[1]), b = _mm256_unpackhi_ps(q[0], q[1]);
    const __m256 c = _mm256_unpacklo_ps(q[2], q[3]), d = _mm256_unpackhi_ps(q[2], q[3]);
    q[0] = _mm256_shuffle_ps(a, c, 0x44);
    q[1] = _mm256_shuffle_ps(a, c, 0xee);
    q[2] = _mm256_shuffle_ps(b, d, 0x44);
    q[3] = _mm256_shuffle_ps(b, d, 0xee);
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

  static __m256i first(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

}  // namespace

const SimdTable* simd_avx2() {
  static constexpr SimdTable table = make_table<Avx2>("avx2");
  return &table;
}

}  // namespace meon::cpu

#else
namespace meon::cpu {
const SimdTable* simd_avx2() { return nullptr; }
}  // namespace meon::cpu
#endif
