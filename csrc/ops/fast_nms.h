// What the CPU and CUDA kernels of `fast_nms` share, and `detect` with them, which ends in Fast NMS: the checks of the
// arguments, the IoU and the order of scores.
#pragma once

#include <cstdint>
#include <cstring>

#include "arithmetic.h"
#include "checks.h"

namespace yolact {

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

// Intersection over union of two xyxy boxes; 0 where the union is empty.
YOLACT_HOST_DEVICE float box_iou(float ax1, float ay1, float ax2, float ay2, float bx1, float by1, float bx2,
                                 float by2) {
  const float width = larger(smaller(ax2, bx2) - larger(ax1, bx1), 0.0f);
  const float height = larger(smaller(ay2, by2) - larger(ay1, by1), 0.0f);
  const float intersection = multiply(width, height);
  const float area_a = multiply(ax2 - ax1, ay2 - ay1);
  const float area_b = multiply(bx2 - bx1, by2 - by1);
  const float both = area_a + area_b - intersection;
  return both > 0.0f ? intersection / both : 0.0f;
}

// Maps scores to unsigned integers of the same order. −0 counts as 0; a NaN must not come here.
YOLACT_HOST_DEVICE uint32_t rank_of(float score) {
  const float value = score + 0.0f;
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

}  // namespace yolact
