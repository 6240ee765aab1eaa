// meon_ext._core: the C++ core for NumPy, without torch. Every argument is checked here, before any pointer is
// taken; meon_ext/_core.pyi documents the functions.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/crop_grid.h"
#include "core/crop_tables.h"
#include "core/layers.h"
#include "core/parallel.h"
#include "cpu/network.h"
#include "cpu/simd/table.h"

namespace py = pybind11;

namespace {

std::string shape_of(const py::array& a) {
  std::string out = "(";
  for (py::ssize_t d = 0; d < a.ndim(); ++d) out += (d ? ", " : "") + std::to_string(a.shape(d));
  return out + ")";
}

std::string shape_of(const std::vector<int64_t>& shape) {
  std::string out = "(";
  for (size_t d = 0; d < shape.size(); ++d) {
    out += (d ? ", " : "") + (shape[d] < 0 ? std::string("any") : std::to_string(shape[d]));
  }
  return out + ")";
}

template <class T>
py::array_t<T> require(const py::object& object, const char* name, const char* dtype) {
  if (!py::isinstance<py::array>(object)) {
    throw py::type_error(std::string(name) + " must be a NumPy array of dtype " + dtype);
  }
  const auto array = py::reinterpret_borrow<py::array>(object);
  if (!array.dtype().is(py::dtype::of<T>()) && !array.dtype().equal(py::dtype::of<T>())) {
    throw py::type_error(std::string(name) + " has dtype " + py::str(array.dtype()).cast<std::string>() +
                         "; it must be " + dtype);
  }
  // Copied where it is not contiguous, or (a slice of a file in memory may lie anywhere) not aligned.
  constexpr int kFlags = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
  auto contiguous = py::array_t<T, kFlags>::ensure(array);
  if (!contiguous) throw py::error_already_set();
  return contiguous;
}

class Network {
 public:
  explicit Network(const py::dict& tensors) {
    size_t used = 0;
    std::vector<py::array_t<float>> held;  // the network copies what it needs before they go
    net_ = std::make_unique<meon::cpu::Network>([&](const std::string& name, std::vector<int64_t>& shape) {
      const py::str key(name);
      if (!tensors.contains(key)) throw std::invalid_argument("tensor '" + name + "' is missing");
      const auto& array = held.emplace_back(require<float>(tensors[key], ("tensor '" + name + "'").c_str(), "float32"));
      bool fits = array.ndim() == static_cast<py::ssize_t>(shape.size());
      for (size_t d = 0; fits && d < shape.size(); ++d) {
        const py::ssize_t have = array.shape(static_cast<py::ssize_t>(d));
        if (shape[d] < 0) shape[d] = have;
        fits = have > 0 && have == shape[d];
      }
      if (!fits) {
        throw std::invalid_argument("tensor '" + name + "' has shape " + shape_of(array) + "; it must be " +
                                    shape_of(shape));
      }
      ++used;
      return std::span<const float>(array.data(), static_cast<size_t>(array.size()));
    });
    if (used != tensors.size()) {
      throw std::invalid_argument("the network uses " + std::to_string(used) + " tensors but " +
                                  std::to_string(tensors.size()) + " were given; remove the others");
    }
  }

  int64_t num_classes() const { return net_->num_classes(); }

  py::tuple forward_crops(const py::object& image_object, const py::object& boxes_object, int threads) const {
    const auto image = require<uint8_t>(image_object, "image", "uint8");
    const auto boxes = require<int64_t>(boxes_object, "boxes", "int64");
    if (image.ndim() != 3 || image.shape(2) != meon::kImageChannels) {
      throw std::invalid_argument("image has shape " + shape_of(image) + "; it must be (H, W, 3)");
    }
    if (boxes.ndim() != 2 || boxes.shape(1) != 4) {
      throw std::invalid_argument("boxes has shape " + shape_of(boxes) + "; it must be (K, 4)");
    }
    if (threads < 0) throw std::invalid_argument("threads must be 0 (all) or positive, got " + std::to_string(threads));
    const int64_t height = image.shape(0), width = image.shape(1), crops = boxes.shape(0);
    // A copy: another thread may write to the array after it was checked.
    const std::vector<int64_t> checked(boxes.data(), boxes.data() + 4 * crops);
    for (int64_t k = 0; k < crops; ++k) {
      const int64_t* b = checked.data() + 4 * k;
      const bool inside = b[0] >= 0 && b[1] >= 0 && b[2] <= width && b[3] <= height && b[0] <= b[2] && b[1] <= b[3];
      if (!inside || b[2] - b[0] != meon::kCropSize || b[3] - b[1] != meon::kCropSize) {
        throw std::invalid_argument("boxes[" + std::to_string(k) +
                                    "] must be a 256 x 256 box (x0, y0, x1, y1) inside " + "the image of " +
                                    std::to_string(width) + " x " + std::to_string(height));
      }
    }
    py::array_t<float> raw(crops);
    py::array_t<float> probabilities({crops, net_->num_classes()});
    const uint8_t* image_data = image.data();
    float* raw_data = raw.mutable_data();
    float* probabilities_data = probabilities.mutable_data();
    {
      const py::gil_scoped_release release;
      net_->forward_crops({image_data, width, checked.data()}, crops, raw_data, probabilities_data,
                          meon::Threads(threads));
    }
    return py::make_tuple(raw, probabilities);
  }

