// Fast NMS of a batch, for `fast_nms` and `detect`. Each of them passes a type that computes scores and one that
// computes boxes.
#pragma once

#include <algorithm>
#include <cmath>

#include "../fast_nms.h"
#include "common.cuh"

namespace yolact {
namespace {

constexpr int kThreads = 512;
constexpr int kBest = 1024;     // keys that a block can sort; top_k and max_detections are at most this
constexpr int kAnchors = 64;    // for each block of `find_candidates`
constexpr int kDigitBits = 8;   // `cutoff_of` finds a key digit by digit
constexpr int kDigits = 1 << kDigitBits;

// The counts of an image; all are zero at first.
struct Progress {
  int candidates;
  int kept;
  int unordered;  // not 0 if a score is NaN
};

// What the kernels pass on to each other. The order of candidates and of kept keys varies from run to run. The result
// does not: keys are unique, and they are selected and sorted.
struct Workspace {
  Progress* progress;         // [B]
  int* candidates;            // [B, A] anchors
  unsigned* candidate_ranks;  // [B, C, A], as `candidates`
  uint64_t* kept;             // [B, C · min(top_k, A)] keys
};

// The key of a detection, whose number is class · A + anchor. A larger key has a higher score or, if the scores are
// equal, a smaller number. No key is 0.
__device__ uint64_t key_of(unsigned rank, unsigned detection) { return uint64_t{rank} << 32 | ~detection; }
__device__ unsigned detection_of(uint64_t key) { return ~static_cast<unsigned>(key); }
__device__ float score_of(uint64_t key) {
  const unsigned rank = static_cast<unsigned>(key >> 32);
  return __uint_as_float(rank >> 31 ? rank & 0x7fffffffu : ~rank);
}

// The smallest of the `limit` largest keys. The keys are distinct, and 0 < limit < count.
template <class Key>
__device__ uint64_t cutoff_of(const Key& key, int count, int limit) {
  __shared__ int histogram[kDigits];
  __shared__ int digit, missing, available;
  uint64_t prefix = 0;
  for (int shift = 64 - kDigitBits;; shift -= kDigitBits) {
    for (int i = threadIdx.x; i < kDigits; i += kThreads) histogram[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const uint64_t next_digit = (key(i) ^ prefix) >> shift;  // too large for a digit if a higher digit differs
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
    // This is true at the last digit at the latest, because keys are distinct.
    if (missing == available) return prefix;
  }
}

// Sorts best[0, size) in descending order. `size` is a power of two.
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

// Writes the `limit` largest keys to `best`, in descending order, and returns how many there are: min(count, limit).
// `best` has kBest elements in shared memory. The whole block calls this.
template <class Key>
__device__ int select_best(const Key& key, int count, int limit, uint64_t* best) {
  int filled_size = count;
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
    filled_size = limit;
  }
  int size = 1;
  while (size < filled_size) size *= 2;
  for (int i = filled_size + threadIdx.x; i < size; i += kThreads) best[i] = 0;
  __syncthreads();
  sort_keys(best, size);
  return min(count, limit);
}

// What `judge` says of an anchor.
struct Verdict {
  bool candidate;  // the best score is above the threshold
  bool unordered;  // a score is NaN
};

// Lists the candidates of each image and the ranks of their scores. Ranks are stored class by class, so that the next
// kernel reads neighbouring ones.
//
// A whole warp calls `scores.judge(image, anchor, lane, threshold, &state)`. After it, any thread may call
// `scores.value(image, anchor, c, state)`.
template <class Scores>
__global__ void __launch_bounds__(kThreads)
    find_candidates(Scores scores, float score_threshold, int64_t blocks_per_image, Workspace work) {
  const int64_t image = blockIdx.x / blocks_per_image;
  const int64_t begin = blockIdx.x % blocks_per_image * kAnchors;
  const int64_t end = min(begin + kAnchors, scores.anchors);
  const int lane = threadIdx.x % kWarp;
  Progress& progress = work.progress[image];
  __shared__ int candidates[kAnchors];
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
        candidates[slot] = static_cast<int>(anchor);
        states[slot] = state;
      }
    }
  }
  __syncthreads();
  if (threadIdx.x == 0 && count > 0) first = atomicAdd(&progress.candidates, count);
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    work.candidates[image * scores.anchors + first + i] = candidates[i];
  }
  for (int64_t i = threadIdx.x; i < count * scores.classes; i += kThreads) {
    const int64_t c = i / count;
    const int64_t slot = i % count;
    const float score = scores.value(image, candidates[slot], c, states[slot]);
    work.candidate_ranks[(image * scores.classes + c) * scores.anchors + first + slot] = rank_of(score);
  }
}

// Fast NMS of one class of one image in each block. `boxes.at(image, anchor)` gives a box as x1, y1, x2, y2.
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
      overlapped = __any_sync(kEveryLane, j < i && box_iou(b.x, b.y, b.z, b.w, a.x, a.y, a.z, a.w) > iou_threshold);
    }
    if (overlapped && lane == 0) best[i] = 0;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    if (best[i] != 0) work.kept[image * kept_per_image + atomicAdd(&progress.kept, 1)] = best[i];
  }
}

// Where the M best detections of each image are written. `boxes` may be null.
template <class T>
struct Outputs {
  int64_t* indices;  // [B, M]
  int64_t* labels;   // [B, M]
  T* scores;         // [B, M]
  int64_t* counts;   // [B]
  float4* boxes;     // [B, M]
};

// Writes the best detections of all classes of one image in each block.
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
  STD_TORCH_CHECK(max_detections <= kBest, op, ": max_detections must be at most ", kBest, " on CUDA, got ",
                  max_detections);
  STD_TORCH_CHECK(top_k <= kBest, op, ": top_k must be at most ", kBest, " on CUDA, got ", top_k);
  STD_TORCH_CHECK(sizes.anchors * sizes.classes <= std::numeric_limits<int32_t>::max(), op,
                  ": an image has at most 2^31 - 1 scores on CUDA, got ", sizes.anchors, " anchors of ", sizes.classes,
                  " classes");
}

// Queues all kernels of Fast NMS. The workspace is on the device of `like`.
template <class Scores, class Boxes, class T>
void suppress(const char* op, const Tensor& like, const NmsSizes& sizes, const Scores& scores, const Boxes& boxes,
              const NmsLimits& limits, float score_threshold, const Outputs<T>& outputs, cudaStream_t stream) {
  const auto [images, anchors, classes] = sizes;
  if (images == 0) return;
  const int64_t kept_per_image = classes * std::min(limits.top_k, anchors);
  Tensor progress =
      torch::stable::new_empty(like, {images, static_cast<int64_t>(sizeof(Progress) / sizeof(int))}, ScalarType::Int);
  Tensor candidates = torch::stable::new_empty(like, {images, anchors}, ScalarType::Int);
  Tensor candidate_ranks = torch::stable::new_empty(like, {images, classes, anchors}, ScalarType::Int);
  Tensor kept = torch::stable::new_empty(like, {images, kept_per_image}, ScalarType::Long);
  const Workspace work{static_cast<Progress*>(progress.mutable_data_ptr()), candidates.mutable_data_ptr<int>(),
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
