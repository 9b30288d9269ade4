#include "../detect.h"

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <memory>
#include <tuple>
#include <type_traits>
#include <vector>

#include "simd.h"
#include "suppression.h"

namespace yolact {
namespace {

// The largest logits of an anchor.
struct Peak {
  float best;        // of the foreground
  float background;
  bool finite;       // whether the softmax is
};

template <class T>
YOLACT_SIMD Peak peak_of(const T* logits, int64_t classes) {
  const float background = static_cast<float>(logits[0]);
  float best = -INFINITY;
  int endless = !(background < INFINITY);
  // Not `best > -INFINITY`: with Clang a maximum starts from the least finite number.
  int possible = background > -INFINITY;
#pragma omp simd reduction(max : best) reduction(| : endless, possible)
  for (int64_t c = 1; c <= classes; ++c) {
    const float logit = static_cast<float>(logits[c]);
    best = logit > best ? logit : best;
    endless |= !(logit < INFINITY);
    possible |= logit > -INFINITY;
  }
  return {best, background, !endless && possible};
}

// Writes the probabilities of the foreground classes and returns the largest.
template <class T>
YOLACT_SIMD float softmax(const T* logits, const Peak& peak, int64_t classes, float* probabilities) {
  const float top = larger(peak.best, peak.background);
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < classes; ++c) {
    probabilities[c] = exponential(static_cast<float>(logits[c + 1]) - top);
    sum += probabilities[c];
  }
  sum += exponential(peak.background - top);
#pragma omp simd
  for (int64_t c = 0; c < classes; ++c) probabilities[c] /= sum;
  return exponential(peak.best - top) / sum;
}

// The candidates of one image, in the form that `suppress` takes.
struct Candidates {
  struct Box {
    float corners[4];
  };

  const float* probabilities;
  int64_t classes;
  std::vector<int64_t> rows;     // of `probabilities`
  std::vector<int64_t> anchors;
  std::vector<Box> boxes;
  int64_t stride = 1;

  const float* row(int64_t i) const { return probabilities + rows[i] * classes; }
  int64_t anchor(int64_t i) const { return anchors[i]; }
  const float* box(int64_t i) const { return boxes[i].corners; }
};

struct Outputs {
  float* boxes;
  float* scores;
  int64_t* labels;
  int64_t* indices;
  int64_t* count;
};

template <class T>
void detect_image(const T* deltas, const T* logits, const float* anchors, int64_t count, int64_t classes,
                  const BoxCoding& coding, float score_threshold, const NmsLimits& limits, const Outputs& outputs) {
  const int64_t width = 1 + classes;
  std::vector<Peak> peaks(count);
  torch::stable::parallel_for(0, count, 512, [&](int64_t begin, int64_t end) {
    for (int64_t a = begin; a < end; ++a) peaks[a] = peak_of(logits + a * width, classes);
  });
  // Of two classes whose logits differ by d, one has the probability e^d / (1 + e^d); more classes only lower it. So an
  // anchor below this difference cannot reach the threshold.
  const float least = std::log(score_threshold / (1.0f - score_threshold)) - 1e-3f;
  std::vector<int64_t> likely;
  bool finite = true;
  for (int64_t a = 0; a < count; ++a) {
    finite &= peaks[a].finite;
    // True also where `least` is NaN, because the threshold is outside 0–1.
    if (!(peaks[a].best - peaks[a].background < least)) likely.push_back(a);
  }
  const int64_t rows = static_cast<int64_t>(likely.size());
  const auto probabilities = std::make_unique_for_overwrite<float[]>(rows * classes);
  std::vector<float> best(rows);
  torch::stable::parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      best[i] = softmax(logits + likely[i] * width, peaks[likely[i]], classes, probabilities.get() + i * classes);
    }
  });
  Candidates candidates{probabilities.get(), classes, {}, {}, {}};
  for (int64_t i = 0; finite && i < rows; ++i) {
    if (!(best[i] > score_threshold)) continue;
    candidates.rows.push_back(i);
    candidates.anchors.push_back(likely[i]);
    const float* anchor = anchors + 4 * likely[i];
    float delta[4];
    for (int k = 0; k < 4; ++k) delta[k] = static_cast<float>(deltas[4 * likely[i] + k]);
    const Side x = decode_side(anchor[0], anchor[2], delta[0], delta[2], coding);
    const Side y = decode_side(anchor[1], anchor[3], delta[1], delta[3], coding);
    candidates.boxes.push_back({{x.begin, y.begin, x.end, y.end}});
  }
  const std::vector<Detection> kept =
      suppress(candidates, static_cast<int64_t>(candidates.anchors.size()), classes, limits);
  for (int64_t i = 0; i < limits.max_detections; ++i) {
    const bool found = i < static_cast<int64_t>(kept.size());
    outputs.indices[i] = found ? kept[i].anchor : -1;
    outputs.labels[i] = found ? kept[i].label : -1;
    outputs.scores[i] = found ? kept[i].score : 0.0f;
    for (int64_t k = 0; k < 4; ++k) {
      outputs.boxes[4 * i + k] = found ? candidates.box(kept[i].candidate)[k] : 0.0f;
      finite &= std::isfinite(outputs.boxes[4 * i + k]);
    }
  }
  *outputs.count = finite ? static_cast<int64_t>(kept.size()) : -1;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> detect_cpu(const Tensor& box_deltas, const Tensor& logits,
                                                              const Tensor& anchors, double center_variance,
                                                              double size_variance, double max_log_scale, bool clip,
                                                              double iou_threshold, int64_t top_k,
                                                              double score_threshold, int64_t max_detections) {
  const auto [images, count, classes] = check_detect(box_deltas, logits, anchors, top_k, max_detections);
  const Tensor deltas = torch::stable::contiguous(box_deltas);
  const Tensor rows = torch::stable::contiguous(logits);
  const Tensor grid = torch::stable::contiguous(anchors);
  Tensor boxes = torch::stable::new_empty(grid, {images, max_detections, 4});
  Tensor scores = torch::stable::new_empty(grid, {images, max_detections});
  Tensor labels = torch::stable::new_empty(grid, {images, max_detections}, ScalarType::Long);
  Tensor indices = torch::stable::new_empty(grid, {images, max_detections}, ScalarType::Long);
  Tensor counts = torch::stable::new_empty(grid, {images}, ScalarType::Long);
  const BoxCoding coding{static_cast<float>(center_variance), static_cast<float>(size_variance),
                         static_cast<float>(max_log_scale), clip};
  const NmsLimits limits{static_cast<float>(iou_threshold), top_k, max_detections};
  dispatch_floating("detect", "logits", rows.scalar_type(),
                    [&, images = images, count = count, classes = classes](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (int64_t image = 0; image < images; ++image) {
      const int64_t first = image * max_detections;
      const Outputs outputs{boxes.mutable_data_ptr<float>() + 4 * first, scores.mutable_data_ptr<float>() + first,
                            labels.mutable_data_ptr<int64_t>() + first, indices.mutable_data_ptr<int64_t>() + first,
                            counts.mutable_data_ptr<int64_t>() + image};
      const float* own = grid.const_data_ptr<float>() + (grid.dim() == 3 ? image * count * 4 : 0);
      detect_image<T>(deltas.const_data_ptr<T>() + image * count * 4,
                      rows.const_data_ptr<T>() + image * count * (1 + classes), own, count, classes, coding,
                      static_cast<float>(score_threshold), limits, outputs);
    }
  });
  return {boxes, scores, labels, indices, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CPU, m) { m.impl("detect", TORCH_BOX(&detect_cpu)); }

}  // namespace yolact
