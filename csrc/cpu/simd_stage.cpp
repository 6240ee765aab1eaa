#include "cpu/simd_stage.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/crop_plan.h"
#include "core/layers.h"
#include "cpu/pack.h"
#include "cpu/prefetch.h"
#include "cpu/reduction.h"
#include "cpu/simd/table.h"
#include "cpu/stage.h"

namespace meon::cpu {
namespace {

// How samples share a row of vectors. Narrow samples stand side by side, so that vectors are full; a sample's lanes
// never meet its neighbours', so results do not depend on who they are. In a row of its own a sample's columns share
// taps: half as much to write, and to keep in the first-level cache.
struct Layout {
  int64_t pitch;    // columns of one sample, of 4 input columns each; the last may hold no output (pool drops it)
  int64_t group;    // samples side by side
  int64_t columns;  // of a group, padded
  bool shared_taps;
  int64_t tap_stride;                           // as StageRow takes it
  std::vector<int32_t> has_previous, has_next;  // [columns], as the kernels take them

  explicit Layout(const ConvShape& s)
      : pitch((s.in_w + 3) / 4),
        group(std::max<int64_t>(1, kRowPad / pitch)),
        columns(padded(pitch * group)),
        shared_taps(group == 1),
        tap_stride(shared_taps ? columns + kRowPad : columns) {
    for (auto* mask : {&has_previous, &has_next}) mask->resize(static_cast<size_t>(columns));
    for (int64_t i = 0; i < pitch * group; ++i) {
      has_previous[static_cast<size_t>(i)] = i % pitch > 0 ? -1 : 0;
      has_next[static_cast<size_t>(i)] = i % pitch < pitch - 1 ? -1 : 0;
    }
  }

  // Floats of one channel of an input row.
  int64_t taps() const { return (shared_taps ? kSharedTaps : kTaps) * tap_stride; }

  // line [4 columns] -> to [taps()]
  void to_taps(const SimdTable& simd, const float* line, float* to) const {
    if (shared_taps) {
      simd.line_to_shared_taps(line, columns, to, tap_stride);
    } else {
      simd.line_to_taps(line, columns, has_previous.data(), has_next.data(), to);
    }
  }

  int64_t groups(int64_t batch) const { return (batch + group - 1) / group; }

  // The columns that hold no output where a group has that many samples.
  std::vector<int64_t> invalid_columns(const ConvShape& s, int64_t samples) const {
    std::vector<int64_t> invalid;
    for (int64_t i = 0; i < columns; ++i) {
      if (i >= samples * pitch || i % pitch >= s.out_w()) invalid.push_back(i);
    }
    return invalid;
  }
};

// The samples [first, first + count) of a group.
struct Group {
  int64_t first, count;
};

Group group_at(const ConvShape& s, const Layout& layout, int64_t index) {
  const int64_t first = index * layout.group;
  return {first, std::min(layout.group, s.batch - first)};
}

// Neighbouring rows are read one plane after the other, a pattern that the processor does not see by itself: this
// fetches the row that lies `ahead` rows behind this one.
void prefetch_rows(const float* row, int64_t width, int64_t ahead) {
  constexpr int64_t kFloat = sizeof(float);
  prefetch(row, ahead * width * kFloat, width * kFloat);
}

// Where a row [4][Cout][columns] of `kept` begins.
int64_t kept_at(const ConvShape& s, const Layout& layout, const Group& g, int64_t row) {
  return (g.first / layout.group * s.out_h() + row) * 4 * s.out_channels * layout.columns;
}

// Columns without an output must not bring infinity or NaN into the backward's sums, where zeros are what they add.
void clear_columns(const std::vector<int64_t>& invalid, const ConvShape& s, const Layout& layout, float* z) {
  for (const int64_t column : invalid) {
    for (int64_t i = 0; i < 4 * s.out_channels; ++i) z[i * layout.columns + column] = 0.0f;
  }
}

// Copies between rows of a group [channels][columns] and rows [out_w] of each sample's planes [channels][out_h][out_w].
void put_row(const ConvShape& s, const Layout& layout, const Group& g, int64_t row, const float* from, float* y) {
  for (int64_t n = 0; n < g.count; ++n) {
    for (int64_t c = 0; c < s.out_channels; ++c) {
      std::copy_n(from + c * layout.columns + n * layout.pitch, s.out_w(),
                  y + (((g.first + n) * s.out_channels + c) * s.out_h() + row) * s.out_w());
    }
  }
}

void get_row(const ConvShape& s, const Layout& layout, const Group& g, int64_t row, const float* y, float* to) {
  for (int64_t n = 0; n < g.count; ++n) {
    for (int64_t c = 0; c < s.out_channels; ++c) {
      const float* from = y + (((g.first + n) * s.out_channels + c) * s.out_h() + row) * s.out_w();
      prefetch_rows(from, s.out_w(), 2);
      std::copy_n(from, s.out_w(), to + c * layout.columns + n * layout.pitch);
    }
  }
}

// Input rows of planes of floats [N, C, H, W] in taps form.
class PlanarTaps {
 public:
  PlanarTaps(const ConvShape& s, const Layout& layout, const SimdTable& simd, const float* x)
      : s_(s), layout_(layout), simd_(simd), x_(x), line_(static_cast<size_t>(4 * layout.columns)) {}

