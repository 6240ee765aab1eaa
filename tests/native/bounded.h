// Tolerances from rounding: a number beside a bound on how far off a kernel can be that computes it in T. Every
// operation adds its own rounding to what its operands bring along (N. J. Higham, Accuracy and Stability of Numerical
// Algorithms, 2nd edition, 2002, sections 2.2, 3.1 and 3.3). A sum of n terms is bounded by n u / (1 - n u) times the
// sum of their magnitudes: that holds for any order of summation, with and without fused multiply-adds.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "check.h"

namespace meon::test {

template <class T>
struct Bounded {
  using Real = std::conditional_t<std::is_same_v<T, float>, double, long double>;  // what the oracle computes in
  static constexpr Real kUnit = static_cast<Real>(std::numeric_limits<T>::epsilon()) / 2;
  static constexpr Real kLeast = static_cast<Real>(std::numeric_limits<T>::denorm_min());  // a smaller product is lost

  Real value = 0, error = 0;

  Bounded() = default;
  Bounded(T exact) : value(exact) {}  // NOLINT: a number that the kernel is given is one that the oracle is given

  static Bounded rounded(Real value, Real error) {
    Bounded out;
    out.value = value;
    out.error = error + kUnit * (std::abs(value) + error) + kLeast;
    return out;
  }

  friend Bounded operator*(Bounded a, Bounded b) {
    return rounded(a.value * b.value, std::abs(a.value) * b.error + a.error * std::abs(b.value) + a.error * b.error);
  }
};

// 1 / sqrt(a), two roundings; infinite error where the error of `a` reaches down to 0.
template <class T>
Bounded<T> inverse_root(Bounded<T> a) {
  using Real = typename Bounded<T>::Real;
  const Real root = std::sqrt(a.value), low = std::sqrt(std::max(a.value - a.error, Real(0)));
  const Bounded<T> r = Bounded<T>::rounded(root, root - low);
  return Bounded<T>::rounded(1 / root, r.error / (root * std::max(root - r.error, Real(0))));
}

template <class T>
class Sum {
 public:
  void add(Bounded<T> term) {
    value_ += term.value;
    error_ += term.error;
    magnitude_ += std::abs(term.value) + term.error;
    ++terms_;
  }
  Bounded<T> result() const {
    const auto n = static_cast<typename Bounded<T>::Real>(terms_) * Bounded<T>::kUnit;
    Bounded<T> out;
    out.value = value_;
    out.error = error_ + n / (1 - n) * magnitude_;
    return out;
  }

 private:
  typename Bounded<T>::Real value_ = 0, error_ = 0, magnitude_ = 0;
  int64_t terms_ = 0;
};

template <class T>
bool agrees(T got, Bounded<T> want) {
  return CHECK_CLOSE(got - want.value, 0, want.error);
}

}  // namespace meon::test
