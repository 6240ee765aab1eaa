// Compiled with -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma; run only where choose_simd found them.
#include "cpu/simd/table.h"

#ifdef MEON_HAVE_AVX512
#include <immintrin.h>

#include "cpu/simd/body.h"

namespace meon::cpu {
namespace {

struct Avx512 {
  using Element = float;
  static constexpr int kLanes = 16, kBlock = 8, kColumnVectors = 4, kGradientBlock = 4;
  static constexpr int kGdnRows = 8, kGdnVectors = 3;  // of 32 registers: 24 sums, 3 vectors of pixels, a weight
  using Mask = __mmask16;
  using Words = __m512i;
  __m512 v;

  static Avx512 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static void store(float* p, Avx512 a) { _mm512_storeu_ps(p, a.v); }
  static Avx512 load_first(const float* p, int count) { return {_mm512_maskz_loadu_ps(first(count), p)}; }
  static void store_first(float* p, Avx512 a, int count) { _mm512_mask_storeu_ps(p, first(count), a.v); }
  static Avx512 set1(float x) { return {_mm512_set1_ps(x)}; }
  static Avx512 add(Avx512 a, Avx512 b) { return {_mm512_add_ps(a.v, b.v)}; }
  static Avx512 mul(Avx512 a, Avx512 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  static Avx512 fma(Avx512 a, Avx512 b, Avx512 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

  static Avx512 max_nan(Avx512 a, Avx512 b) {
    // max_ps gives b where either is NaN, so a NaN in b is kept already.
    return {_mm512_mask_mov_ps(_mm512_max_ps(a.v, b.v), _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), a.v)};
  }

  static Mask beats(Avx512 a, Avx512 b) {
    return static_cast<Mask>(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ) | _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q));
  }
  static Mask nonzero(Avx512 a) { return _mm512_cmp_ps_mask(a.v, _mm512_setzero_ps(), _CMP_NEQ_UQ); }
  static Avx512 keep(Mask m, Avx512 a) { return {_mm512_maskz_mov_ps(m, a.v)}; }
  static Avx512 drop(Mask m, Avx512 a) { return keep(static_cast<Mask>(~m), a); }
  static Avx512 masked(Avx512 a, const int32_t* mask) {
    return {_mm512_and_ps(a.v, _mm512_castsi512_ps(_mm512_loadu_si512(mask)))};
  }

  static Avx512 divide_by_root(Avx512 x, Avx512 n) {
    // The estimate r is off by e/2, e = 1 - n r^2 < 2^-13; the next two terms of its series leave e^3 * 5/16 < 2^-40.
    const __m512 r = _mm512_rsqrt14_ps(n.v);
    const __m512 e = _mm512_fnmadd_ps(_mm512_mul_ps(n.v, r), r, _mm512_set1_ps(1.0f));
    const __m512 p = _mm512_fmadd_ps(e, _mm512_set1_ps(0.375f), _mm512_set1_ps(0.5f));
    __m512 y = _mm512_mul_ps(x.v, _mm512_fmadd_ps(_mm512_mul_ps(r, e), p, r));
    // Zero, subnormal, huge, infinite, negative and NaN norms take the exact road, lane by lane.
    const __m512i bits = _mm512_sub_epi32(_mm512_castps_si512(n.v), _mm512_set1_epi32(kLowBits));
    const __mmask16 odd = _mm512_cmpge_epu32_mask(bits, _mm512_set1_epi32(kBitRange));
    if (__builtin_expect(odd != 0, 0)) y = _mm512_mask_div_ps(y, odd, x.v, _mm512_sqrt_ps(n.v));
    return {y};
  }

  static void zip(Avx512 a, Avx512 b, Avx512& low, Avx512& high) {
    const __m512i at = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    low = {_mm512_permutex2var_ps(a.v, at, b.v)};
    high = {_mm512_permutex2var_ps(a.v, _mm512_add_epi32(at, _mm512_set1_epi32(8)), b.v)};
  }

  static Avx512 gather(const float* from, const int32_t* index) {
    return {_mm512_i32gather_ps(_mm512_loadu_si512(index), from, 4)};
  }

