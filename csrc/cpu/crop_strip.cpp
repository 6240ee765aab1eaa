#include "cpu/crop_strip.h"

#include <algorithm>

namespace meon::cpu {
namespace {

// Rows kept of each level. A stage row reads kTaps rows of the level before, which must all stay while it is computed;
// beyond that, enough to find again what the crop row above shared: the second stage's 16 rows of one crop, for strides
// that put several lattices between one crop row and the next.
constexpr int64_t kKept[kSharedStages + 1] = {8, 12, 40, 8};

// The rows of an image lie too far apart for the processor to fetch them by itself.
constexpr int64_t kRowsAhead = 8;

}  // namespace

RowCache::RowCache(int64_t capacity, int64_t row_size)
    : memory_(static_cast<size_t>(capacity * row_size)), slots_(static_cast<size_t>(capacity)) {
  for (size_t i = 0; i < slots_.size(); ++i) slots_[i].data = memory_.data() + static_cast<int64_t>(i) * row_size;
}

RowCache::Slot& RowCache::get(int64_t row, bool& fresh) {
  Slot* oldest = &slots_.front();
  for (Slot& slot : slots_) {
    if (slot.row == row) {
      slot.used = ++clock_;
      fresh = true;
      return slot;
    }
    if (slot.used < oldest->used) oldest = &slot;
  }
  oldest->row = row;
  oldest->used = ++clock_;
  fresh = false;
  return *oldest;
}

CropStrip::CropStrip(const Network& net, const CropInput& image, std::span<const int64_t> rows,
                     std::span<const int64_t> columns)
    : net_(net),
      image_(image),
      crop_rows_(static_cast<int64_t>(rows.size())),
      crop_columns_(static_cast<int64_t>(columns.size())),
      row_plan_(rows),
      column_plan_(columns) {
  const auto& first = column_plan_.stages[0].taps;
  first_stage_at_.resize(first.size());
  int64_t at = 0;
  for (size_t i = 0; i < first.size(); ++i) {
    if (std::find(first[i].begin(), first[i].end(), kPadding) != first[i].end()) {
      rim_.push_back(static_cast<int32_t>(i));
      continue;
    }
    if (runs_.empty() || first[i][0] != runs_.back().pixel + 4 * runs_.back().count) {
      if (!runs_.empty()) ++at;
      runs_.push_back({at, 0, first[i][0]});
    }
    ++runs_.back().count;
    first_stage_at_[i] = static_cast<int32_t>(at++);
  }
  run_columns_ = padded(at);
  run_stride_ = run_columns_ + kRowPad;
  rim_columns_ = padded(static_cast<int64_t>(rim_.size()));
  for (size_t i = 0; i < rim_.size(); ++i) {
    first_stage_at_[static_cast<size_t>(rim_[i])] = static_cast<int32_t>(run_columns_ + static_cast<int64_t>(i));
  }

  int64_t longest = 0, widest = 0;
  for (int s = 0; s < kSharedStages; ++s) {
    const auto& taps = column_plan_.stages[static_cast<size_t>(s)].taps;
    columns_.push_back(s == 0 ? run_columns_ + rim_columns_ : padded(static_cast<int64_t>(taps.size())));
    longest = std::max(longest, row_size(s));
    widest = std::max(widest, net_.shared(s).out_channels * (columns_.back() + 1));
    auto& index = column_index_.emplace_back();
    if (s == 0) continue;
    // Element columns_[s - 1] of each channel of the row that is gathered from is zero: the padding.
    index.assign(static_cast<size_t>(kTaps * columns_.back()),
                 static_cast<int32_t>(columns_[static_cast<size_t>(s - 1)]));
    for (size_t i = 0; i < taps.size(); ++i) {
      for (int t = 0; t < kTaps; ++t) {
        const int32_t from = taps[i][static_cast<size_t>(t)];
        if (from == kPadding) continue;
        index[static_cast<size_t>(t * columns_.back()) + i] =
            s == 1 ? first_stage_at_[static_cast<size_t>(from)] : from;
      }
    }
  }
  zeros_.resize(static_cast<size_t>(longest));
  out_.resize(static_cast<size_t>(widest));

  for (int level = 0; level <= kSharedStages; ++level) caches_.emplace_back(kKept[level], row_size(level));
}

// Floats in a row that goes into a stage, or out of the last.
int64_t CropStrip::row_size(int level) const {
  if (level == 0) return kImageChannels * (4 * run_stride_ + kTaps * rim_columns_);
  if (level == kSharedStages) return net_.shared(level - 1).out_channels * (columns_.back() + 1);
  return net_.shared(level).in_channels * kTaps * columns_[static_cast<size_t>(level)];
}

const float* CropStrip::pixel_row(int64_t y) {
  bool fresh = false;
  const auto& slot = caches_[0].get(y, fresh);
  if (fresh) return slot.data;
  const uint8_t* row = image_.image + y * image_.image_w * kImageChannels;
  for (const Run& run : runs_) {
    net_.simd().pixels_to_taps(row + run.pixel * kImageChannels, run.count, slot.data + run.at, run_stride_,
                               kRowsAhead * image_.image_w * kImageChannels);
  }
  float* rim = slot.data + kImageChannels * 4 * run_stride_;
  for (size_t i = 0; i < rim_.size(); ++i) {
    const auto& taps = column_plan_.stages[0].taps[static_cast<size_t>(rim_[i])];
    for (int t = 0; t < kTaps; ++t) {
      const int32_t x = taps[static_cast<size_t>(t)];
      for (int64_t c = 0; c < kImageChannels; ++c) {
        rim[(c * kTaps + t) * rim_columns_ + static_cast<int64_t>(i)] =
            x == kPadding ? 0.0f : static_cast<float>(row[x * kImageChannels + c]);
      }
    }
  }
  return slot.data;
}

const float* CropStrip::stage_row(int stage, int64_t id) {
  bool fresh = false;
  const auto& slot = caches_[static_cast<size_t>(stage + 1)].get(id, fresh);
  if (fresh) return slot.data;

  const auto& taps = row_plan_.stages[static_cast<size_t>(stage)].taps[static_cast<size_t>(id)];
  const float* inputs[kTaps];
  for (int t = 0; t < kTaps; ++t) {
    const int32_t from = taps[static_cast<size_t>(t)];
    inputs[t] = from == kPadding ? zeros_.data() : stage == 0 ? pixel_row(from) : stage_row(stage - 1, from);
  }
  const Network::SharedStage& layer = net_.shared(stage);
  const int64_t columns = columns_[static_cast<size_t>(stage)];
  const bool last = stage == kSharedStages - 1;
  // One more element than columns, zero: what the next stage's padding reads.
  float* out = last ? slot.data : out_.data();
  const int64_t out_stride = columns + 1;
  StageRow work{.rows = inputs,
                .in_channels = layer.in_channels,
                .columns = columns,
                .weight = layer.weight.data(),
                .bias = layer.bias.data(),
                .beta = layer.beta.data(),
                .gamma = layer.gamma.data(),
                .out = out,
                .out_stride = out_stride};
  if (stage == 0) {
    work.columns = run_columns_;
    work.shared_taps = true;
    work.tap_stride = run_stride_;
    layer.row(work);
    for (const float*& input : inputs) input += kImageChannels * 4 * run_stride_;
    work.columns = work.tap_stride = rim_columns_;
    work.shared_taps = false;
    work.out += run_columns_;
  }
  layer.row(work);
  if (last) return slot.data;
  const int64_t next = columns_[static_cast<size_t>(stage + 1)];
  for (int64_t c = 0; c < layer.out_channels; ++c) {
    out[c * out_stride + columns] = 0.0f;
    net_.simd().gather_taps(out + c * out_stride, column_index_[static_cast<size_t>(stage + 1)].data(), next,
                            slot.data + c * kTaps * next);
  }
  return slot.data;
}

void CropStrip::run(const int64_t* index, int64_t index_stride, float* raw, float* probabilities) {
  constexpr int64_t kBatch = 8;  // crops whose heads are computed together, so that their weights are read once
  const AxisStage& rows = row_plan_.stages.back();
  const AxisStage& columns = column_plan_.stages.back();
  const int64_t side = rows.outputs_per_crop;  // 4
  const int64_t channels = net_.shared(kSharedStages - 1).out_channels;
  const int64_t stride = columns_.back() + 1;
  std::vector<float> map(static_cast<size_t>(side * side * channels));
  std::vector<float> features(static_cast<size_t>(kBatch * kFeatures));
  int64_t where[kBatch];
  int64_t waiting = 0;
  for (int64_t crop_row = 0; crop_row < crop_rows_; ++crop_row) {
    std::vector<const float*> lines;
    for (int64_t y = 0; y < side; ++y) lines.push_back(stage_row(kSharedStages - 1, rows.at(crop_row, y)));
    for (int64_t crop = 0; crop < crop_columns_; ++crop) {
      for (int64_t y = 0; y < side; ++y) {
        for (int64_t x = 0; x < side; ++x) {
          const float* from = lines[static_cast<size_t>(y)] + columns.at(crop, x);
          float* to = map.data() + (y * side + x) * channels;
          for (int64_t c = 0; c < channels; ++c) to[c] = from[c * stride];
        }
      }
      net_.last_stage(map.data(), features.data() + waiting * kFeatures);
      where[waiting++] = index[crop_row * index_stride + crop];
      if (waiting == kBatch) {
        net_.heads(waiting, features.data(), raw, probabilities, where);
        waiting = 0;
      }
    }
  }
  if (waiting > 0) net_.heads(waiting, features.data(), raw, probabilities, where);
}

}  // namespace meon::cpu
