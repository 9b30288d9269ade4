#include "../detect.h"

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <type_traits>

#include "suppression.cuh"

namespace yolact {
namespace {

// The softmax of each anchor's logits, of which the background's is the first.
template <class T>
struct SoftmaxScores {
  const T* logits;
  int64_t anchors, classes;

  struct State {
    float top;
    float sum;
  };

  __device__ const T* row(int64_t image, int64_t anchor) const {
    return logits + (image * anchors + anchor) * (1 + classes);
  }

  __device__ float value(int64_t image, int64_t anchor, int64_t c, State state) const {
    return exponential(static_cast<float>(row(image, anchor)[1 + c]) - state.top) / state.sum;
  }

  __device__ Verdict judge(int64_t image, int64_t anchor, int lane, float threshold, State* state) const {
    const T* own = row(image, anchor);
    float best = -INFINITY;
    bool endless = false;
    for (int64_t c = 1 + lane; c <= classes; c += kWarp) {
      const float logit = static_cast<float>(own[c]);
      best = logit > best ? logit : best;
      endless |= !(logit < INFINITY);
    }
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      best = fmaxf(best, __shfl_xor_sync(kEveryLane, best, offset));
    }
    const float background = static_cast<float>(own[0]);
    state->top = larger(best, background);
    endless |= !(background < INFINITY) || !(state->top > -INFINITY);
    if (__any_sync(kEveryLane, endless)) return {false, true};
    float sum = lane == 0 ? exponential(background - state->top) : 0.0f;
    for (int64_t c = 1 + lane; c <= classes; c += kWarp) {
      sum += exponential(static_cast<float>(own[c]) - state->top);
    }
    for (int offset = kWarp / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kEveryLane, sum, offset);
    state->sum = sum;
    return {exponential(best - state->top) / sum > threshold, false};
  }
};

template <class T>
struct DecodedBoxes {
  const T* deltas;
  const float* anchors;
  int64_t count;
  int64_t image_stride;  // of `anchors`; 0 where all images share them
  BoxCoding coding;

  __device__ float4 at(int64_t image, int64_t anchor) const {
    const T* delta = deltas + 4 * (image * count + anchor);
    const float* box = anchors + image * image_stride + 4 * anchor;
    const Side x = decode_side(box[0], box[2], static_cast<float>(delta[0]), static_cast<float>(delta[2]), coding);
    const Side y = decode_side(box[1], box[3], static_cast<float>(delta[1]), static_cast<float>(delta[3]), coding);
    return make_float4(x.begin, y.begin, x.end, y.end);
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> detect_cuda(const Tensor& box_deltas, const Tensor& logits,
                                                               const Tensor& anchors, double center_variance,
                                                               double size_variance, double max_log_scale, bool clip,
                                                               double iou_threshold, int64_t top_k,
                                                               double score_threshold, int64_t max_detections) {
  const NmsSizes sizes = check_detect(box_deltas, logits, anchors, top_k, max_detections);
  check_suppression("detect", sizes, top_k, max_detections);
  const DeviceScope device(box_deltas);
  const Tensor deltas = torch::stable::contiguous(box_deltas);
  const Tensor rows = torch::stable::contiguous(logits);
  const Tensor grid = torch::stable::contiguous(anchors);
  Tensor boxes = torch::stable::new_empty(grid, {sizes.images, max_detections, 4});
  Tensor scores = torch::stable::new_empty(grid, {sizes.images, max_detections});
  Tensor labels = torch::stable::new_empty(grid, {sizes.images, max_detections}, ScalarType::Long);
  Tensor indices = torch::stable::new_empty(grid, {sizes.images, max_detections}, ScalarType::Long);
  Tensor counts = torch::stable::new_empty(grid, {sizes.images}, ScalarType::Long);
  const BoxCoding coding{static_cast<float>(center_variance), static_cast<float>(size_variance),
                         static_cast<float>(max_log_scale), clip};
  const Outputs<float> outputs{indices.mutable_data_ptr<int64_t>(), labels.mutable_data_ptr<int64_t>(),
                               scores.mutable_data_ptr<float>(), counts.mutable_data_ptr<int64_t>(),
                               static_cast<float4*>(boxes.mutable_data_ptr())};
  dispatch_floating("detect", "logits", rows.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    suppress("detect", grid, sizes, SoftmaxScores<T>{rows.const_data_ptr<T>(), sizes.anchors, sizes.classes},
             DecodedBoxes<T>{deltas.const_data_ptr<T>(), grid.const_data_ptr<float>(), sizes.anchors,
                             grid.dim() == 3 ? sizes.anchors * 4 : 0, coding},
             {static_cast<float>(iou_threshold), top_k, max_detections}, static_cast<float>(score_threshold), outputs,
             device.stream());
  });
  return {boxes, scores, labels, indices, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CUDA, m) { m.impl("detect", TORCH_BOX(&detect_cuda)); }

}  // namespace yolact