  // to: [Cin][layout.taps()]
  void fill(const Group& g, int64_t y, float* to) {
    for (int64_t c = 0; c < s_.in_channels; ++c) {
      const float* row = x_ + ((g.first * s_.in_channels + c) * s_.in_h + y) * s_.in_w;
      prefetch_rows(row, s_.in_w, 8);
      if (s_.in_w != 4 * layout_.columns) {
        // What lies past a sample's last column stays zero from the start.
        for (int64_t n = 0; n < g.count; ++n) {
          std::copy_n(row + n * s_.in_channels * s_.in_h * s_.in_w, s_.in_w, line_.data() + 4 * layout_.pitch * n);
        }
        row = line_.data();
      }
      layout_.to_taps(simd_, row, to + c * layout_.taps());
    }
  }

 private:
  const ConvShape& s_;
  const Layout& layout_;
  const SimdTable& simd_;
  const float* x_;
  std::vector<float> line_;
};

// The same for windows of an image [H, W, C] of bytes.
class CropTaps {
 public:
  CropTaps(const ConvShape& s, const Layout& layout, const SimdTable& simd, const CropInput& crops)
      : s_(s), layout_(layout), simd_(simd), crops_(crops), line_(static_cast<size_t>(4 * layout.columns)) {}

  void fill(const Group& g, int64_t y, float* to) {
    if (s_.in_channels == kImageChannels && layout_.shared_taps && s_.in_w % 4 == 0 && s_.in_w > 8) {
      return fill_pixels(crop_source(crops_, kImageChannels, g.first).at(0, y), to);
    }
    for (int64_t c = 0; c < s_.in_channels; ++c) {
      for (int64_t n = 0; n < g.count; ++n) {
        const CropSource source = crop_source(crops_, s_.in_channels, g.first + n);
        const uint8_t* row = source.at(c, y);
        float* line = line_.data() + 4 * layout_.pitch * n;
        for (int64_t x = 0; x < s_.in_w; ++x) line[x] = static_cast<float>(row[x * source.step]);
      }
      layout_.to_taps(simd_, line_.data(), to + c * layout_.taps());
    }
  }

 private:
  // Tap t of column i is pixel 4 i + t - 2. The kernel takes the columns that read nothing outside of the crop; those
  // at its sides are zero there, and have been from the start.
  void fill_pixels(const uint8_t* row, float* to) {
    const int64_t columns = s_.in_w / 4, stride = layout_.tap_stride;
    simd_.pixels_to_taps(row + 2 * kImageChannels, columns - 2, to + 1, stride, 8 * crops_.image_w * kImageChannels);
    for (int64_t c = 0; c < kImageChannels; ++c, to += layout_.taps()) {
      auto put = [&](int64_t tap, int64_t column) {
        to[tap * stride + column] = static_cast<float>(row[(4 * column + tap - 2) * kImageChannels + c]);
      };
      put(2, 0);
      put(3, 0);
      put(3, columns - 1);
      put(0, columns);
      put(1, columns);
    }
  }

