// Fast NMS of a batch, in which the operators of this folder end: where scores and boxes come from is theirs to say.
#pragma once

#include <algorithm>
#include <cmath>

#include "../geometry.h"
#include "common.cuh"

namespace yolact {
namespace {

constexpr int kThreads = 512;
constexpr int kBest = 1024;     // keys that a block can sort: the limit of top_k and max_detections
constexpr int kAnchors = 64;    // that a block of `find_candidates` judges
constexpr int kDigitBits = 8;   // of a key that the selection decides at a time
constexpr int kDigits = 1 << kDigitBits;

// What is known of an image; all zero at first.
struct Progress {
  int candidates;
  int kept;
  int unordered;  // whether a score is NaN
};

// Everything between the kernels. Candidates and kept keys stand in any order: keys are unique, so selecting and
// sorting them leaves one result.
struct Workspace {
  Progress* progress;         // [B]
  int* candidates;            // [B, A] anchors
  unsigned* candidate_ranks;  // [B, C, A], as `candidates`
  uint64_t* kept;             // [B, C · min(top_k, A)] keys
};

// A detection, known by class · A + anchor: the larger key has the higher score or, at equal scores, comes first.
// No key is 0.
__device__ uint64_t key_of(unsigned rank, unsigned detection) { return uint64_t{rank} << 32 | ~detection; }
__device__ unsigned detection_of(uint64_t key) { return ~static_cast<unsigned>(key); }
__device__ float score_of(uint64_t key) {
  const unsigned rank = static_cast<unsigned>(key >> 32);
  return __uint_as_float(rank >> 31 ? rank & 0x7fffffffu : ~rank);
}

// The smallest of the `limit` largest keys. 0 < limit < count, and the keys are distinct.
template <class Key>
__device__ uint64_t cutoff_of(const Key& key, int count, int limit) {
  __shared__ int histogram[kDigits];
  __shared__ int digit, missing, available;
  uint64_t prefix = 0;
  for (int shift = 64 - kDigitBits;; shift -= kDigitBits) {
    for (int i = threadIdx.x; i < kDigits; i += kThreads) histogram[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const uint64_t next_digit = (key(i) ^ prefix) >> shift;  // and more, where a higher digit differs
      if (next_digit < kDigits) atomicAdd(&histogram[next_digit], 1);
    }
    __syncthreads();
    if (threadIdx.x < kWarp) {
      constexpr int share = kDigits / kWarp;
      const int top = kDigits - 1 - static_cast<int>(threadIdx.x) * share;
      int own = 0;
      for (int i = 0; i < share; ++i) own += histogram[top - i];
      int above = own;
      for (int offset = 1; offset < kWarp; offset *= 2) {
        const int others = __shfl_up_sync(kEveryLane, above, offset);
        if (static_cast<int>(threadIdx.x) >= offset) above += others;
      }
      above -= own;
      if (above < limit && limit <= above + own) {
        int found = top;
        for (; above + histogram[found] < limit; --found) above += histogram[found];
        digit = found;
        missing = limit - above;
        available = histogram[found];
      }
    }
    __syncthreads();
    prefix |= static_cast<uint64_t>(digit) << shift;
    limit = missing;
    // Sooner or later true: at the last digit each key stands alone.
    if (missing == available) return prefix;
  }
}

// Sorts best[0, size) by falling keys; `size` is a power of two.
__device__ void sort_keys(uint64_t* best, int size) {
  for (int run = 2; run <= size; run *= 2) {
    for (int stride = run / 2; stride > 0; stride /= 2) {
      for (int i = threadIdx.x; i < size / 2; i += kThreads) {
        const int low = 2 * i - (i & (stride - 1));
        const uint64_t a = best[low];
        const uint64_t b = best[low + stride];
        if ((a < b) == ((low & run) == 0)) {
          best[low] = b;
          best[low + stride] = a;
        }
      }
      __syncthreads();
    }
  }
}

// Leaves the `limit` largest keys, sorted, in `best`, an array of kBest in shared memory, and returns how many there
// are: min(count, limit). Called by the whole block.
template <class Key>
__device__ int select_best(const Key& key, int count, int limit, uint64_t* best) {
  int found = count;
  if (count <= kBest) {
    for (int i = threadIdx.x; i < count; i += kThreads) best[i] = key(i);
  } else {
    __shared__ int filled;
    if (threadIdx.x == 0) filled = 0;
    const uint64_t cutoff = cutoff_of(key, count, limit);
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const uint64_t candidate = key(i);
      if (candidate >= cutoff) best[atomicAdd(&filled, 1)] = candidate;
    }
    found = limit;
  }
  int size = 1;
  while (size < found) size *= 2;
  for (int i = found + threadIdx.x; i < size; i += kThreads) best[i] = 0;
  __syncthreads();
  sort_keys(best, size);
  return min(count, limit);
}

// What a warp finds out about an anchor.
struct Verdict {
  bool candidate;  // the best score is above the threshold
  bool unordered;  // a score is NaN
};

// Lists each image's candidates, the ranks of their scores class by class so that the next kernel reads them in a row.
//
// `scores.judge(image, anchor, lane, threshold, &state)` is called by a whole warp, and `scores.value(image, anchor, c,
// state)` by any thread after it.
template <class Scores>
__global__ void __launch_bounds__(kThreads)
    find_candidates(Scores scores, float score_threshold, int64_t blocks_per_image, Workspace work) {
  const int64_t image = blockIdx.x / blocks_per_image;
  const int64_t begin = blockIdx.x % blocks_per_image * kAnchors;
  const int64_t end = min(begin + kAnchors, scores.anchors);
  const int lane = threadIdx.x % kWarp;
  Progress& progress = work.progress[image];
  __shared__ int found[kAnchors];
  __shared__ typename Scores::State states[kAnchors];
  __shared__ int count, first;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  for (int64_t anchor = begin + threadIdx.x / kWarp; anchor < end; anchor += kThreads / kWarp) {
    typename Scores::State state;
    const Verdict verdict = scores.judge(image, anchor, lane, score_threshold, &state);
    if (lane == 0) {
      if (verdict.unordered) {
        atomicOr(&progress.unordered, 1);
      } else if (verdict.candidate) {
        const int slot = atomicAdd(&count, 1);
        found[slot] = static_cast<int>(anchor);
        states[slot] = state;
      }
    }
  }
  __syncthreads();
  if (threadIdx.x == 0 && count > 0) first = atomicAdd(&progress.candidates, count);
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) work.candidates[image * scores.anchors + first + i] = found[i];
  for (int64_t i = threadIdx.x; i < count * scores.classes; i += kThreads) {
    const int64_t c = i / count;
    const int64_t slot = i % count;
    const float score = scores.value(image, found[slot], c, states[slot]);
    work.candidate_ranks[(image * scores.classes + c) * scores.anchors + first + slot] = rank_of(score);
  }
}

