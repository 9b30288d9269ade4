#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../checks.h"
#include "../geometry.h"
#include "simd.h"

namespace yolact {
namespace {

struct Candidate {
  float score;
  int64_t index;
};

// The order that ties follow everywhere: the lower index first, as a stable sort leaves it.
bool ahead(const Candidate& a, const Candidate& b) {
  return a.score > b.score || (a.score == b.score && a.index < b.index);
}

struct Kept {
  float score;
  int64_t label;
  int64_t index;
};

bool kept_ahead(const Kept& a, const Kept& b) {
  if (a.score != b.score) return a.score > b.score;
  if (a.label != b.label) return a.label < b.label;
  return a.index < b.index;
}

// Boxes of one class in the order of their scores, a coordinate an array, for the loop over pairs.
struct Columns {
  std::vector<float> x1, y1, x2, y2;

  explicit Columns(size_t count) : x1(count), y1(count), x2(count), y2(count) {}
};

// Whether box `i` overlaps any box before it by more than `threshold`.
YOLACT_SIMD bool overlapped(const float* x1, const float* y1, const float* x2, const float* y2, int64_t i,
                            float threshold) {
  const float ax1 = x1[i], ay1 = y1[i], ax2 = x2[i], ay2 = y2[i];
  int found = 0;
#pragma omp simd reduction(| : found)
  for (int64_t j = 0; j < i; ++j) {
    found |= box_iou(x1[j], y1[j], x2[j], y2[j], ax1, ay1, ax2, ay2) > threshold;
  }
  return found != 0;
}

// Best score of an anchor. A NaN among them makes the result NaN.
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

// Fast NMS of one class of one image: appended to `kept` in the order of scores.
template <class T>
void suppress_class(const ScoreTable<T>& scores, const float* boxes, const std::vector<int64_t>& anchors,
                    int64_t image, int64_t label, float iou_threshold, int64_t top_k, std::vector<Kept>& kept) {
  std::vector<Candidate> candidates(anchors.size());
  for (size_t i = 0; i < anchors.size(); ++i) {
    candidates[i] = {static_cast<float>(scores.row(image, anchors[i])[label * scores.class_stride]), anchors[i]};
  }
  if (static_cast<int64_t>(candidates.size()) > top_k) {
    std::nth_element(candidates.begin(), candidates.begin() + top_k, candidates.end(), ahead);
    candidates.resize(top_k);
  }
  std::sort(candidates.begin(), candidates.end(), ahead);
  Columns columns(candidates.size());
  for (size_t i = 0; i < candidates.size(); ++i) {
    const float* box = boxes + 4 * candidates[i].index;
    columns.x1[i] = box[0];
    columns.y1[i] = box[1];
    columns.x2[i] = box[2];
    columns.y2[i] = box[3];
    if (!overlapped(columns.x1.data(), columns.y1.data(), columns.x2.data(), columns.y2.data(),
                    static_cast<int64_t>(i), iou_threshold)) {
      kept.push_back({candidates[i].score, label, candidates[i].index});
    }
  }
}

template <class T>
void fast_nms_kernel(const ScoreTable<T>& scores, const float* boxes, int64_t images, float iou_threshold,
                     int64_t top_k, float score_threshold, int64_t max_detections, int64_t* indices, int64_t* labels,
                     T* out_scores, int64_t* counts) {
  for (int64_t image = 0; image < images; ++image) {
    const float* image_boxes = boxes + image * scores.anchors * 4;
    std::vector<float> best(scores.anchors);
    torch::stable::parallel_for(0, scores.anchors, 1024, [&](int64_t begin, int64_t end) {
      for (int64_t a = begin; a < end; ++a) {
        best[a] = best_score(scores.row(image, a), scores.classes, scores.class_stride);
      }
    });
    std::vector<int64_t> anchors;
    bool finite = true;
    for (int64_t a = 0; a < scores.anchors; ++a) {
      finite &= !std::isnan(best[a]);
      if (best[a] > score_threshold) anchors.push_back(a);
    }

    std::vector<std::vector<Kept>> by_class(scores.classes);
    torch::stable::parallel_for(0, scores.classes, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        suppress_class(scores, image_boxes, anchors, image, c, iou_threshold, top_k, by_class[c]);
      }
    });
    std::vector<Kept> kept;
    for (const auto& of_class : by_class) kept.insert(kept.end(), of_class.begin(), of_class.end());
    const int64_t count = std::min<int64_t>(static_cast<int64_t>(kept.size()), max_detections);
    std::partial_sort(kept.begin(), kept.begin() + count, kept.end(), kept_ahead);

    const int64_t offset = image * max_detections;
    for (int64_t i = 0; i < max_detections; ++i) {
      const Kept found = i < count ? kept[i] : Kept{0.0f, -1, -1};
      indices[offset + i] = found.index;
      labels[offset + i] = found.label;
      out_scores[offset + i] = static_cast<T>(found.score);
      for (int64_t k = 0; i < count && k < 4; ++k) finite &= std::isfinite(image_boxes[4 * found.index + k]);
    }
    counts[image] = finite ? count : -1;
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> fast_nms_cpu(const Tensor& boxes, const Tensor& scores, double iou_threshold,
                                                        int64_t top_k, double score_threshold,
                                                        int64_t max_detections) {
  const auto [images, anchors, classes] = check_fast_nms(boxes, scores, top_k, max_detections);
  const Tensor corners = torch::stable::contiguous(boxes);
  Tensor indices = torch::stable::new_empty(boxes, {images, max_detections}, ScalarType::Long);
  Tensor labels = torch::stable::new_empty(boxes, {images, max_detections}, ScalarType::Long);
  Tensor kept_scores = torch::stable::new_empty(scores, {images, max_detections});
  Tensor counts = torch::stable::new_empty(boxes, {images}, ScalarType::Long);
  dispatch_floating("fast_nms", scores.scalar_type(), [&, anchors = anchors, classes = classes,
                                                       images = images](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const ScoreTable<T> table{static_cast<const T*>(scores.const_data_ptr()), anchors, classes, scores.stride(0),
                              scores.stride(1), scores.stride(2)};
    fast_nms_kernel<T>(table, static_cast<const float*>(corners.const_data_ptr()), images,
                       static_cast<float>(iou_threshold), top_k, static_cast<float>(score_threshold), max_detections,
                       static_cast<int64_t*>(indices.mutable_data_ptr()),
                       static_cast<int64_t*>(labels.mutable_data_ptr()),
                       static_cast<T*>(kept_scores.mutable_data_ptr()),
                       static_cast<int64_t*>(counts.mutable_data_ptr()));
  });
  return {indices, labels, kept_scores, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CPU, m) { m.impl("fast_nms", TORCH_BOX(&fast_nms_cpu)); }

}  // namespace yolact