  const ConvShape& s_;
  const Layout& layout_;
  const SimdTable& simd_;
  const CropInput& crops_;
  std::vector<float> line_;
};

// The input rows of one group that were used lately, in taps form. Any `capacity` neighbours are there at a time.
template <class Taps>
class TapRows {
 public:
  TapRows(const ConvShape& s, const Layout& layout, Taps taps, int64_t capacity)
      : s_(s),
        taps_(std::move(taps)),
        size_(s.in_channels * layout.taps()),
        rows_(static_cast<size_t>(capacity), -1),
        memory_(static_cast<size_t>((capacity + 1) * size_)) {}

  const float* get(const Group& g, int64_t y) {
    const auto capacity = static_cast<int64_t>(rows_.size());
    if (y < 0 || y >= s_.in_h) return memory_.data() + capacity * size_;  // never written: padding
    const int64_t slot = y % capacity;
    float* row = memory_.data() + slot * size_;
    if (rows_[static_cast<size_t>(slot)] != y) {
      taps_.fill(g, y, row);
      rows_[static_cast<size_t>(slot)] = y;
    }
    return row;
  }

  // For the next group.
  void forget() { std::fill(rows_.begin(), rows_.end(), -1); }

 private:
  const ConvShape& s_;
  Taps taps_;
  int64_t size_;
  std::vector<int64_t> rows_;  // [capacity] which row each slot holds
  std::vector<float> memory_;
};

template <class Pointer>
Pointer by_channels(int64_t channels, Pointer f8, Pointer f16, Pointer f32) {
  return channels == 8 ? f8 : channels == 16 ? f16 : f32;
}

// What every group needs, set up once.
struct Stage {
  const ConvShape& s;
  Layout layout;
  const SimdTable& simd = choose_simd();
  std::vector<float> weight, gamma;  // as StageRow takes them
  const float* bias;
  const float* beta;

  template <class Params>
  explicit Stage(const Params& p) : s(p.shape), layout(p.shape), bias(p.bias), beta(p.beta) {
    const int64_t C = s.out_channels, block = simd.channel_block;
    weight = blocked({p.weight, static_cast<size_t>(s.weight_numel())}, C, s.in_channels * 25, block);
    gamma = blocked({p.gamma, static_cast<size_t>(C * C)}, C, C, block);
  }

  // inputs: [kTaps] input rows in taps form; y [Cout][columns]; z as StageRow's.
  void forward_row(const float* const* inputs, float* y, float* z) const {
    by_channels(s.out_channels, simd.stage_row_8, simd.stage_row_16,
                simd.stage_row_32)({inputs, s.in_channels, layout.columns, weight.data(), bias, beta, gamma.data(), y,
                                    layout.columns, z, layout.shared_taps, layout.tap_stride});
  }

  template <class Taps>
  void inputs_of(TapRows<Taps>& rows, const Group& g, int64_t row, const float** inputs) const {
    for (int t = 0; t < kTaps; ++t) inputs[t] = rows.get(g, 4 * row - 2 + t);
  }
};

template <class MakeTaps>
void forward(const Stage& stage, const MakeTaps& make_taps, float* y, float* kept, const Parallel& parallel) {
  // Tall samples are cut up, so that a single image too keeps all threads busy; a cut costs three input rows.
  constexpr int64_t kRowsPerTask = 32;
  const ConvShape& s = stage.s;
  const int64_t parts = (s.out_h() + kRowsPerTask - 1) / kRowsPerTask;
  parallel.for_each(stage.layout.groups(s.batch) * parts, [&](int64_t task) {
    const Group g = group_at(s, stage.layout, task / parts);
    const int64_t first = s.out_h() * (task % parts) / parts, last = s.out_h() * (task % parts + 1) / parts;
    TapRows rows(s, stage.layout, make_taps(), kTaps);
    std::vector<float> line(static_cast<size_t>(s.out_channels * stage.layout.columns));
    const std::vector<int64_t> invalid = stage.layout.invalid_columns(s, g.count);
    const float* inputs[kTaps];
    for (int64_t row = first; row < last; ++row) {
      float* z = kept == nullptr ? nullptr : kept + kept_at(s, stage.layout, g, row);
      stage.inputs_of(rows, g, row, inputs);
      stage.forward_row(inputs, line.data(), z);
      if (z != nullptr) clear_columns(invalid, s, stage.layout, z);
      put_row(s, stage.layout, g, row, line.data(), y);
    }
  });
}

// [Cout][Cin][5][5] -> [Cin / block][5][Cout][5][block], Cin padded with zeros.
std::vector<float> for_input_gradient(const ConvShape& s, const float* weight, int64_t block) {
  const int64_t padded_in = (s.in_channels + block - 1) / block * block;
  std::vector<float> out(static_cast<size_t>(padded_in * 25 * s.out_channels));
  for (int64_t co = 0; co < s.out_channels; ++co) {
    for (int64_t ci = 0; ci < s.in_channels; ++ci) {
      for (int64_t kh = 0; kh < 5; ++kh) {
        for (int64_t kw = 0; kw < 5; ++kw) {
          out[static_cast<size_t>((((ci / block * 5 + kh) * s.out_channels + co) * 5 + kw) * block + ci % block)] =
              *weight++;
        }
      }
    }
  }
  return out;
}

// The parameters of the backward besides the forward's.
struct BackwardStage {
  const float* kept;                 // of the forward, or null
  std::vector<float> gamma_columns;  // as GdnRowBackward takes it
  std::vector<float> input_weight;   // as InputRowGradient takes it; empty where there is no input gradient
  float* grad_x;                     // [N, Cin, H, W] or null

