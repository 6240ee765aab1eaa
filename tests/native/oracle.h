// What the kernels must compute, in the simplest loops, with the bound on the rounding that a kernel in T may show.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "bounded.h"
#include "core/params.h"

namespace meon::test {

template <class T>
using Tensor = std::vector<Bounded<T>>;

template <class T>
Tensor<T> bounded(const std::vector<T>& exact) {
  return {exact.begin(), exact.end()};
}

// GDN of x [N, C, S] and its derivatives. beta [C], gamma [C, C].
template <class T>
struct GdnOracle {
  int64_t N, C, S;
  Tensor<T> x, beta, gamma;

  size_t at(int64_t n, int64_t c, int64_t s) const { return static_cast<size_t>((n * C + c) * S + s); }
  Bounded<T> gamma_at(int64_t i, int64_t j) const { return gamma[static_cast<size_t>(i * C + j)]; }

  Bounded<T> inverse_norm(int64_t n, int64_t i, int64_t s) const {
    Sum<T> norm;
    norm.add(beta[static_cast<size_t>(i)]);
    for (int64_t j = 0; j < C; ++j) norm.add(gamma_at(i, j) * (x[at(n, j, s)] * x[at(n, j, s)]));
    return inverse_root(norm.result());
  }

  Tensor<T> forward() const {
    Tensor<T> y(x.size());
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t c = 0; c < C; ++c) {
        for (int64_t s = 0; s < S; ++s) y[at(n, c, s)] = x[at(n, c, s)] * inverse_norm(n, c, s);
      }
    }
    return y;
  }

  struct Gradients {
    Tensor<T> x, beta, gamma;
  };

  Gradients backward(const std::vector<T>& grad) const {
    Gradients out{Tensor<T>(x.size()), Tensor<T>(beta.size()), Tensor<T>(gamma.size())};
    std::vector<Sum<T>> beta_sums(beta.size()), gamma_sums(gamma.size());
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t s = 0; s < S; ++s) {
        Tensor<T> r(beta.size()), t(beta.size());  // t: the derivative with respect to the norm
        for (int64_t i = 0; i < C; ++i) {
          const auto k = static_cast<size_t>(i);
          r[k] = inverse_norm(n, i, s);
          t[k] = (Bounded<T>(T(-0.5)) * grad[at(n, i, s)] * (x[at(n, i, s)] * r[k])) * (r[k] * r[k]);
          beta_sums[k].add(t[k]);
          for (int64_t j = 0; j < C; ++j) {
            gamma_sums[static_cast<size_t>(i * C + j)].add(t[k] * (x[at(n, j, s)] * x[at(n, j, s)]));
          }
        }
        for (int64_t j = 0; j < C; ++j) {
          Sum<T> through_norms;
          for (int64_t i = 0; i < C; ++i) through_norms.add(t[static_cast<size_t>(i)] * gamma_at(i, j));
          Sum<T> total;
          total.add(Bounded<T>(grad[at(n, j, s)]) * r[static_cast<size_t>(j)]);
          total.add(Bounded<T>(T(2)) * x[at(n, j, s)] * through_norms.result());
          out.x[at(n, j, s)] = total.result();
        }
      }
    }
    for (size_t i = 0; i < beta.size(); ++i) out.beta[i] = beta_sums[i].result();
    for (size_t i = 0; i < gamma.size(); ++i) out.gamma[i] = gamma_sums[i].result();
    return out;
  }
};

// GDN and max-pool of planes [N, C, H, W], and their derivatives.
template <class T>
class PooledGdnOracle {
 public:
  // gdn.x is [N, C, height * width].
  PooledGdnOracle(GdnOracle<T> gdn, int64_t height, int64_t width, int64_t pool)
      : gdn_(std::move(gdn)), width_(width), pool_(pool), out_h_(height / pool), out_w_(width / pool) {
    y_ = gdn_.forward();
  }

  const GdnOracle<T>& gdn() const { return gdn_; }

  Tensor<T> forward() const {
    Tensor<T> out;
    each_window([&](const std::vector<size_t>& window, size_t best) {
      // The maximum moves by no more than the element that moves most.
      Bounded<T> top = y_[best];
      for (const size_t at : window) top.error = std::max(top.error, y_[at].error);
      out.push_back(top);
    });
    return out;
  }

  // For each output, whether rounding cannot change which element of its window is the largest.
  std::vector<bool> decided() const {
    std::vector<bool> out;
    each_window([&](const std::vector<size_t>& window, size_t best) {
      bool alone = true;
      for (const size_t at : window) {
        const bool below = y_[at].value + y_[at].error < y_[best].value - y_[best].error;
        alone = alone && (at == best || below);
      }
      out.push_back(alone);
    });
    return out;
  }

  // grad [N, C, height / pool, width / pool], 0 where not decided.
  typename GdnOracle<T>::Gradients backward(const std::vector<T>& grad) const {
    std::vector<T> routed(y_.size());
    size_t next = 0;
    each_window([&](const std::vector<size_t>&, size_t best) { routed[best] = grad[next++]; });
    return gdn_.backward(routed);
  }

