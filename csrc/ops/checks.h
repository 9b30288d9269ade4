// What the checks of all operators share. The checks of one operator are in the header of its name, and every device
// makes the same ones.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <string>

namespace yolact {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string shape_of(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) {
    text += (dim ? ", " : "") + std::to_string(tensor.size(dim));
  }
  return text + "]";
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.device().type() == b.device().type() && a.get_device() == b.get_device();
}

inline void check_boxes(const char* op, const Tensor& boxes) {
  STD_TORCH_CHECK(boxes.scalar_type() == ScalarType::Float, op, ": boxes must be float32");
}

// Calls `body` with a null pointer to the C++ type of `dtype`; `body` gets the type with std::remove_pointer. `name` is
// the tensor of that dtype, for the message.
template <class Body>
void dispatch_floating(const char* op, const char* name, ScalarType dtype, const Body& body) {
  switch (dtype) {
    case ScalarType::Float: return body(static_cast<float*>(nullptr));
    case ScalarType::Half: return body(static_cast<c10::Half*>(nullptr));
    case ScalarType::BFloat16: return body(static_cast<c10::BFloat16*>(nullptr));
    default: STD_TORCH_CHECK(false, op, ": ", name, " must be float32, float16 or bfloat16");
  }
}

}  // namespace yolact