  template <class Params>
  BackwardStage(const Stage& stage, const Params& p, float* gx) : kept(p.kept), grad_x(gx) {
    const int64_t C = stage.s.out_channels;
    gamma_columns = blocked(transposed({p.gamma, static_cast<size_t>(C * C)}, C, C), C, C, stage.simd.channel_block);
    if (gx != nullptr) input_weight = for_input_gradient(stage.s, p.weight, stage.simd.gradient_block);
  }
};

// One group after the other, a band of pooled rows at a time, small enough for its rows to stay in the cache while the
// parameters' gradients go over them again and again.
template <class Taps>
class GroupBackward {
 public:
  GroupBackward(const Stage& stage, const BackwardStage& backward, Taps taps)
      : stage_(stage),
        backward_(backward),
        s_(stage.s),
        columns_(stage.layout.columns),
        plane_(s_.out_channels * columns_),
        band_(std::min(s_.out_h(), std::clamp<int64_t>(kBandBytes / bytes_per_row(), 4, 8))),
        rows_(s_, stage.layout, std::move(taps), 4 * band_ + 3),
        y_(static_cast<size_t>(plane_)),
        grad_y_(static_cast<size_t>(plane_)),
        z_(backward.kept == nullptr ? static_cast<size_t>(4 * plane_ * band_) : 0),
        t_(static_cast<size_t>(4 * plane_ * band_)),
        dz_(static_cast<size_t>(4 * plane_ * (band_ + 2))),
        valid_(static_cast<size_t>(columns_)),
        sums_(static_cast<size_t>(2 * s_.out_channels * kRowPad)) {
    const int64_t block = stage.simd.gradient_block;
    padded_in_ = (s_.in_channels + block - 1) / block * block;
    if (backward.grad_x != nullptr) grad_line_.resize(static_cast<size_t>(padded_in_ * 4 * columns_));
  }

  // Gradients of weight [Cout][Cin][5][5], bias, beta [Cout] and gamma [Cout][Cout] in one row.
  static int64_t width(const ConvShape& s) { return s.weight_numel() + s.out_channels * (2 + s.out_channels); }

  // grad_y [N, Cout, Hp, Wp]; sums [width()] are added to.
  void run(const Group& g, const float* grad_y, double* sums) {
    begin(g);
    double* bias = sums + s_.weight_numel();
    for (int64_t first = 0; first < s_.out_h(); first += band_) {
      const int64_t last = std::min(first + band_, s_.out_h());
      for (int64_t row = first; row < last; ++row) row_backward(g, grad_y, first, row);
      parameter_sums(g, first, last, sums);
      if (backward_.grad_x != nullptr) {
        // The rows above the next band's first still lack what that band will give them.
        const int64_t from = first == 0 ? 0 : 4 * first - 4;
        const int64_t to = last == s_.out_h() ? s_.in_h : 4 * last - 4;
        for (int64_t y = from; y < to; ++y) input_row(g, y);
      }
    }
    for (size_t i = 0; i < sums_.size(); ++i) bias[i / kRowPad] += sums_[i];
  }

 private:
  // What one pass over a band reads, taps of one channel and gradients of four, is to fit the first-level cache; but a
  // band of few rows sums up its registers too often.
  static constexpr int64_t kBandBytes = 40 << 10;
  int64_t bytes_per_row() const { return (4 * stage_.layout.taps() + 16 * columns_) * int64_t{sizeof(float)}; }