// Fast NMS of one class of one image: a block each. `boxes.at(image, anchor)` gives a box as x1, y1, x2, y2.
template <class Boxes>
__global__ void __launch_bounds__(kThreads)
    suppress_class(Boxes boxes, int64_t anchors, int64_t classes, float iou_threshold, int top_k,
                   int64_t kept_per_image, Workspace work) {
  const int64_t image = blockIdx.x / classes;
  const int64_t label = blockIdx.x % classes;
  const unsigned first_detection = static_cast<unsigned>(label * anchors);
  const int* candidates = work.candidates + image * anchors;
  const unsigned* ranks = work.candidate_ranks + blockIdx.x * anchors;
  Progress& progress = work.progress[image];
  __shared__ uint64_t best[kBest];
  const auto key = [=](int i) { return key_of(ranks[i], first_detection + candidates[i]); };
  const int count = select_best(key, progress.candidates, top_k, best);

  __shared__ float4 corners[kBest];
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const int64_t anchor = detection_of(best[i]) - first_detection;
    corners[i] = boxes.at(image, anchor);
  }
  __syncthreads();
  const int lane = threadIdx.x % kWarp;
  for (int i = threadIdx.x / kWarp; i < count; i += kThreads / kWarp) {
    const float4 a = corners[i];
    bool overlapped = false;
    for (int j = lane; j - lane < i && !overlapped; j += kWarp) {
      const float4 b = corners[j < i ? j : 0];
      overlapped = __any_sync(kEveryLane,
                              j < i && box_iou(b.x, b.y, b.z, b.w, a.x, a.y, a.z, a.w) > iou_threshold);
    }
    if (overlapped && lane == 0) best[i] = 0;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    if (best[i] != 0) work.kept[image * kept_per_image + atomicAdd(&progress.kept, 1)] = best[i];
  }
}

// Where the M best detections of each image go; `boxes` may be null.
template <class T>
struct Outputs {
  int64_t* indices;  // [B, M]
  int64_t* labels;   // [B, M]
  T* scores;         // [B, M]
  int64_t* counts;   // [B]
  float4* boxes;     // [B, M]
};

