// What the operators accept, checked alike on every device.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <string>
#include <vector>

#include "geometry.h"

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

struct NmsSizes {
  int64_t images, anchors, classes;
};

struct NmsLimits {
  float iou_threshold;
  int64_t top_k;
  int64_t max_detections;
};

inline void check_limits(const char* op, int64_t top_k, int64_t max_detections) {
  STD_TORCH_CHECK(top_k > 0, op, ": top_k must be positive, got ", top_k);
  STD_TORCH_CHECK(max_detections >= 0, op, ": max_detections must not be negative, got ", max_detections);
}

inline NmsSizes check_fast_nms(const Tensor& boxes, const Tensor& scores, int64_t top_k, int64_t max_detections) {
  STD_TORCH_CHECK(boxes.dim() == 3 && boxes.size(2) == 4, "fast_nms: boxes must be [B, A, 4], got ", shape_of(boxes));
  STD_TORCH_CHECK(scores.dim() == 3 && scores.size(0) == boxes.size(0) && scores.size(1) == boxes.size(1),
                  "fast_nms: scores must be [B, A, classes] for boxes ", shape_of(boxes), ", got ", shape_of(scores));
  check_boxes("fast_nms", boxes);
  STD_TORCH_CHECK(same_device(boxes, scores), "fast_nms: boxes and scores must be on one device");
  check_limits("fast_nms", top_k, max_detections);
  return {scores.size(0), scores.size(1), scores.size(2)};
}

inline NmsSizes check_detect(const Tensor& box_deltas, const Tensor& logits, const Tensor& anchors, int64_t top_k,
                             int64_t max_detections) {
  STD_TORCH_CHECK(box_deltas.dim() == 3 && box_deltas.size(2) == 4, "detect: box_deltas must be [B, A, 4], got ",
                  shape_of(box_deltas));
  const int64_t images = box_deltas.size(0), count = box_deltas.size(1);
  STD_TORCH_CHECK(logits.dim() == 3 && logits.size(0) == images && logits.size(1) == count && logits.size(2) > 0,
                  "detect: logits must be [B, A, 1 + classes] for box_deltas ", shape_of(box_deltas), ", got ",
                  shape_of(logits));
  const int64_t lead = anchors.dim() - 2;
  STD_TORCH_CHECK((lead == 0 || (lead == 1 && anchors.size(0) == images)) && anchors.size(lead) == count &&
                      anchors.size(lead + 1) == 4,
                  "detect: anchors must be [A, 4] or [B, A, 4] for box_deltas ", shape_of(box_deltas), ", got ",
                  shape_of(anchors));
  STD_TORCH_CHECK(anchors.scalar_type() == ScalarType::Float, "detect: anchors must be float32");
  STD_TORCH_CHECK(box_deltas.scalar_type() == logits.scalar_type(),
                  "detect: box_deltas and logits must have one dtype");
  STD_TORCH_CHECK(same_device(box_deltas, logits) && same_device(box_deltas, anchors),
                  "detect: box_deltas, logits and anchors must be on one device");
  check_limits("detect", top_k, max_detections);
  return {images, count, logits.size(2) - 1};
}

struct CropSizes {
  int64_t masks, height, width;
};

inline CropSizes check_crop(const Tensor& masks, const Tensor& boxes, int64_t padding) {
  bool fits = masks.dim() >= 2 && boxes.dim() == masks.dim() - 1 && boxes.size(boxes.dim() - 1) == 4;
  int64_t count = 1;
  for (int64_t dim = 0; fits && dim < masks.dim() - 2; ++dim) {
    fits = masks.size(dim) == boxes.size(dim);
    count *= masks.size(dim);
  }
  STD_TORCH_CHECK(fits, "crop: masks [..., h, w] need boxes [..., 4], got masks ", shape_of(masks), " and boxes ",
                  shape_of(boxes));
  check_boxes("crop", boxes);
  STD_TORCH_CHECK(same_device(masks, boxes), "crop: masks and boxes must be on one device");
  STD_TORCH_CHECK(padding >= 0, "crop: padding must not be negative, got ", padding);
  return {count, masks.size(masks.dim() - 2), masks.size(masks.dim() - 1)};
}

struct AssembleSizes {
  int64_t images, detections, prototypes, mask_height, mask_width;
};

// A missing leading dimension stands for one image.
inline AssembleSizes check_assembly(const char* op, const Tensor& prototypes, const Tensor& coefficients,
                                    const Tensor& boxes, int64_t height, int64_t width, double threshold) {
  const int64_t lead = prototypes.dim() - 3;
  const bool fits = (lead == 0 || lead == 1) && coefficients.dim() == lead + 2 && boxes.dim() == lead + 2 &&
                    boxes.size(lead + 1) == 4 && coefficients.size(lead) == boxes.size(lead) &&
                    coefficients.size(lead + 1) == prototypes.size(lead + 2) &&
                    (lead == 0 || (prototypes.size(0) == coefficients.size(0) && prototypes.size(0) == boxes.size(0)));
  STD_TORCH_CHECK(fits, op,
                  ": needs prototypes [h, w, K], coefficients [N, K] and boxes [N, 4], or each with a "
                  "leading batch dimension; got ",
                  shape_of(prototypes), ", ", shape_of(coefficients), " and ", shape_of(boxes));
  check_boxes(op, boxes);
  STD_TORCH_CHECK(prototypes.scalar_type() == coefficients.scalar_type(),
                  op, ": prototypes and coefficients must have one dtype");
  STD_TORCH_CHECK(same_device(prototypes, coefficients) && same_device(prototypes, boxes),
                  op, ": prototypes, coefficients and boxes must be on one device");
  STD_TORCH_CHECK(prototypes.size(lead) > 0 && prototypes.size(lead + 1) > 0,
                  op, ": prototypes must not be empty, got ", shape_of(prototypes));
  STD_TORCH_CHECK(height > 0 && width > 0, op, ": height and width must be positive, got ", height, " and ",
                  width);
  STD_TORCH_CHECK(threshold >= 0.0, op, ": threshold must not be negative, got ", threshold);
  return {lead ? prototypes.size(0) : 1, boxes.size(lead), prototypes.size(lead + 2), prototypes.size(lead),
          prototypes.size(lead + 1)};
}

