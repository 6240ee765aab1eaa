#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/matrix_stage.h"
#include "cpu/reduction.h"
#include "cpu/simd_stage.h"
#include "cpu/stage.h"

namespace meon::cpu {
namespace {

// Parameter gradients of one pooled row, in T, before they are added to the chunk's float64 sums: short chains keep
// the rounding error small, and the float64 additions rare.
template <class T>
struct RowGradients {
  std::vector<T> weight;  // [Cin, Kh, Kw, Cout]
  std::vector<T> bias, beta, gamma;

  explicit RowGradients(const ConvShape& s)
      : weight(static_cast<size_t>(s.weight_numel())),
        bias(static_cast<size_t>(s.out_channels)),
        beta(bias.size()),
        gamma(bias.size() * bias.size()) {}

  int64_t width() const { return static_cast<int64_t>(weight.size() + bias.size() + beta.size() + gamma.size()); }

  void add_to(double* sums) {
    for (std::vector<T>* part : {&weight, &bias, &beta, &gamma}) {
      for (T& value : *part) {
        *sums++ += value;
        value = 0;
      }
    }
  }
};

// The backward of one sample, a pooled row at a time: convolution and GDN are computed again (cheaper than keeping
// them), the gradient is routed to the maximum of each window, then goes through GDN, then to weights and input.
template <class T>
class SampleBackward {
 public:
  SampleBackward(const PackedStage<T>& stage, const T* gamma)
      : stage_(stage), s_(stage.shape), C_(s_.out_channels), columns_(s_.out_w() * s_.pool), gamma_(gamma), row_(s_) {
    const auto pixels = static_cast<size_t>(s_.pool * columns_ * C_);
    for (std::vector<T>* plane : {&z_, &y_, &r_, &dz_}) plane->resize(pixels);
    squares_.resize(static_cast<size_t>(C_));
    weighted_.resize(static_cast<size_t>(C_));
  }

  int64_t width() const { return row_.width(); }

  // grad_y [Cout, Hp, Wp], grad_x [Cin, H, W] or null; sums [width()].
  template <class Source>
  void run(const Source& x, const T* grad_y, T* grad_x, double* sums) {
    if (grad_x != nullptr) std::fill_n(grad_x, s_.in_channels * s_.in_h * s_.in_w, T(0));
    for (int64_t row = 0; row < s_.out_h(); ++row) {
      recompute(x, row);
      route(grad_y, row);
      for (int64_t pixel = 0; pixel < s_.pool * columns_; ++pixel) through_gdn(pixel);
      for (int64_t r = 0; r < s_.pool; ++r) through_conv(x, grad_x, row * s_.pool + r, dz_.data() + r * columns_ * C_);
      row_.add_to(sums);
    }
  }

 private:
  template <class Source>
  void recompute(const Source& x, int64_t row) {
    for (int64_t r = 0; r < s_.pool; ++r) {
      conv_row(stage_, x, row * s_.pool + r, columns_, z_.data() + r * columns_ * C_);
    }
    for (int64_t pixel = 0; pixel < s_.pool * columns_; ++pixel) {
      const T* z = z_.data() + pixel * C_;
      T* y = y_.data() + pixel * C_;
      T* r = r_.data() + pixel * C_;
      pixel_norm(stage_, z, r);
      for (int64_t c = 0; c < C_; ++c) {
        const T root = std::sqrt(r[c]);
        y[c] = z[c] / root;  // the forward's own rounding, so that ties fall as they fell there
        r[c] = T(1) / root;
      }
    }
  }

  // dz = gradient of the GDN output: zero but at the first maximum of each window.
  void route(const T* grad_y, int64_t row) {
    std::fill(dz_.begin(), dz_.end(), T(0));
    const int64_t out_h = s_.out_h(), out_w = s_.out_w();
    for (int64_t column = 0; column < out_w; ++column) {
      for (int64_t c = 0; c < C_; ++c) {
        int64_t best_at = 0;
        for (int64_t k = 0; k < s_.pool * s_.pool; ++k) {
          const int64_t at = (k / s_.pool * columns_ + column * s_.pool + k % s_.pool) * C_ + c;
          if (k == 0 || beats(y_[static_cast<size_t>(at)], y_[static_cast<size_t>(best_at)])) best_at = at;
        }
        dz_[static_cast<size_t>(best_at)] = grad_y[(c * out_h + row) * out_w + column];
      }
    }
  }

