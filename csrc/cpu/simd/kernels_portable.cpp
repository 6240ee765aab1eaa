// What every processor runs: the same body over four floats in the compiler's own vectors (SSE2 on x86-64, NEON on
// 64-bit Arm), with exact square root and division.
#include <math.h>
#include <string.h>

#include "cpu/simd/body.h"
#include "cpu/simd/table.h"

namespace meon::cpu {
namespace {

struct Portable {
  using Element = float;
  static constexpr int kLanes = 4, kBlock = 4, kColumnVectors = 2, kGradientBlock = 2;
  static constexpr int kGdnRows = 4, kGdnVectors = 2;
  typedef float Vector __attribute__((vector_size(16)));
  typedef int32_t Mask __attribute__((vector_size(16)));  // all bits of an element set, or none
  struct Words {
    uint32_t w[kLanes];
  };
  Vector v;

  static Portable load(const float* p) {
    Portable out;
    memcpy(&out.v, p, sizeof(out.v));
    return out;
  }
  static void store(float* p, Portable a) { memcpy(p, &a.v, sizeof(a.v)); }
  static Portable load_first(const float* p, int count) {
    Portable out = set1(0);
    for (int i = 0; i < count; ++i) out.v[i] = p[i];
    return out;
  }
  static void store_first(float* p, Portable a, int count) {
    for (int i = 0; i < count; ++i) p[i] = a.v[i];
  }
  static Portable set1(float x) { return {Vector{x, x, x, x}}; }
  static Portable add(Portable a, Portable b) { return {a.v + b.v}; }
  static Portable mul(Portable a, Portable b) { return {a.v * b.v}; }
  static Portable fma(Portable a, Portable b, Portable c) { return {a.v * b.v + c.v}; }
  static Mask beats(Portable a, Portable b) { return (a.v > b.v) | (a.v != a.v); }
  static Mask nonzero(Portable a) { return a.v != Vector{}; }
  static Portable max_nan(Portable a, Portable b) { return {beats(a, b) ? a.v : b.v}; }
  static Portable keep(Mask m, Portable a) { return {m ? a.v : Vector{}}; }
  static Portable drop(Mask m, Portable a) { return {m ? Vector{} : a.v}; }
  static Portable masked(Portable a, const int32_t* mask) {
    Mask m;
    memcpy(&m, mask, sizeof(m));
    return keep(m, a);
  }
  static Portable divide_by_root(Portable x, Portable n) {
    for (int i = 0; i < kLanes; ++i) n.v[i] = __builtin_sqrtf(n.v[i]);
    return {x.v / n.v};
  }
  static void zip(Portable a, Portable b, Portable& low, Portable& high) {
    low = {Vector{a.v[0], b.v[0], a.v[1], b.v[1]}};
    high = {Vector{a.v[2], b.v[2], a.v[3], b.v[3]}};
  }
  static Portable gather(const float* from, const int32_t* index) {
    return {Vector{from[index[0]], from[index[1]], from[index[2]], from[index[3]]}};
  }
  // out[p] = elements p, p + 4, p + 8, ... of 16.
  static void deinterleave(const float* from, Portable out[4]) {
    for (int p = 0; p < 4; ++p) out[p].v = Vector{from[p], from[p + 4], from[p + 8], from[p + 12]};
  }
  // The inverse.
  static void interleave(const Portable in[4], float* to) {
    for (int j = 0; j < kLanes; ++j) {
      for (int p = 0; p < 4; ++p) to[4 * j + p] = in[p].v[j];
    }
  }
  // The sums of all lanes of each.
  static void sum4(Portable a, Portable b, Portable c, Portable d, float to[4]) {
    const Portable all[4] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) to[i] = (all[i].v[0] + all[i].v[2]) + (all[i].v[1] + all[i].v[3]);
  }
  static void words(const uint8_t* bytes, Words w[3]) {
    for (int i = 0; i < kLanes; ++i) {
      for (int j = 0; j < 3; ++j) memcpy(&w[j].w[i], bytes + 12 * i + 4 * j, 4);
    }
  }
  static Portable byte_of(const Words& w, int byte) {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "bytes are taken from words in little-endian order");
    Portable out;
    for (int i = 0; i < kLanes; ++i) out.v[i] = static_cast<float>((w.w[i] >> (8 * byte)) & 255);
    return out;
  }
};

// float64, for GDN alone.
struct PortableDouble {
  using Element = double;
  static constexpr int kLanes = 2, kGdnRows = 4, kGdnVectors = 2;
  typedef double Vector __attribute__((vector_size(16)));
  Vector v;

  static PortableDouble load(const double* p) {
    PortableDouble out;
    memcpy(&out.v, p, sizeof(out.v));
    return out;
  }
  static void store(double* p, PortableDouble a) { memcpy(p, &a.v, sizeof(a.v)); }
  static PortableDouble load_first(const double* p, int count) {
    return {Vector{count > 0 ? p[0] : 0, count > 1 ? p[1] : 0}};
  }
  static void store_first(double* p, PortableDouble a, int count) {
    for (int i = 0; i < count; ++i) p[i] = a.v[i];
  }
  static PortableDouble set1(double x) { return {Vector{x, x}}; }
  static PortableDouble add(PortableDouble a, PortableDouble b) { return {a.v + b.v}; }
  static PortableDouble mul(PortableDouble a, PortableDouble b) { return {a.v * b.v}; }
  static PortableDouble fma(PortableDouble a, PortableDouble b, PortableDouble c) { return {a.v * b.v + c.v}; }
  static PortableDouble max_nan(PortableDouble a, PortableDouble b) {
    const auto take_a = (a.v > b.v) | (a.v != a.v);
    return {take_a ? a.v : b.v};
  }
  static PortableDouble divide_by_root(PortableDouble x, PortableDouble n) {
    return {x.v / Vector{__builtin_sqrt(n.v[0]), __builtin_sqrt(n.v[1])}};
  }
  static void zip(PortableDouble a, PortableDouble b, PortableDouble& low, PortableDouble& high) {
    low = {Vector{a.v[0], b.v[0]}};
    high = {Vector{a.v[1], b.v[1]}};
  }
};

}  // namespace

const GdnKernels<double>& gdn_kernels_double() {
  static constexpr GdnKernels<double> kernels = gdn_kernels<PortableDouble>();
  return kernels;
}

const SimdTable* simd_portable() {
  static constexpr SimdTable table = make_table<Portable>("portable");
  return &table;
}

}  // namespace meon::cpu
