// The threads of torch, as the kernels see them.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "core/parallel.h"

namespace meon::torch_ops {

class TorchParallel final : public Parallel {
 public:
  void for_each(int64_t count, const std::function<void(int64_t)>& task) const override {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) task(i);
    });
  }
  int64_t threads() const override { return torch::stable::get_num_threads(); }
};

}  // namespace meon::torch_ops
