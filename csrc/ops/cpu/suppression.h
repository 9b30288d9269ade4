// Fast NMS of one image, in which the operators of this folder end.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <vector>

#include "../checks.h"
#include "../geometry.h"
#include "simd.h"

namespace yolact {

struct Detection {
  float score;
  int64_t label;
  int64_t anchor;
  int64_t candidate;  // its number among the candidates
};

// The order in which detections rank; ties go to the lower class, then to the lower anchor.
inline bool ahead(const Detection& a, const Detection& b) {
  if (a.score != b.score) return a.score > b.score;
  if (a.label != b.label) return a.label < b.label;
  return a.anchor < b.anchor;
}

// Whether a box overlaps any of `count` others by more than `threshold`.
YOLACT_SIMD inline bool overlapped(const float* x1, const float* y1, const float* x2, const float* y2, int64_t count,
                                   const float* box, float threshold) {
  const float bx1 = box[0], by1 = box[1], bx2 = box[2], by2 = box[3];
  int found = 0;
#pragma omp simd reduction(| : found)
  for (int64_t i = 0; i < count; ++i) {
    found |= box_iou(x1[i], y1[i], x2[i], y2[i], bx1, by1, bx2, by2) > threshold;
  }
  return found != 0;
}

// The candidates of one class so far, a coordinate an array for the loop over them.
class ClassCandidates {
 public:
  int64_t size() const { return static_cast<int64_t>(x1_.size()); }

  // Adds a candidate; whether it overlaps an earlier one, dropped or not.
  bool add(const float* box, float threshold) {
    const bool found = overlapped(x1_.data(), y1_.data(), x2_.data(), y2_.data(), size(), box, threshold);
    x1_.push_back(box[0]);
    y1_.push_back(box[1]);
    x2_.push_back(box[2]);
    y2_.push_back(box[3]);
    return found;
  }

 private:
  std::vector<float> x1_, y1_, x2_, y2_;
};

// The scores of `candidates` anchors for `classes` classes, none of them NaN: `row(i)[c * stride]` is that of candidate
// i, which is the anchor `anchor(i)` with the box `box(i)`. Candidates are in the order of their anchors.
//
// Only higher scores decide what becomes of a detection, so it is enough to go down the scores of all classes together
// until `max_detections` are kept. They are sorted a slice at a time, and a histogram tells where to cut.
template <class Candidates>
std::vector<Detection> suppress(const Candidates& table, int64_t candidates, int64_t classes, const NmsLimits& limits) {
  constexpr int shift = 19;
  constexpr int64_t bins = int64_t{1} << (32 - shift);
  constexpr int64_t grain = 4096;
  const auto bin_of = [](float score) { return static_cast<int64_t>(rank_of(score) >> shift); };

  std::vector<int64_t> histogram(bins);
  std::mutex mutex;
  torch::stable::parallel_for(0, candidates, std::max<int64_t>(grain / std::max<int64_t>(classes, 1), 1),
                              [&](int64_t begin, int64_t end) {
    std::vector<int32_t> own(bins);
    for (int64_t i = begin; i < end; ++i) {
      const auto* row = table.row(i);
      for (int64_t c = 0; c < classes; ++c) ++own[bin_of(static_cast<float>(row[c * table.stride]))];
    }
    const std::lock_guard lock(mutex);
    for (int64_t bin = 0; bin < bins; ++bin) histogram[bin] += own[bin];
  });

  std::vector<Detection> kept;
  std::vector<Detection> slice;
  std::vector<ClassCandidates> by_class(classes);
  int64_t open = classes;  // those that take more candidates
  int64_t wanted = std::max<int64_t>(4 * limits.max_detections, 1024);
  for (int64_t bin = bins; bin > 0 && open > 0 && static_cast<int64_t>(kept.size()) < limits.max_detections;
       wanted *= 16) {
    const int64_t above = bin;
    for (int64_t count = 0; bin > 0 && count < wanted;) count += histogram[--bin];
    slice.clear();
    for (int64_t i = 0; i < candidates; ++i) {
      const auto* row = table.row(i);
      for (int64_t c = 0; c < classes; ++c) {
        const float score = static_cast<float>(row[c * table.stride]);
        const int64_t own = bin_of(score);
        if (own >= bin && own < above && by_class[c].size() < limits.top_k) {
          slice.push_back({score, c, table.anchor(i), i});
        }
      }
    }
    std::sort(slice.begin(), slice.end(), ahead);
    for (const Detection& detection : slice) {
      ClassCandidates& rivals = by_class[detection.label];
      if (rivals.size() == limits.top_k) continue;
      const bool dropped = rivals.add(table.box(detection.candidate), limits.iou_threshold);
      open -= rivals.size() == limits.top_k;
      if (dropped) continue;
      kept.push_back(detection);
      if (static_cast<int64_t>(kept.size()) == limits.max_detections) break;
    }
  }
  return kept;
}

}  // namespace yolact
