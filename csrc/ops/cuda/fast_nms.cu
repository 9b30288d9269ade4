#include "../fast_nms.h"

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <type_traits>

#include "suppression.cuh"

namespace yolact {
namespace {

// Scores as the operator gets them.
template <class T>
struct GivenScores {
  const T* data;
  int64_t anchors, classes;
  int64_t image_stride, anchor_stride, class_stride;

  struct State {};

  __device__ float value(int64_t image, int64_t anchor, int64_t c, State) const {
    return static_cast<float>(data[image * image_stride + anchor * anchor_stride + c * class_stride]);
  }

  __device__ Verdict judge(int64_t image, int64_t anchor, int lane, float threshold, State*) const {
    bool above = false;
    bool unordered = false;
    for (int64_t c = lane; c < classes; c += kWarp) {
      const float score = value(image, anchor, c, {});
      above |= score > threshold;
      unordered |= score != score;
    }
    return {__any_sync(kEveryLane, above) != 0, __any_sync(kEveryLane, unordered) != 0};
  }
};

struct GivenBoxes {
  const float* data;
  int64_t anchors;

  __device__ float4 at(int64_t image, int64_t anchor) const {
    const float* box = data + 4 * (image * anchors + anchor);
    return make_float4(box[0], box[1], box[2], box[3]);
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> fast_nms_cuda(const Tensor& boxes, const Tensor& scores,
                                                         double iou_threshold, int64_t top_k, double score_threshold,
                                                         int64_t max_detections) {
  const NmsSizes sizes = check_fast_nms(boxes, scores, top_k, max_detections);
  check_suppression("fast_nms", sizes, top_k, max_detections);
  const DeviceScope device(boxes);
  const Tensor corners = torch::stable::contiguous(boxes);
  Tensor indices = torch::stable::new_empty(boxes, {sizes.images, max_detections}, ScalarType::Long);
  Tensor labels = torch::stable::new_empty(boxes, {sizes.images, max_detections}, ScalarType::Long);
  Tensor kept_scores = torch::stable::new_empty(scores, {sizes.images, max_detections});
  Tensor counts = torch::stable::new_empty(boxes, {sizes.images}, ScalarType::Long);
  dispatch_floating("fast_nms", "scores", scores.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const GivenScores<T> table{scores.const_data_ptr<T>(), sizes.anchors,    sizes.classes,
                               scores.stride(0),           scores.stride(1), scores.stride(2)};
    const Outputs<T> outputs{indices.mutable_data_ptr<int64_t>(), labels.mutable_data_ptr<int64_t>(),
                             kept_scores.mutable_data_ptr<T>(), counts.mutable_data_ptr<int64_t>(), nullptr};
    suppress("fast_nms", boxes, sizes, table, GivenBoxes{corners.const_data_ptr<float>(), sizes.anchors},
             {static_cast<float>(iou_threshold), top_k, max_detections}, static_cast<float>(score_threshold), outputs,
             device.stream());
  });
  return {indices, labels, kept_scores, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CUDA, m) { m.impl("fast_nms", TORCH_BOX(&fast_nms_cuda)); }

}  // namespace yolact
