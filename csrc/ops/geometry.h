// Arithmetic that the CPU and CUDA kernels share, so that a test on a machine
// without a GPU covers both. Every rounding step matches the plain-PyTorch
// reference (yolact/ops/reference.py): products and sums are never contracted.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

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

// e to the power of a number that is not positive, within 2 units in the last place; 0 where it is not a normal number.
// Written out, as a loop over it becomes vector instructions on the CPU and both devices get the same.
YOLACT_HOST_DEVICE float exponential(float x) {
  constexpr float lowest = -87.3f;
  constexpr float rounder = 12582912.0f;  // 1.5 · 2²³: adding it leaves no fraction
  const float power = larger(x, lowest);
  const float halvings = (multiply(power, 1.44269504f) + rounder) - rounder;
  // ln 2 in two parts, of which the first times a small integer is exact.
  const float rest = power - multiply(halvings, 0.693359375f) + multiply(halvings, 2.12194440e-4f);
  float series = 1.9875691500e-4f;
  series = multiply(series, rest) + 1.3981999507e-3f;
  series = multiply(series, rest) + 8.3334519073e-3f;
  series = multiply(series, rest) + 4.1665795894e-2f;
  series = multiply(series, rest) + 1.6666665459e-1f;
  series = multiply(series, rest) + 5.0000001201e-1f;
  series = multiply(multiply(series, rest), rest) + rest + 1.0f;
  const int32_t exponent = (static_cast<int32_t>(halvings) + 127) << 23;
  float scale;
  memcpy(&scale, &exponent, sizeof(scale));
  return x < lowest ? 0.0f : multiply(series, scale);
}

// A value after a leaky ReLU: slope 0 is a plain ReLU, slope 1 none.
YOLACT_HOST_DEVICE float activated(float value, float negative_slope) {
  return value > 0.0f ? value : multiply(value, negative_slope);
}

// How deltas encode a box: see `reference.decode`.
struct BoxCoding {
  float center_variance;
  float size_variance;
  float max_log_scale;  // infinite: no clamp
  bool clip;            // to 0–1
};

// One axis of a box: its two ends from the anchor's.
struct Side {
  float begin;
  float end;
};

YOLACT_HOST_DEVICE Side decode_side(float begin, float end, float center_delta, float size_delta,
                                    const BoxCoding& coding) {
  const float extent = end - begin;
  const float center = (begin + end) / 2.0f + multiply(multiply(center_delta, coding.center_variance), extent);
  const float log_scale = multiply(size_delta, coding.size_variance);
  // A NaN stays one.
  const float clamped = log_scale < -coding.max_log_scale  ? -coding.max_log_scale
                        : log_scale > coding.max_log_scale ? coding.max_log_scale
                                                           : log_scale;
  const float size = multiply(extent, expf(clamped));
  const float first = center - size / 2.0f;
  const float last = first + size;
  if (!coding.clip) return {first, last};
  return {first < 0.0f ? 0.0f : first > 1.0f ? 1.0f : first, last < 0.0f ? 0.0f : last > 1.0f ? 1.0f : last};
}

// Unsigned integers in the order of the scores; −0 counts as 0, and NaN has no place in it.
YOLACT_HOST_DEVICE uint32_t rank_of(float score) {
  const float value = score + 0.0f;
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits >> 31 ? ~bits : bits | 0x80000000u;
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

// The pixels that the point (y, x) of a map is blended from: above left, above right, below left and below right.
// One outside the map has no weight, and the index of one inside.
template <class Real>
struct Corners {
  int64_t index[4];  // row · width + column
  Real weight[4];
  Real along_y[4], along_x[4];  // derivatives of `weight`; where y or x is whole, from the right
};

// A point a pixel or more outside the map, or at NaN, has no corners with a weight.
template <class Real>
YOLACT_HOST_DEVICE Corners<Real> corners_at(Real y, Real x, int64_t height, int64_t width) {
  Corners<Real> corners{};
  if (!(y > Real(-1) && x > Real(-1) && y < static_cast<Real>(height) && x < static_cast<Real>(width))) return corners;
  const Real top = floor(y);
  const Real left = floor(x);
  const Real down = y - top;
  const Real across = x - left;
  for (int i = 0; i < 4; ++i) {
    const bool below = i >= 2;
    const bool right = i % 2 == 1;
    const int64_t row = static_cast<int64_t>(top) + below;
    const int64_t column = static_cast<int64_t>(left) + right;
    if (row < 0 || row >= height || column < 0 || column >= width) continue;
    const Real vertical = below ? down : Real(1) - down;
    const Real horizontal = right ? across : Real(1) - across;
    corners.index[i] = row * width + column;
    corners.weight[i] = vertical * horizontal;
    corners.along_y[i] = below ? horizontal : -horizontal;
    corners.along_x[i] = right ? vertical : -vertical;
  }
  return corners;
}

// How a deformable convolution samples its input: the sizes of its tensors, and where each tap of a pixel looks.
struct DeformGrid {
  int64_t images, height, width, channels;  // of the input
  int64_t rows, columns;                    // of the output
  int64_t kernel_size, stride, padding, dilation;

  YOLACT_HOST_DEVICE int64_t taps() const { return kernel_size * kernel_size; }
  YOLACT_HOST_DEVICE int64_t pixels() const { return images * rows * columns; }  // of the output
  YOLACT_HOST_DEVICE int64_t image_of(int64_t pixel) const { return pixel / (rows * columns); }

  // `offsets` holds (y, x) of every tap of every output pixel.
  template <class Real>
  YOLACT_HOST_DEVICE Corners<Real> corners(int64_t pixel, int64_t tap, const Real* offsets) const {
    const Real* offset = offsets + (pixel * taps() + tap) * 2;
    const int64_t row = pixel / columns % rows * stride - padding + tap / kernel_size * dilation;
    const int64_t column = pixel % columns * stride - padding + tap % kernel_size * dilation;
    return corners_at(static_cast<Real>(row) + offset[0], static_cast<Real>(column) + offset[1], height, width);
  }
};

}  // namespace yolact
