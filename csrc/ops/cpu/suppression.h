// Fast NMS of one image, for `fast_nms` and `detect`.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <vector>

#include "../fast_nms.h"
#include "simd.h"

namespace yolact {

struct Detection {
  float score;
  int64_t label;
  int64_t anchor;
  int64_t candidate;  // index among the candidates
};

// Whether `a` ranks before `b`. Ties go to the lower class, then to the lower anchor.
inline bool ahead(const Detection& a, const Detection& b) {
  if (a.score != b.score) return a.score > b.score;
  if (a.label != b.label) return a.label < b.label;
  return a.anchor < b.anchor;
}

// Whether a box overlaps any of `count` others by more than `threshold`.
YOLACT_SIMD inline bool overlapped(const float* x1, const float* y1, const float* x2, const float* y2, int64_t count,
                                   const float* box, float threshold) {
  const float bx1 = box[0], by1 = box[1], bx2 = box[2], by2 = box[3];
  int any = 0;
#pragma omp simd reduction(| : any)
  for (int64_t i = 0; i < count; ++i) {
    any |= box_iou(x1[i], y1[i], x2[i], y2[i], bx1, by1, bx2, by2) > threshold;
  }
  return any != 0;
}

// The candidates of one class so far. Each coordinate has an array of its own, so that `overlapped` can use vectors.
class ClassCandidates {
 public:
  int64_t size() const { return static_cast<int64_t>(x1_.size()); }

  // Adds a candidate. Returns whether it overlaps an earlier one, which may itself have been dropped.
  bool add(const float* box, float threshold) {
    const bool overlaps = overlapped(x1_.data(), y1_.data(), x2_.data(), y2_.data(), size(), box, threshold);
    x1_.push_back(box[0]);
    y1_.push_back(box[1]);
    x2_.push_back(box[2]);
    y2_.push_back(box[3]);
    return overlaps;
  }

 private:
  std::vector<float> x1_, y1_, x2_, y2_;
};

// Returns the detections that are kept, the best first.
//
// Candidate i is the anchor `table.anchor(i)` with the box `table.box(i)`. Its score for class c is
// `table.row(i)[c * table.stride]`, which must not be NaN. Candidates are in the order of their anchors.
//
// Whether a detection is kept depends only on detections with higher scores. So it is enough to go down the scores of
// all classes together until `max_detections` are kept. Scores are sorted a slice at a time; a histogram tells where to
// cut.
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
  int64_t open = classes;  // that still take candidates
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