  // dz of one pixel, in place: from the gradient of GDN's output to that of its input. The formulas are in gdn.cpp.
  void through_gdn(int64_t pixel) {
    const T* z = z_.data() + pixel * C_;
    const T* y = y_.data() + pixel * C_;
    const T* r = r_.data() + pixel * C_;
    T* dz = dz_.data() + pixel * C_;
    std::fill(weighted_.begin(), weighted_.end(), T(0));
    for (int64_t j = 0; j < C_; ++j) squares_[static_cast<size_t>(j)] = z[j] * z[j];
    for (int64_t i = 0; i < C_; ++i) {
      if (dz[i] == 0) continue;  // three of four pixels of a 2 x 2 window receive nothing
      // r twice: its square leaves the range where the norm is subnormal.
      const T t = T(-0.5) * (dz[i] * y[i]) * r[i] * r[i];
      row_.beta[static_cast<size_t>(i)] += t;
      axpy(C_, t, squares_.data(), row_.gamma.data() + i * C_);
      axpy(C_, t, gamma_ + i * C_, weighted_.data());
    }
    for (int64_t j = 0; j < C_; ++j) dz[j] = dz[j] * r[j] + 2 * z[j] * weighted_[static_cast<size_t>(j)];
  }

  // From one row of dz [columns, Cout] to the gradients of bias, weight and input.
  template <class Source>
  void through_conv(const Source& x, T* grad_x, int64_t out_row, const T* dz) {
    for (int64_t column = 0; column < columns_; ++column) axpy(C_, T(1), dz + column * C_, row_.bias.data());
    for (int64_t ci = 0; ci < s_.in_channels; ++ci) {
      for (int64_t kh = 0; kh < s_.kernel_h; ++kh) {
        const int64_t in_row = out_row * s_.stride_h - s_.pad_h + kh;
        if (in_row < 0 || in_row >= s_.in_h) continue;
        const auto* x_row = x.at(ci, in_row);
        T* grad_row = grad_x == nullptr ? nullptr : grad_x + (ci * s_.in_h + in_row) * s_.in_w;
        for (int64_t kw = 0; kw < s_.kernel_w; ++kw) {
          const int64_t tap = ((ci * s_.kernel_h + kh) * s_.kernel_w + kw) * C_;
          const T* w = stage_.weight.data() + tap;
          T* grad_w = row_.weight.data() + tap;
          const auto [first, last] = valid_columns(s_, kw, columns_);
          for (int64_t column = first; column < last; ++column) {
            const int64_t in_column = column * s_.stride_w - s_.pad_w + kw;
            axpy(C_, static_cast<T>(x_row[in_column * x.step]), dz + column * C_, grad_w);
            if (grad_row != nullptr) grad_row[in_column] += dot(C_, w, dz + column * C_);
          }
        }
      }
    }
  }

