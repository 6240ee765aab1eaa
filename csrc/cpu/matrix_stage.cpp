#include "cpu/matrix_stage.h"

#include <algorithm>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/pack.h"
#include "cpu/patches.h"
#include "cpu/reduction.h"
#include "cpu/scratch.h"
#include "cpu/simd/table.h"

namespace meon::cpu {
namespace {

// Of a product: enough to be worth a thread's while, few enough for the cache.
constexpr int64_t kRows = 40;

// The sizes of a stage and of the groups of samples that share a product.
struct Stage {
  const ConvShape& s;
  const SimdTable& simd = choose_simd();
  int64_t pixels, taps, padded_taps, map, group;

  explicit Stage(const ConvShape& shape)
      : s(shape),
        pixels(s.conv_h() * s.conv_w()),
        taps(s.in_channels * s.kernel_h * s.kernel_w),
        padded_taps((taps + kMatmulPad - 1) / kMatmulPad * kMatmulPad),
        map(s.in_channels * s.in_h * s.in_w),
        group(std::max<int64_t>(1, kRows / pixels)) {}

  int64_t groups() const { return (s.batch + group - 1) / group; }
  int64_t first(int64_t index) const { return index * group; }
  int64_t count(int64_t index) const { return std::min(group, s.batch - first(index)); }
  // Where a group's part of z and dz [N, pixels, Cout] begins.
  int64_t z_at(int64_t index) const { return first(index) * pixels * s.out_channels; }

  GdnPoolShape pool_shape(int64_t batch) const {
    return {.batch = batch,
            .channels = s.out_channels,
            .height = s.conv_h(),
            .width = s.conv_w(),
            .pool = s.pool,
            .x_channels_last = true};
  }

  // The group's pixels as rows, `length` apart; what lies between them is left as it is. one_map [map] is scratch.
  void patches(int64_t index, const float* x, int64_t length, float* one_map, float* rows) const {
    for (int64_t n = 0; n < count(index); ++n) {
      transpose(x + (first(index) + n) * map, s.in_channels, s.in_h * s.in_w, one_map);
      to_patches(s, one_map, length, rows + n * pixels * length);
    }
  }

  int64_t convolution_scratch() const { return map + group * pixels * taps; }

  // z [samples, pixels, Cout] of one group; weight as as_matrix gives it.
  void convolve(int64_t index, const float* x, const float* weight, const float* bias, float* scratch, float* z) const {
    float* rows = scratch + map;
    patches(index, x, taps, scratch, rows);
    simd.matmul(count(index) * pixels, s.out_channels, taps, rows, weight, bias, z);
  }
};

std::vector<float> matrix_of(const ConvShape& s, const float* weight) {
  return as_matrix({weight, static_cast<size_t>(s.weight_numel())}, s.out_channels, s.in_channels,
                   s.kernel_h * s.kernel_w);
}

// From dz [N, pixels, Cout] to the gradients of weight, bias and input, group by group.
class ThroughConvolution {
 public:
  ThroughConvolution(const Stage& stage, const ConvGdnPoolBackward<float>& p, const float* dz)
      : stage_(stage),
        s_(stage.s),
        p_(p),
        dz_(dz),
        zeros_(static_cast<size_t>(stage.padded_taps)),
        weight_(p.grad_x == nullptr ? 0 : static_cast<size_t>(s_.out_channels * stage.padded_taps)) {
    if (p.grad_x == nullptr) return;
    for (int64_t c = 0; c < s_.out_channels; ++c) {
      transpose(p.weight + c * stage.taps, s_.in_channels, s_.kernel_h * s_.kernel_w,
                weight_.data() + c * stage.padded_taps);
    }
  }

  void run(const Parallel& parallel) const {
    const int64_t C = s_.out_channels, weights = C * stage_.taps, rows = stage_.group * stage_.pixels;
    const ChunkedSum sums(stage_.groups(), weights + C);
    parallel.for_each(sums.chunks(), [&](int64_t chunk) {
      const Scratch<float> one_map(stage_.map), patches(rows * stage_.padded_taps), columns(C * rows),
          products(C * stage_.padded_taps);
      std::fill_n(patches.data(), rows * stage_.padded_taps, 0.0F);  // the columns behind the taps are not filled
      for (int64_t i = sums.begin(chunk); i < sums.end(chunk); ++i) {
        stage_.patches(i, p_.x, stage_.padded_taps, one_map.data(), patches.data());
        to_parameters(i, patches.data(), columns.data(), products.data(), sums.partial(chunk));
        if (p_.grad_x != nullptr) to_input(i, patches.data(), one_map.data());
      }
    });
    std::vector<float> packed(static_cast<size_t>(weights));
    sums.finish(0, weights, packed.data());
    for (int64_t c = 0; c < C; ++c) {
      transpose(packed.data() + c * stage_.taps, s_.kernel_h * s_.kernel_w, s_.in_channels,
                p_.grad_weight + c * stage_.taps);
    }
    sums.finish(weights, C, p_.grad_bias);
  }