  void begin(const Group& g) {
    std::fill(grad_y_.begin(), grad_y_.end(), 0.0f);
    std::fill(sums_.begin(), sums_.end(), 0.0f);
    rows_.forget();
    invalid_ = stage_.layout.invalid_columns(s_, g.count);
    std::fill(valid_.begin(), valid_.end(), -1);
    for (const int64_t column : invalid_) valid_[static_cast<size_t>(column)] = 0;
  }

  // The convolution's output, of a band that begins at `first`.
  const float* z(const Group& g, int64_t first, int64_t row) const {
    if (backward_.kept != nullptr) return backward_.kept + kept_at(s_, stage_.layout, g, row);
    return z_.data() + (row - first) * 4 * plane_;
  }

  float* dz(int64_t row) { return dz_.data() + row % (band_ + 2) * 4 * plane_; }

  void row_backward(const Group& g, const float* grad_y, int64_t first, int64_t row) {
    if (backward_.kept == nullptr) {
      const float* inputs[kTaps];
      float* again = z_.data() + (row - first) * 4 * plane_;
      stage_.inputs_of(rows_, g, row, inputs);
      stage_.forward_row(inputs, y_.data(), again);
      clear_columns(invalid_, s_, stage_.layout, again);
    }
    get_row(s_, stage_.layout, g, row, grad_y, grad_y_.data());
    const SimdTable& simd = stage_.simd;
    by_channels(s_.out_channels, simd.gdn_row_backward_8, simd.gdn_row_backward_16,
                simd.gdn_row_backward_32)({.columns = columns_,
                                           .z = z(g, first, row),
                                           .grad_y = grad_y_.data(),
                                           .valid = valid_.data(),
                                           .beta = stage_.beta,
                                           .gamma = stage_.gamma.data(),
                                           .gamma_columns = backward_.gamma_columns.data(),
                                           .dz = dz(row),
                                           .t = t_.data() + (row - first) * 4 * plane_,
                                           .bias_sums = sums_.data(),
                                           .beta_sums = sums_.data() + s_.out_channels * kRowPad});
  }

  void parameter_sums(const Group& g, int64_t first, int64_t last, double* sums) {
    pointers_.clear();
    const int64_t rows = last - first;
    for (int64_t i = 0; i < 4 * rows + 3; ++i) pointers_.push_back(rows_.get(g, 4 * first - 2 + i));
    for (int64_t row = first; row < last; ++row) pointers_.push_back(z(g, first, row));
    for (int64_t row = first; row < last; ++row) pointers_.push_back(dz(row));
    for (int64_t row = 0; row < rows; ++row) pointers_.push_back(t_.data() + row * 4 * plane_);
    const float* const* after_taps = pointers_.data() + 4 * rows + 3;
    stage_.simd.parameter_gradient({.rows = rows,
                                    .in_channels = s_.in_channels,
                                    .out_channels = s_.out_channels,
                                    .columns = columns_,
                                    .taps = pointers_.data(),
                                    .z = after_taps,
                                    .dz = after_taps + rows,
                                    .t = after_taps + 2 * rows,
                                    .weight = sums,
                                    .gamma = sums + s_.weight_numel() + 2 * s_.out_channels,
                                    .shared_taps = stage_.layout.shared_taps,
                                    .tap_stride = stage_.layout.tap_stride});
  }

  void input_row(const Group& g, int64_t y) {
    InputRowGradient p{.count = 0,
                       .dz = {},
                       .kernel_row = {},
                       .in_channels = padded_in_,
                       .out_channels = s_.out_channels,
                       .columns = columns_,
                       .weight = backward_.input_weight.data(),
                       .has_previous = stage_.layout.has_previous.data(),
                       .has_next = stage_.layout.has_next.data(),
                       .out = grad_line_.data()};
    for (int kh = static_cast<int>(y % 2); kh < 5; kh += 2) {
      const int64_t conv_row = (y + 2 - kh) / 2;  // reads y with that row of the kernel
      if (conv_row >= 2 * s_.out_h() || y + 2 < kh) continue;
      p.dz[p.count] = dz(conv_row / 2) + conv_row % 2 * 2 * plane_;
      p.kernel_row[p.count++] = kh;
    }
    stage_.simd.input_row_gradient(p);
    for (int64_t n = 0; n < g.count; ++n) {
      for (int64_t c = 0; c < s_.in_channels; ++c) {
        std::copy_n(grad_line_.data() + 4 * (c * columns_ + n * stage_.layout.pitch), s_.in_w,
                    backward_.grad_x + (((g.first + n) * s_.in_channels + c) * s_.in_h + y) * s_.in_w);
      }
    }
  }