inline std::vector<int64_t> assemble_shape(const Tensor& prototypes, const AssembleSizes& sizes, int64_t height,
                                           int64_t width) {
  if (prototypes.dim() == 3) return {sizes.detections, height, width};
  return {sizes.images, sizes.detections, height, width};
}

inline std::vector<int64_t> crop_shape(const Tensor& prototypes, const AssembleSizes& sizes) {
  if (prototypes.dim() == 3) return {sizes.detections, 4};
  return {sizes.images, sizes.detections, 4};
}

// The type in which positions, weights and sums are computed for values of type T.
template <class T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};

inline DeformGrid check_deform_columns(const Tensor& input, const Tensor& offsets, const Tensor& mask,
                                       int64_t kernel_size, int64_t stride, int64_t padding, int64_t dilation) {
  STD_TORCH_CHECK(kernel_size > 0 && stride > 0 && padding >= 0 && dilation > 0,
                  "deform_columns: kernel_size, stride and dilation must be positive and padding not negative, got ",
                  kernel_size, ", ", stride, ", ", dilation, " and ", padding);
  STD_TORCH_CHECK(input.dim() == 4, "deform_columns: input must be [B, H, W, C], got ", shape_of(input));
  const auto outputs = [&](int64_t size) {
    const int64_t room = size + 2 * padding - dilation * (kernel_size - 1) - 1;
    return room < 0 ? 0 : room / stride + 1;
  };
  const DeformGrid grid{input.size(0),          input.size(1), input.size(2), input.size(3), outputs(input.size(1)),
                        outputs(input.size(2)), kernel_size,   stride,        padding,       dilation};
  const auto fits = [&](const Tensor& tensor, int64_t values) {
    return tensor.dim() == 4 && tensor.size(0) == grid.images && tensor.size(1) == grid.rows &&
           tensor.size(2) == grid.columns && tensor.size(3) == values;
  };
  STD_TORCH_CHECK(fits(offsets, 2 * grid.taps()) && fits(mask, grid.taps()), "deform_columns: input ", shape_of(input),
                  " needs offsets [", grid.images, ", ", grid.rows, ", ", grid.columns, ", ", 2 * grid.taps(),
                  "] and a mask of half as many values, got ", shape_of(offsets), " and ", shape_of(mask));
  const ScalarType wanted = input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(offsets.scalar_type() == wanted && mask.scalar_type() == wanted,
                  "deform_columns: offsets and mask must be float32, or float64 with an input of float64");
  STD_TORCH_CHECK(same_device(input, offsets) && same_device(input, mask),
                  "deform_columns: input, offsets and mask must be on one device");
  return grid;
}

inline std::vector<int64_t> columns_shape(const DeformGrid& grid) {
  return {grid.images, grid.rows, grid.columns, grid.taps() * grid.channels};
}

inline void check_deform_gradient(const Tensor& gradient, const Tensor& input, const DeformGrid& grid) {
  bool fits = gradient.dim() == 4 && gradient.scalar_type() == input.scalar_type() && same_device(gradient, input);
  const std::vector<int64_t> shape = columns_shape(grid);
  for (int64_t dim = 0; fits && dim < 4; ++dim) fits = gradient.size(dim) == shape[dim];
  STD_TORCH_CHECK(fits, "deform_columns_backward: the gradient must be like the columns of input ", shape_of(input),
                  ", got ", shape_of(gradient));
}

// Calls `body` with a null pointer of the C++ type of `dtype`, to be read off with std::remove_pointer.
template <class Body>
void dispatch_floating(const char* op, ScalarType dtype, const Body& body) {
  switch (dtype) {
    case ScalarType::Float: return body(static_cast<float*>(nullptr));
    case ScalarType::Half: return body(static_cast<c10::Half*>(nullptr));
    case ScalarType::BFloat16: return body(static_cast<c10::BFloat16*>(nullptr));
    default:
      STD_TORCH_CHECK(false, op, ": needs float32, float16 or bfloat16 scores, logits, masks, prototypes or input");
  }
}

// The same, and float64, in which gradients are checked.
template <class Body>
void dispatch_with_double(const char* op, ScalarType dtype, const Body& body) {
  if (dtype == ScalarType::Double) return body(static_cast<double*>(nullptr));
  dispatch_floating(op, dtype, body);
}

}  // namespace yolact
