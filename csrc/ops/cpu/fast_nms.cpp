#include "../fast_nms.h"

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <tuple>
#include <type_traits>
#include <vector>

#include "simd.h"
#include "suppression.h"

namespace yolact {
namespace {

// The best score of an anchor; NaN if any of its scores is NaN.
template <class T>
YOLACT_SIMD float best_score(const T* scores, int64_t classes, int64_t stride) {
  float best = -INFINITY;
  int unordered = 0;
#pragma omp simd reduction(max : best) reduction(| : unordered)
  for (int64_t c = 0; c < classes; ++c) {
    const float score = static_cast<float>(scores[c * stride]);
    best = score > best ? score : best;
    unordered |= score != score;
  }
  return unordered ? NAN : best;
}

template <class T>
struct ScoreTable {
  const T* data;
  int64_t anchors, classes;
  int64_t image_stride, anchor_stride, class_stride;

  const T* row(int64_t image, int64_t anchor) const { return data + image * image_stride + anchor * anchor_stride; }
};

// The anchors of one image whose best score is above the threshold, in the form that `suppress` takes.
template <class T>
struct Candidates {
  const ScoreTable<T>& scores;
  const float* boxes;  // of the image
  int64_t image;
  std::vector<int64_t> anchors;
  int64_t stride;

  const T* row(int64_t i) const { return scores.row(image, anchors[i]); }
  int64_t anchor(int64_t i) const { return anchors[i]; }
  const float* box(int64_t i) const { return boxes + 4 * anchors[i]; }
};

template <class T>
void fast_nms_kernel(const ScoreTable<T>& scores, const float* boxes, int64_t images, float score_threshold,
                     const NmsLimits& limits, int64_t* indices, int64_t* labels, T* out_scores, int64_t* counts) {
  for (int64_t image = 0; image < images; ++image) {
    std::vector<float> best(scores.anchors);
    torch::stable::parallel_for(0, scores.anchors, 1024, [&](int64_t begin, int64_t end) {
      for (int64_t a = begin; a < end; ++a) {
        best[a] = best_score(scores.row(image, a), scores.classes, scores.class_stride);
      }
    });
    Candidates<T> candidates{scores, boxes + image * scores.anchors * 4, image, {}, scores.class_stride};
    bool finite = true;
    for (int64_t a = 0; a < scores.anchors; ++a) {
      finite &= !std::isnan(best[a]);
      if (best[a] > score_threshold) candidates.anchors.push_back(a);
    }
    const std::vector<Detection> kept =
        suppress(candidates, static_cast<int64_t>(candidates.anchors.size()), scores.classes, limits);
    const int64_t offset = image * limits.max_detections;
    for (int64_t i = 0; i < limits.max_detections; ++i) {
      const bool found = i < static_cast<int64_t>(kept.size());
      const Detection detection = found ? kept[i] : Detection{0.0f, -1, -1, -1};
      indices[offset + i] = detection.anchor;
      labels[offset + i] = detection.label;
      out_scores[offset + i] = static_cast<T>(detection.score);
      for (int64_t k = 0; found && k < 4; ++k) finite &= std::isfinite(candidates.boxes[4 * detection.anchor + k]);
    }
    counts[image] = finite ? static_cast<int64_t>(kept.size()) : -1;
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> fast_nms_cpu(const Tensor& boxes, const Tensor& scores, double iou_threshold,
                                                        int64_t top_k, double score_threshold, int64_t max_detections) {
  const auto [images, anchors, classes] = check_fast_nms(boxes, scores, top_k, max_detections);
  const Tensor corners = torch::stable::contiguous(boxes);
  Tensor indices = torch::stable::new_empty(boxes, {images, max_detections}, ScalarType::Long);
  Tensor labels = torch::stable::new_empty(boxes, {images, max_detections}, ScalarType::Long);
  Tensor kept_scores = torch::stable::new_empty(scores, {images, max_detections});
  Tensor counts = torch::stable::new_empty(boxes, {images}, ScalarType::Long);
  dispatch_floating("fast_nms", "scores", scores.scalar_type(),
                    [&, anchors = anchors, classes = classes, images = images](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const ScoreTable<T> table{scores.const_data_ptr<T>(), anchors,          classes,
                              scores.stride(0),           scores.stride(1), scores.stride(2)};
    fast_nms_kernel<T>(table, corners.const_data_ptr<float>(), images, static_cast<float>(score_threshold),
                       {static_cast<float>(iou_threshold), top_k, max_detections}, indices.mutable_data_ptr<int64_t>(),
                       labels.mutable_data_ptr<int64_t>(), kept_scores.mutable_data_ptr<T>(),
                       counts.mutable_data_ptr<int64_t>());
  });
  return {indices, labels, kept_scores, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CPU, m) { m.impl("fast_nms", TORCH_BOX(&fast_nms_cpu)); }

}  // namespace yolact
