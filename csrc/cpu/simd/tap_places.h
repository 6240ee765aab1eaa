// Where the taps of an input row lie, in either of the forms that StageRow tells of.
#pragma once

#include "cpu/simd/table.h"

namespace meon::cpu {
namespace {

struct TapPlaces {
  int64_t channel;    // floats from one channel to the next
  int64_t at[kTaps];  // of column 0

  TapPlaces(bool shared, int64_t tap_stride) : channel((shared ? kSharedTaps : kTaps) * tap_stride) {
    for (int k = 0; k < kTaps; ++k) {
      at[k] = shared && k >= kSharedTaps ? (k - kSharedTaps) * tap_stride + 1 : k * tap_stride;
    }
  }
};

}  // namespace
}  // namespace meon::cpu
