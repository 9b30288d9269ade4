// Arithmetic that the CPU and CUDA kernels share, so that a test on a machine
// without a GPU covers both. Every rounding step matches the plain-PyTorch
// reference (yolact/ops/reference.py): products and sums are never contracted.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define YOLACT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define YOLACT_HOST_DEVICE inline
#endif

namespace yolact {

// The host compiler is told -ffp-contract=off; nvcc contracts unless asked like this.
YOLACT_HOST_DEVICE float multiply(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

YOLACT_HOST_DEVICE float smaller(float a, float b) { return a < b ? a : b; }
YOLACT_HOST_DEVICE float larger(float a, float b) { return a > b ? a : b; }

// Intersection over union of two xyxy boxes; 0 where the union is empty.
YOLACT_HOST_DEVICE float box_iou(float ax1, float ay1, float ax2, float ay2,
                                 float bx1, float by1, float bx2, float by2) {
  const float width = larger(smaller(ax2, bx2) - larger(ax1, bx1), 0.0f);
  const float height = larger(smaller(ay2, by2) - larger(ay1, by1), 0.0f);
  const float intersection = multiply(width, height);
  const float area_a = multiply(ax2 - ax1, ay2 - ay1);
  const float area_b = multiply(bx2 - bx1, by2 - by1);
  const float both = area_a + area_b - intersection;
  return both > 0.0f ? intersection / both : 0.0f;
}

// Half-open range of the columns (or rows) inside a box side.
struct Range {
  int64_t begin;
  int64_t end;
};

// Columns j of a grid of `size` with max(min(a, b)·size − padding, 0) ≤ j < min(max(a, b)·size + padding, size),
// where a and b are the relative ends of the box; empty where either is NaN.
YOLACT_HOST_DEVICE Range crop_range(float a, float b, int64_t size, int64_t padding) {
  if (!(a == a) || !(b == b)) return {0, 0};
  const float extent = static_cast<float>(size);
  const float first = larger(multiply(smaller(a, b), extent) - static_cast<float>(padding), 0.0f);
  const float last = smaller(multiply(larger(a, b), extent) + static_cast<float>(padding), extent);
  if (!(first < last)) return {0, 0};
  return {static_cast<int64_t>(ceilf(first)), static_cast<int64_t>(ceilf(last))};
}

// Where output pixel `target` of a bilinear resize (align_corners=False) samples its input:
// between `index` and min(index + 1, size − 1), the latter with weight `fraction`.
struct Sample {
  int64_t index;
  float fraction;
};

// `scale` is float(input size) / float(output size).
YOLACT_HOST_DEVICE Sample bilinear_sample(int64_t target, float scale, int64_t size) {
  const float position = larger(multiply(scale, static_cast<float>(target) + 0.5f) - 0.5f, 0.0f);
  const int64_t floor = static_cast<int64_t>(position);
  const int64_t index = floor < size - 1 ? floor : size - 1;
  return {index, smaller(larger(position - static_cast<float>(index), 0.0f), 1.0f)};
}

// Value between `a` and `b`, in the order in which PyTorch weighs them.
YOLACT_HOST_DEVICE float interpolate(float a, float b, float fraction) {
  return multiply(1.0f - fraction, a) + multiply(fraction, b);
}

}  // namespace yolact