// The best detections of all classes of one image: a block each.
template <class Boxes, class T>
__global__ void __launch_bounds__(kThreads)
    write_detections(Boxes boxes, int64_t anchors, int max_detections, int64_t kept_per_image, Workspace work,
                     Outputs<T> outputs) {
  const int64_t image = blockIdx.x;
  const Progress progress = work.progress[image];
  const uint64_t* kept = work.kept + image * kept_per_image;
  __shared__ uint64_t best[kBest];
  const int count = select_best([=](int i) { return kept[i]; }, progress.kept, max_detections, best);
  bool finite = true;
  for (int i = threadIdx.x; i < max_detections; i += kThreads) {
    const int64_t out = image * max_detections + i;
    int64_t anchor = -1;
    int64_t label = -1;
    float score = 0.0f;
    float4 box = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (i < count) {
      const unsigned detection = detection_of(best[i]);
      label = detection / anchors;
      anchor = detection % anchors;
      score = score_of(best[i]);
      box = boxes.at(image, anchor);
      finite &= isfinite(box.x) && isfinite(box.y) && isfinite(box.z) && isfinite(box.w);
    }
    outputs.indices[out] = anchor;
    outputs.labels[out] = label;
    outputs.scores[out] = static_cast<T>(score);
    if (outputs.boxes) outputs.boxes[out] = box;
  }
  finite = __syncthreads_and(finite);
  if (threadIdx.x == 0) outputs.counts[image] = finite && !progress.unordered ? count : -1;
}

inline void check_suppression(const char* op, const NmsSizes& sizes, int64_t top_k, int64_t max_detections) {
  STD_TORCH_CHECK(top_k <= kBest, op, ": top_k must be at most ", kBest, " on CUDA, got ", top_k);
  STD_TORCH_CHECK(max_detections <= kBest, op, ": max_detections must be at most ", kBest, " on CUDA, got ",
                  max_detections);
  STD_TORCH_CHECK(sizes.anchors * sizes.classes <= std::numeric_limits<int32_t>::max(), op,
                  ": an image has at most 2^31 - 1 scores on CUDA, got ", sizes.anchors, " anchors of ", sizes.classes,
                  " classes");
}

// Queues the whole of it; `like` tells the device of the workspace.
template <class Scores, class Boxes, class T>
void suppress(const char* op, const Tensor& like, const NmsSizes& sizes, const Scores& scores, const Boxes& boxes,
              const NmsLimits& limits, float score_threshold, const Outputs<T>& outputs, cudaStream_t stream) {
  const auto [images, anchors, classes] = sizes;
  if (images == 0) return;
  const int64_t kept_per_image = classes * std::min(limits.top_k, anchors);
  Tensor progress = torch::stable::new_empty(
      like, {images, static_cast<int64_t>(sizeof(Progress) / sizeof(int))}, ScalarType::Int);
  Tensor candidates = torch::stable::new_empty(like, {images, anchors}, ScalarType::Int);
  Tensor candidate_ranks = torch::stable::new_empty(like, {images, classes, anchors}, ScalarType::Int);
  Tensor kept = torch::stable::new_empty(like, {images, kept_per_image}, ScalarType::Long);
  const Workspace work{static_cast<Progress*>(progress.mutable_data_ptr()),
                       static_cast<int*>(candidates.mutable_data_ptr()),
                       static_cast<unsigned*>(candidate_ranks.mutable_data_ptr()),
                       static_cast<uint64_t*>(kept.mutable_data_ptr())};
  STD_CUDA_CHECK(cudaMemsetAsync(work.progress, 0, images * sizeof(Progress), stream));
  if (anchors > 0 && classes > 0) {
    const int64_t blocks = divide_up(anchors, kAnchors);
    find_candidates<<<grid_size(op, images * blocks), kThreads, 0, stream>>>(scores, score_threshold, blocks, work);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    if (limits.max_detections > 0) {
      suppress_class<<<grid_size(op, images * classes), kThreads, 0, stream>>>(
          boxes, anchors, classes, limits.iou_threshold, static_cast<int>(limits.top_k), kept_per_image, work);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
  }
  write_detections<<<grid_size(op, images), kThreads, 0, stream>>>(
      boxes, anchors, static_cast<int>(limits.max_detections), kept_per_image, work, outputs);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace
}  // namespace yolact