 private:
  // Every pool window in the order of the outputs: where its elements are, and the first of the largest.
  template <class F>
  void each_window(F&& f) const {
    for (int64_t n = 0; n < gdn_.N; ++n) {
      for (int64_t c = 0; c < gdn_.C; ++c) {
        for (int64_t row = 0; row < out_h_; ++row) {
          for (int64_t column = 0; column < out_w_; ++column) {
            std::vector<size_t> window;
            for (int64_t k = 0; k < pool_ * pool_; ++k) {
              const int64_t h = row * pool_ + k / pool_, w = column * pool_ + k % pool_;
              window.push_back(gdn_.at(n, c, h * width_ + w));
            }
            size_t best = window[0];
            for (const size_t at : window) best = y_[at].value > y_[best].value ? at : best;
            f(window, best);
          }
        }
      }
    }
  }

  GdnOracle<T> gdn_;
  int64_t width_, pool_, out_h_, out_w_;
  Tensor<T> y_;  // not pooled
};

// Convolution, GDN and max-pool of x [N, Cin, H, W], and their derivatives.
template <class T>
class StageOracle {
 public:
  StageOracle(const ConvShape& shape, std::vector<T> x, std::vector<T> weight, const std::vector<T>& bias,
              const std::vector<T>& beta, const std::vector<T>& gamma)
      : s_(shape),
        x_(std::move(x)),
        weight_(std::move(weight)),
        pooled_({s_.batch, s_.out_channels, plane(), convolved(bias), bounded(beta), bounded(gamma)}, s_.conv_h(),
                s_.conv_w(), s_.pool) {}

  Tensor<T> forward() const { return pooled_.forward(); }
  std::vector<bool> decided() const { return pooled_.decided(); }

  struct Gradients {
    Tensor<T> x, weight, bias, beta, gamma;
  };

  // grad [N, Cout, Hp, Wp], 0 where not decided.
  Gradients backward(const std::vector<T>& grad) const {
    auto through = pooled_.backward(grad);
    std::vector<Sum<T>> x_sums(x_.size()), weight_sums(weight_.size()), bias_sums(through.beta.size());
    for (int64_t n = 0; n < s_.batch; ++n) {
      for (int64_t co = 0; co < s_.out_channels; ++co) {
        for (int64_t s = 0; s < plane(); ++s) {
          const Bounded<T> dz = through.x[pooled_.gdn().at(n, co, s)];
          bias_sums[static_cast<size_t>(co)].add(dz);
          each_tap(n, co, s, [&](size_t x_at, size_t w_at) {
            x_sums[x_at].add(dz * weight_[w_at]);
            weight_sums[w_at].add(dz * x_[x_at]);
          });
        }
      }
    }
    Gradients out;
    for (const auto& sum : x_sums) out.x.push_back(sum.result());
    for (const auto& sum : weight_sums) out.weight.push_back(sum.result());
    for (const auto& sum : bias_sums) out.bias.push_back(sum.result());
    out.beta = std::move(through.beta);
    out.gamma = std::move(through.gamma);
    return out;
  }

 private:
  int64_t plane() const { return s_.conv_h() * s_.conv_w(); }

  Tensor<T> convolved(const std::vector<T>& bias) const {
    Tensor<T> z;
    for (int64_t n = 0; n < s_.batch; ++n) {
      for (int64_t co = 0; co < s_.out_channels; ++co) {
        for (int64_t s = 0; s < plane(); ++s) {
          Sum<T> sum;
          sum.add(bias[static_cast<size_t>(co)]);
          each_tap(n, co, s, [&](size_t x_at, size_t w_at) { sum.add(Bounded<T>(x_[x_at]) * weight_[w_at]); });
          z.push_back(sum.result());
        }
      }
    }
    return z;
  }

  // Every pair of an input and a weight that convolution output (n, co, s) is the sum of.
  template <class F>
  void each_tap(int64_t n, int64_t co, int64_t s, F&& f) const {
    const int64_t row = s / s_.conv_w(), column = s % s_.conv_w();
    for (int64_t ci = 0; ci < s_.in_channels; ++ci) {
      for (int64_t kh = 0; kh < s_.kernel_h; ++kh) {
        for (int64_t kw = 0; kw < s_.kernel_w; ++kw) {
          const int64_t h = row * s_.stride_h + kh - s_.pad_h, w = column * s_.stride_w + kw - s_.pad_w;
          if (h < 0 || h >= s_.in_h || w < 0 || w >= s_.in_w) continue;
          f(static_cast<size_t>(((n * s_.in_channels + ci) * s_.in_h + h) * s_.in_w + w),
            static_cast<size_t>(((co * s_.in_channels + ci) * s_.kernel_h + kh) * s_.kernel_w + kw));
        }
      }
    }
  }

  ConvShape s_;
  std::vector<T> x_, weight_;
  PooledGdnOracle<T> pooled_;
};

}  // namespace meon::test
