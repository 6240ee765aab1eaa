// Ops as torch calls them.
#pragma once

#include <torch/csrc/stable/library.h>

#include <stdexcept>
#include <string>

// Of torch from 2.13 on; null beside an older one, for which the ops are built too.
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

namespace meon::torch_ops {

template <auto function>
struct Explained;

// The same function, with errors that say what was wrong. Where something fails that torch does for us, an allocation
// for one, the stable ABI only says which call it was; torch keeps the reason for whoever asks.
template <class Result, class... Arguments, Result (*function)(Arguments...)>
struct Explained<function> {
  static Result call(Arguments... arguments) {
    try {
      return function(arguments...);
    } catch (const std::runtime_error& error) {
      const bool of_torch = std::string(error.what()).find(" API call failed at ") != std::string::npos;
      if (!of_torch || torch_exception_get_what_without_backtrace == nullptr) throw;
      throw std::runtime_error(torch_exception_get_what_without_backtrace());
    }
  }
};

}  // namespace meon::torch_ops

#define MEON_BOX(function) TORCH_BOX(&::meon::torch_ops::Explained<function>::call)
