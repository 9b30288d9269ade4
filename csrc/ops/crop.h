// What the CPU and CUDA kernels of `crop` share: the checks of its arguments, and which pixels a box keeps.
#pragma once

#include <cmath>
#include <cstdint>

#include "arithmetic.h"
#include "checks.h"

namespace yolact {

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

// Half-open range of columns or of rows.
struct Range {
  int64_t begin;
  int64_t end;
};

// Columns j of a grid of `size` with max(min(a, b)·size − padding, 0) ≤ j < min(max(a, b)·size + padding, size),
// where a and b are the relative ends of the box. Empty where either is NaN.
YOLACT_HOST_DEVICE Range crop_range(float a, float b, int64_t size, int64_t padding) {
  if (!(a == a) || !(b == b)) return {0, 0};
  const float extent = static_cast<float>(size);
  const float first = larger(multiply(smaller(a, b), extent) - static_cast<float>(padding), 0.0f);
  const float last = smaller(multiply(larger(a, b), extent) + static_cast<float>(padding), extent);
  if (!(first < last)) return {0, 0};
  return {static_cast<int64_t>(ceilf(first)), static_cast<int64_t>(ceilf(last))};
}

}  // namespace yolact
