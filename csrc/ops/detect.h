// What the CPU and CUDA kernels of `detect` share: the checks of its arguments, the decoding of boxes and the
// exponential of the softmax.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "arithmetic.h"
#include "checks.h"
#include "fast_nms.h"

namespace yolact {

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

// How deltas encode a box: see `reference.decode`.
struct BoxCoding {
  float center_variance;
  float size_variance;
  float max_log_scale;  // infinity for no clamp
  bool clip;            // whether boxes are clipped to 0–1
};

// The two ends of a box along one axis.
struct Side {
  float begin;
  float end;
};

// Decodes one axis of a box; `begin` and `end` are the anchor's.
YOLACT_HOST_DEVICE Side decode_side(float begin, float end, float center_delta, float size_delta,
                                    const BoxCoding& coding) {
  const float extent = end - begin;
  const float center = (begin + end) / 2.0f + multiply(multiply(center_delta, coding.center_variance), extent);
  const float log_scale = multiply(size_delta, coding.size_variance);
  // Written so that a NaN stays a NaN.
  const float clamped = log_scale < -coding.max_log_scale  ? -coding.max_log_scale
                        : log_scale > coding.max_log_scale ? coding.max_log_scale
                                                           : log_scale;
  const float size = multiply(extent, expf(clamped));
  const float first = center - size / 2.0f;
  const float last = first + size;
  if (!coding.clip) return {first, last};
  return {first < 0.0f ? 0.0f : first > 1.0f ? 1.0f : first, last < 0.0f ? 0.0f : last > 1.0f ? 1.0f : last};
}

// e to the power of x ≤ 0, within 2 units in the last place; 0 where the result would not be a normal number. It is
// written out so that compilers make vector instructions of a loop over it, and so that both devices get the same.
YOLACT_HOST_DEVICE float exponential(float x) {
  constexpr float lowest = -87.3f;
  constexpr float rounder = 12582912.0f;  // 1.5 · 2²³: adding it leaves no fraction
  const float power = larger(x, lowest);
  const float halvings = (multiply(power, 1.44269504f) + rounder) - rounder;
  // ln 2 is split in two: the first part times a small integer is exact.
  const float rest = power - multiply(halvings, 0.693359375f) + multiply(halvings, 2.12194440e-4f);
  float series = 1.9875691500e-4f;
  series = multiply(series, rest) + 1.3981999507e-3f;
  series = multiply(series, rest) + 8.3334519073e-3f;
  series = multiply(series, rest) + 4.1665795894e-2f;
  series = multiply(series, rest) + 1.6666665459e-1f;
  series = multiply(series, rest) + 5.0000001201e-1f;
  series = multiply(multiply(series, rest), rest) + rest + 1.0f;
  const int32_t exponent = (static_cast<int32_t>(halvings) + 127) << 23;
  float scale;
  memcpy(&scale, &exponent, sizeof(scale));
  return x < lowest ? 0.0f : multiply(series, scale);
}

}  // namespace yolact
