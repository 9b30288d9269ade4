// What the CPU and CUDA kernels of `assemble_masks`, `assemble_crops` and `assemble_runs` share: the checks of their
// arguments, and where a resized mask samples its prototypes.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "arithmetic.h"
#include "checks.h"
#include "crop.h"

namespace yolact {

struct AssembleSizes {
  int64_t images, detections, prototypes, mask_height, mask_width;
};

// Without a leading batch dimension, the tensors describe one image.
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
  STD_TORCH_CHECK(prototypes.scalar_type() == coefficients.scalar_type(), op,
                  ": prototypes and coefficients must have one dtype");
  STD_TORCH_CHECK(same_device(prototypes, coefficients) && same_device(prototypes, boxes), op,
                  ": prototypes, coefficients and boxes must be on one device");
  STD_TORCH_CHECK(prototypes.size(lead) > 0 && prototypes.size(lead + 1) > 0, op,
                  ": prototypes must not be empty, got ", shape_of(prototypes));
  STD_TORCH_CHECK(height > 0 && width > 0, op, ": height and width must be positive, got ", height, " and ", width);
  STD_TORCH_CHECK(threshold >= 0.0, op, ": threshold must not be negative, got ", threshold);
  const AssembleSizes sizes{lead ? prototypes.size(0) : 1, boxes.size(lead), prototypes.size(lead + 2),
                            prototypes.size(lead), prototypes.size(lead + 1)};
  const int64_t count = sizes.images * sizes.detections;
  STD_TORCH_CHECK(count == 0 || height <= std::numeric_limits<int64_t>::max() / width / count, op, ": ", count,
                  " masks of height ", height, " and width ", width, " are too large");
  return sizes;
}

inline std::vector<int64_t> masks_shape(const Tensor& prototypes, const AssembleSizes& sizes, int64_t height,
                                        int64_t width) {
  if (prototypes.dim() == 3) return {sizes.detections, height, width};
  return {sizes.images, sizes.detections, height, width};
}

inline std::vector<int64_t> crops_shape(const Tensor& prototypes, const AssembleSizes& sizes) {
  if (prototypes.dim() == 3) return {sizes.detections, 4};
  return {sizes.images, sizes.detections, 4};
}

// Where an output pixel of a bilinear resize (align_corners=False) samples its input: between `index` and
// min(index + 1, size − 1). `fraction` is the weight of the latter.
struct Sample {
  int64_t index;
  float fraction;
};

// The sample of output pixel `target`. `size` is the input size, `scale` is float(input size) / float(output size).
YOLACT_HOST_DEVICE Sample bilinear_sample(int64_t target, float scale, int64_t size) {
  const float position = larger(multiply(scale, static_cast<float>(target) + 0.5f) - 0.5f, 0.0f);
  const int64_t floor = static_cast<int64_t>(position);
  const int64_t index = floor < size - 1 ? floor : size - 1;
  return {index, smaller(larger(position - static_cast<float>(index), 0.0f), 1.0f)};
}

// The value between `a` and `b`. PyTorch weighs them in this order.
YOLACT_HOST_DEVICE float interpolate(float a, float b, float fraction) {
  return multiply(1.0f - fraction, a) + multiply(fraction, b);
}

}  // namespace yolact