 private:
  // sums [Cout][taps], then [Cout]; the others are scratch.
  void to_parameters(int64_t index, const float* patches, float* columns, float* products, double* sums) const {
    const int64_t C = s_.out_channels, rows = stage_.count(index) * stage_.pixels;
    const float* dz = dz_ + stage_.z_at(index);
    transpose(dz, rows, C, columns);
    stage_.simd.matmul(C, stage_.padded_taps, rows, columns, patches, zeros_.data(), products);
    for (int64_t c = 0; c < C; ++c) {
      const float* product = products + c * stage_.padded_taps;
      for (int64_t tap = 0; tap < stage_.taps; ++tap) *sums++ += product[tap];
    }
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t c = 0; c < C; ++c) sums[c] += dz[row * C + c];
    }
  }

  // rows [group * pixels][padded_taps] and one_map [map] are scratch.
  void to_input(int64_t index, float* rows, float* one_map) const {
    const int64_t run = s_.kernel_w * s_.in_channels, count = stage_.count(index), length = stage_.padded_taps;
    stage_.simd.matmul(count * stage_.pixels, length, s_.out_channels, dz_ + stage_.z_at(index), weight_.data(),
                       zeros_.data(), rows);
    for (int64_t n = 0; n < count; ++n) {
      const float* sample = rows + n * stage_.pixels * length;
      std::fill_n(one_map, stage_.map, 0.0F);
      for_each_run(s_, [&](int64_t pixel, int64_t tap, int64_t at) {
        for (int64_t i = 0; i < run; ++i) one_map[at + i] += sample[pixel * length + tap + i];
      });
      transpose(one_map, s_.in_h * s_.in_w, s_.in_channels, p_.grad_x + (stage_.first(index) + n) * stage_.map);
    }
  }

  const Stage& stage_;
  const ConvShape& s_;
  const ConvGdnPoolBackward<float>& p_;
  const float* dz_;
  std::vector<float> zeros_;   // [padded_taps]
  std::vector<float> weight_;  // [Cout][padded_taps], the last columns 0; empty where there is no input gradient
};

}  // namespace

bool has_matrix_stage(const ConvShape& s) {
  return s.in_channels <= 64 && s.out_channels == 64 && s.in_h <= 8 && s.in_w <= 8 && s.kernel_h <= 3 &&
         s.kernel_w <= 3 && s.pad_h == 0 && s.pad_w == 0 && s.pool <= 2;
}

int64_t matrix_stage_kept_numel(const ConvShape& s) { return s.batch * s.out_channels * s.conv_h() * s.conv_w(); }

void matrix_stage_forward(const ConvGdnPoolForward<float>& p, const Parallel& parallel) {
  const ConvShape& s = p.shape;
  const Stage stage(s);
  const std::vector<float> weight = matrix_of(s, p.weight);
  parallel.for_each(stage.groups(), [&](int64_t i) {
    const Scratch<float> scratch(stage.convolution_scratch());
    const Scratch<float> own(p.kept == nullptr ? stage.group * stage.pixels * s.out_channels : 0);
    float* z = p.kept == nullptr ? own.data() : p.kept + stage.z_at(i);
    stage.convolve(i, p.x, weight.data(), p.bias, scratch.data(), z);
    float* y = p.y + stage.first(i) * s.out_channels * s.out_h() * s.out_w();
    gdn_pool_forward<float>({stage.pool_shape(stage.count(i)), z, p.beta, p.gamma, y}, Serial());
  });
}

void matrix_stage_backward(const ConvGdnPoolBackward<float>& p, const Parallel& parallel) {
  const ConvShape& s = p.shape;
  const Stage stage(s);
  const int64_t numel = matrix_stage_kept_numel(s);
  const Scratch<float> dz(numel), own(p.kept == nullptr ? numel : 0);
  if (p.kept == nullptr) {
    const std::vector<float> weight = matrix_of(s, p.weight);
    parallel.for_each(stage.groups(), [&](int64_t i) {
      const Scratch<float> scratch(stage.convolution_scratch());
      stage.convolve(i, p.x, weight.data(), p.bias, scratch.data(), own.data() + stage.z_at(i));
    });
  }
  const float* z = p.kept == nullptr ? own.data() : p.kept;
  gdn_pool_backward<float>(
      {stage.pool_shape(s.batch), p.grad_y, z, p.beta, p.gamma, dz.data(), p.grad_beta, p.grad_gamma}, parallel);
  ThroughConvolution(stage, p, dz.data()).run(parallel);
}

}  // namespace meon::cpu