  const Stage& stage_;
  const BackwardStage& backward_;
  const ConvShape& s_;
  int64_t columns_, plane_;  // plane: [Cout][columns]
  int64_t band_;             // pooled rows
  int64_t padded_in_;
  TapRows<Taps> rows_;
  std::vector<float> y_, grad_y_;  // [Cout][columns]
  std::vector<float> z_, t_;       // [band][4][Cout][columns]
  std::vector<float> dz_;          // [band + 2][4][Cout][columns]: the input gradient looks back two rows
  std::vector<int32_t> valid_;     // [columns] as GdnRowBackward takes it
  std::vector<int64_t> invalid_;   // the columns that hold no output
  std::vector<float> sums_;        // [2][Cout][kRowPad]: of bias, of beta
  std::vector<float> grad_line_;   // [Cin, padded][4 columns]
  std::vector<const float*> pointers_;
};

template <class Params, class MakeTaps>
void backward(const Params& p, const Stage& stage, const MakeTaps& make_taps, float* grad_x, const Parallel& parallel) {
  using Taps = decltype(make_taps());
  const ConvShape& s = p.shape;
  const int64_t C = s.out_channels, weights = s.weight_numel();
  const BackwardStage backward(stage, p, grad_x);
  const ChunkedSum sums(stage.layout.groups(s.batch), GroupBackward<Taps>::width(s));
  parallel.for_each(sums.chunks(), [&](int64_t chunk) {
    GroupBackward<Taps> groups(stage, backward, make_taps());
    for (int64_t i = sums.begin(chunk); i < sums.end(chunk); ++i) {
      groups.run(group_at(s, stage.layout, i), p.grad_y, sums.partial(chunk));
    }
  });
  sums.finish(0, weights, p.grad_weight);
  sums.finish(weights, C, p.grad_bias);
  sums.finish(weights + C, C, p.grad_beta);
  sums.finish(weights + 2 * C, C * C, p.grad_gamma);
}

auto planar(const Stage& stage, const float* x) {
  return [&stage, x] { return PlanarTaps(stage.s, stage.layout, stage.simd, x); };
}

auto cropped(const Stage& stage, const CropInput& crops) {
  return [&] { return CropTaps(stage.s, stage.layout, stage.simd, crops); };
}

}  // namespace

bool has_simd_stage(const ConvShape& s) {
  if (s.batch == 0) return false;  // working memory, as wide as the input, for nothing
  const bool channels = s.out_channels == 8 || s.out_channels == 16 || s.out_channels == 32;
  return channels && s.kernel_h == 5 && s.kernel_w == 5 && s.stride_h == 2 && s.stride_w == 2 && s.pad_h == 2 &&
         s.pad_w == 2 && s.pool == 2;
}

int64_t simd_stage_kept_numel(const ConvShape& s) {
  const Layout layout(s);
  return layout.groups(s.batch) * s.out_h() * 4 * s.out_channels * layout.columns;
}

void simd_stage_forward(const ConvGdnPoolForward<float>& p, const Parallel& parallel) {
  const Stage stage(p);
  forward(stage, planar(stage, p.x), p.y, p.kept, parallel);
}

void simd_stage_forward(const CropConvGdnPoolForward<float>& p, const Parallel& parallel) {
  const Stage stage(p);
  forward(stage, cropped(stage, p.crops), p.y, p.kept, parallel);
}

void simd_stage_backward(const ConvGdnPoolBackward<float>& p, const Parallel& parallel) {
  const Stage stage(p);
  backward(p, stage, planar(stage, p.x), p.grad_x, parallel);
}

void simd_stage_backward(const CropConvGdnPoolBackward<float>& p, const Parallel& parallel) {
  const Stage stage(p);
  backward(p, stage, cropped(stage, p.crops), nullptr, parallel);
}

}  // namespace meon::cpu