  // out[p] = elements p, p + 4, p + 8, ... of 64.
  static void deinterleave(const float* from, Avx512 out[4]) {
    const __m512 a = _mm512_loadu_ps(from), b = _mm512_loadu_ps(from + 16);
    const __m512 c = _mm512_loadu_ps(from + 32), d = _mm512_loadu_ps(from + 48);
    const __m512i at = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    for (int p = 0; p < 4; p += 2) {
      const __m512i two = _mm512_add_epi32(at, _mm512_set1_epi32(p));
      const __m512 low = _mm512_permutex2var_ps(a, two, b), high = _mm512_permutex2var_ps(c, two, d);
      out[p].v = _mm512_shuffle_f32x4(low, high, 0x44);
      out[p + 1].v = _mm512_shuffle_f32x4(low, high, 0xee);
    }
  }

  // The inverse.
  static void interleave(const Avx512 in[4], float* to) {
    const __m512 a = _mm512_unpacklo_ps(in[0].v, in[1].v), b = _mm512_unpackhi_ps(in[0].v, in[1].v);
    const __m512 c = _mm512_unpacklo_ps(in[2].v, in[3].v), d = _mm512_unpackhi_ps(in[2].v, in[3].v);
    // Quarter k of q[j] holds the four phases of column 4 k + j.
    const __m512 q[4] = {_mm512_shuffle_ps(a, c, 0x44), _mm512_shuffle_ps(a, c, 0xee), _mm512_shuffle_ps(b, d, 0x44),
                         _mm512_shuffle_ps(b, d, 0xee)};
    const __m512 e = _mm512_shuffle_f32x4(q[0], q[1], 0x44), f = _mm512_shuffle_f32x4(q[2], q[3], 0x44);
    const __m512 g = _mm512_shuffle_f32x4(q[0], q[1], 0xee), h = _mm512_shuffle_f32x4(q[2], q[3], 0xee);
    _mm512_storeu_ps(to, _mm512_shuffle_f32x4(e, f, 0x88));
    _mm512_storeu_ps(to + 16, _mm512_shuffle_f32x4(e, f, 0xdd));
    _mm512_storeu_ps(to + 32, _mm512_shuffle_f32x4(g, h, 0x88));
    _mm512_storeu_ps(to + 48, _mm512_shuffle_f32x4(g, h, 0xdd));
  }

  // The sums of all lanes of each.
  static void sum4(Avx512 a, Avx512 b, Avx512 c, Avx512 d, float to[4]) {
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a.v, b.v), _mm512_unpackhi_ps(a.v, b.v));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c.v, d.v), _mm512_unpackhi_ps(c.v, d.v));
    const __m512 abcd = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
  }

  // w[j] = words j, 3 + j, 6 + j, ... of 192 bytes.
  static void words(const uint8_t* bytes, Words w[3]) {
    const __m512i a = _mm512_loadu_si512(bytes), b = _mm512_loadu_si512(bytes + 64);
    const __m512i c = _mm512_loadu_si512(bytes + 128);
    const __m512i lane = _mm512_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 45);
    for (int j = 0; j < 3; ++j) {
      const __m512i at = _mm512_add_epi32(lane, _mm512_set1_epi32(j));
      const __m512i low = _mm512_permutex2var_epi32(a, at, b);  // right where at < 32
      const __mmask16 high = _mm512_cmpge_epi32_mask(at, _mm512_set1_epi32(32));
      w[j] = _mm512_mask_permutexvar_epi32(low, high, at, c);  // reads at modulo 16
    }
  }

  static Avx512 byte_of(Words w, int byte) {
    const __m512i x = _mm512_and_si512(_mm512_srli_epi32(w, static_cast<unsigned>(8 * byte)), _mm512_set1_epi32(255));
    return {_mm512_cvtepi32_ps(x)};
  }

  static __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1); }
  static constexpr int kLowBits = (127 - 100) << 23, kBitRange = 200 << 23;  // norms in [2^-100, 2^100)
};

}  // namespace

const SimdTable* simd_avx512() {
  static constexpr SimdTable table = make_table<Avx512>("avx512");
  return &table;
}

}  // namespace meon::cpu

#else
namespace meon::cpu {
const SimdTable* simd_avx512() { return nullptr; }
}  // namespace meon::cpu
#endif