 private:
  std::unique_ptr<meon::cpu::Network> net_;
};

py::array_t<int64_t> crop_grid(int64_t height, int64_t width, int64_t size, int64_t stride) {
  const std::vector<int64_t> boxes = meon::crop_grid(height, width, size, stride);
  py::array_t<int64_t> out({static_cast<py::ssize_t>(boxes.size() / 4), py::ssize_t{4}});
  std::memcpy(out.mutable_data(), boxes.data(), boxes.size() * sizeof(int64_t));
  return out;
}

py::array_t<int32_t> as_array(const std::vector<int32_t>& values) {
  py::array_t<int32_t> out(static_cast<py::ssize_t>(values.size()));
  std::copy(values.begin(), values.end(), out.mutable_data());
  return out;
}

// The three shared stages' inputs, then the crops' places [crops, 4].
py::list crop_tables(const py::object& offsets_object) {
  const auto offsets = require<int64_t>(offsets_object, "offsets", "int64");
  if (offsets.ndim() != 1) throw std::invalid_argument("offsets has shape " + shape_of(offsets) + "; it must be (K,)");
  const std::span<const int64_t> first(offsets.data(), static_cast<size_t>(offsets.size()));
  constexpr int64_t kLast = std::numeric_limits<int32_t>::max() - meon::kCropSize;
  for (size_t k = 0; k < first.size(); ++k) {
    if (first[k] < 0 || first[k] > kLast || (k > 0 && first[k] <= first[k - 1])) {
      throw std::invalid_argument("offsets[" + std::to_string(k) + "] is " + std::to_string(first[k]) +
                                  "; offsets must ascend, from 0 to at most 2^31 - 257");
    }
  }
  const meon::AxisTables tables{meon::AxisPlan(first)};
  py::list out;
  for (const std::vector<int32_t>& inputs : tables.inputs) out.append(as_array(inputs));
  out.append(as_array(tables.crops).reshape({static_cast<py::ssize_t>(first.size()), py::ssize_t{4}}));
  return out;
}

double multiply_adds(int64_t rounds, int threads) {
  if (rounds < 1 || rounds > int64_t{1} << 40) throw std::invalid_argument("rounds must be from 1 to 2^40");
  if (threads < 0) throw std::invalid_argument("threads must be 0 (all) or positive, got " + std::to_string(threads));
  const meon::cpu::SimdTable& simd = meon::cpu::choose_simd();
  const meon::Threads parallel(threads);
  const py::gil_scoped_release release;
  parallel.for_each(parallel.threads(), [&](int64_t) {
    float sink[meon::cpu::kRowPad];
    simd.multiply_adds(rounds, sink);
  });
  return 2.0 * static_cast<double>(rounds * parallel.threads() * simd.lanes * meon::cpu::kMultiplyAddChains);
}

py::dict build_info() {
  py::dict info;
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#elif defined(__GNUC__)
  info["compiler"] = "gcc " __VERSION__;
#else
  info["compiler"] = "unknown";
#endif
  info["cpp_standard"] = static_cast<long>(__cplusplus);
  info["build_type"] = MEON_BUILD_TYPE;
  py::list built, usable;
  for (const auto* table : {meon::cpu::simd_portable(), meon::cpu::simd_avx2(), meon::cpu::simd_avx512()}) {
    if (table != nullptr) built.append(table->name);
  }
  for (const auto* table : meon::cpu::usable_simd()) usable.append(table->name);
  info["instruction_sets"] = built;
  info["instruction_sets_usable"] = usable;  // on this processor
  info["instruction_set"] = meon::cpu::choose_simd().name;
  info["processors_usable"] = meon::Threads(0).threads();
  return info;
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "The torch-free C++ core of meon_ext.";
  m.def("build_info", &build_info);
  m.def("crop_grid", &crop_grid, py::arg("height"), py::arg("width"), py::arg("size") = meon::kCropSize,
        py::arg("stride") = 128);
  m.def("crop_tables", &crop_tables, py::arg("offsets"));
  m.def("multiply_adds", &multiply_adds, py::arg("rounds"), py::arg("threads") = 0);
  py::class_<Network>(m, "Network")
      .def(py::init<const py::dict&>(), py::arg("tensors"))
      .def_property_readonly("num_classes", &Network::num_classes)
      .def("forward_crops", &Network::forward_crops, py::arg("image"), py::arg("boxes"), py::arg("threads") = 0);
}