  const PackedStage<T>& stage_;
  const ConvShape& s_;
  int64_t C_, columns_;
  const T* gamma_;  // [Cout, Cout]
  RowGradients<T> row_;
  std::vector<T> z_, y_, r_, dz_;      // [pool, columns, Cout]: conv output, GDN output, norm^-1/2, gradient
  std::vector<T> squares_, weighted_;  // [Cout]
};

// Every sample forward; source(n) is the input of sample n.
template <class T, class SourceOf>
void forward(const ConvShape& s, const PackedStage<T>& stage, const SourceOf& source, T* y, const Parallel& parallel) {
  const int64_t out_size = s.out_channels * s.out_h() * s.out_w();
  parallel.for_each(s.batch, [&](int64_t n) {
    StageScratch<T> scratch(s);
    stage_forward(stage, source(n), scratch, y + n * out_size);
  });
}

// Every sample backward; `p` holds the gradients to write.
template <class T, class Params, class SourceOf>
void backward(const Params& p, const SourceOf& source, T* grad_x, const Parallel& parallel) {
  const ConvShape& s = p.shape;
  const int64_t C = s.out_channels;
  const int64_t in_size = s.in_channels * s.in_h * s.in_w;
  const int64_t out_size = C * s.out_h() * s.out_w();
  const int64_t weights = s.weight_numel();
  const PackedStage<T> stage(s, p.weight, p.bias, p.beta, p.gamma);
  const ChunkedSum sums(s.batch, weights + 2 * C + C * C);
  parallel.for_each(sums.chunks(), [&](int64_t chunk) {
    SampleBackward<T> sample(stage, p.gamma);
    for (int64_t n = sums.begin(chunk); n < sums.end(chunk); ++n) {
      T* gx = grad_x == nullptr ? nullptr : grad_x + n * in_size;
      sample.run(source(n), p.grad_y + n * out_size, gx, sums.partial(chunk));
    }
  });
  std::vector<T> packed(static_cast<size_t>(weights));
  sums.finish(0, weights, packed.data());
  const int64_t taps = weights / C;
  for (int64_t c = 0; c < C; ++c) {
    for (int64_t tap = 0; tap < taps; ++tap) p.grad_weight[c * taps + tap] = packed[static_cast<size_t>(tap * C + c)];
  }
  sums.finish(weights, C, p.grad_bias);
  sums.finish(weights + C, C, p.grad_beta);
  sums.finish(weights + 2 * C, C * C, p.grad_gamma);
}

// The inputs of a batch, for forward and backward alike.
template <class T>
auto planar_sources(const ConvShape& s, const T* x) {
  return [x, &s](int64_t n) { return PlanarSource<T>{x + n * s.in_channels * s.in_h * s.in_w, s.in_h, s.in_w}; };
}

auto crop_sources(const ConvShape& s, const CropInput& crops) {
  return [&s, &crops](int64_t k) { return crop_source(crops, s.in_channels, k); };
}

}  // namespace

bool has_own_stage(const ConvShape& s) { return has_simd_stage(s) || has_matrix_stage(s); }

template <class T>
int64_t crop_kept_numel(const ConvShape& s) {
  return std::is_same_v<T, float> && has_simd_stage(s) ? simd_stage_kept_numel(s) : 0;
}

template <class T>
int64_t kept_numel(const ConvShape& s) {
  return std::is_same_v<T, float> && has_matrix_stage(s) ? matrix_stage_kept_numel(s) : crop_kept_numel<T>(s);
}

template <class T>
void conv_gdn_pool_forward(const ConvGdnPoolForward<T>& p, const Parallel& parallel) {
  if constexpr (std::is_same_v<T, float>) {
    if (has_simd_stage(p.shape)) return simd_stage_forward(p, parallel);
    if (has_matrix_stage(p.shape)) return matrix_stage_forward(p, parallel);
  }
  const PackedStage<T> stage(p.shape, p.weight, p.bias, p.beta, p.gamma);
  forward(p.shape, stage, planar_sources(p.shape, p.x), p.y, parallel);
}

template <class T>
void conv_gdn_pool_backward(const ConvGdnPoolBackward<T>& p, const Parallel& parallel) {
  if constexpr (std::is_same_v<T, float>) {
    if (has_simd_stage(p.shape)) return simd_stage_backward(p, parallel);
    if (has_matrix_stage(p.shape)) return matrix_stage_backward(p, parallel);
  }
  backward<T>(p, planar_sources(p.shape, p.x), p.grad_x, parallel);
}

template <class T>
void crop_conv_gdn_pool_forward(const CropConvGdnPoolForward<T>& p, const Parallel& parallel) {
  if constexpr (std::is_same_v<T, float>) {
    if (has_simd_stage(p.shape)) return simd_stage_forward(p, parallel);
  }
  const PackedStage<T> stage(p.shape, p.weight, p.bias, p.beta, p.gamma);
  forward(p.shape, stage, crop_sources(p.shape, p.crops), p.y, parallel);
}

template <class T>
void crop_conv_gdn_pool_backward(const CropConvGdnPoolBackward<T>& p, const Parallel& parallel) {
  if constexpr (std::is_same_v<T, float>) {
    if (has_simd_stage(p.shape)) return simd_stage_backward(p, parallel);
  }
  backward<T>(p, crop_sources(p.shape, p.crops), static_cast<T*>(nullptr), parallel);
}

template int64_t kept_numel<float>(const ConvShape&);
template int64_t kept_numel<double>(const ConvShape&);
template int64_t crop_kept_numel<float>(const ConvShape&);
template int64_t crop_kept_numel<double>(const ConvShape&);
template void conv_gdn_pool_forward<float>(const ConvGdnPoolForward<float>&, const Parallel&);
template void conv_gdn_pool_backward<float>(const ConvGdnPoolBackward<float>&, const Parallel&);
template void crop_conv_gdn_pool_forward<float>(const CropConvGdnPoolForward<float>&, const Parallel&);
template void crop_conv_gdn_pool_backward<float>(const CropConvGdnPoolBackward<float>&, const Parallel&);
template void conv_gdn_pool_forward<double>(const ConvGdnPoolForward<double>&, const Parallel&);
template void conv_gdn_pool_backward<double>(const ConvGdnPoolBackward<double>&, const Parallel&);
template void crop_conv_gdn_pool_forward<double>(const CropConvGdnPoolForward<double>&, const Parallel&);
template void crop_conv_gdn_pool_backward<double>(const CropConvGdnPoolBackward<double>&, const Parallel&);

}  // namespace meon::cpu
