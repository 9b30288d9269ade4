#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "../checks.h"
#include "../geometry.h"
#include "simd.h"

namespace yolact {
namespace {

// Output pixels [begin, end) of an axis that sample between the same two mask pixels.
struct Segment {
  int64_t begin;
  int64_t end;
  int64_t index;
};

// How one axis of the image samples the same axis of the mask.
struct Axis {
  std::vector<int64_t> index;
  std::vector<float> fraction;
  std::vector<Segment> segments;
  std::vector<int64_t> first_segment;  // of each mask index: the first segment that starts at it or after
  int64_t mask_size;

  Axis(int64_t image_size, int64_t size) : index(image_size), fraction(image_size), mask_size(size) {
    const float scale = static_cast<float>(size) / static_cast<float>(image_size);
    for (int64_t target = 0; target < image_size; ++target) {
      const Sample sample = bilinear_sample(target, scale, size);
      index[target] = sample.index;
      fraction[target] = sample.fraction;
      if (segments.empty() || segments.back().index != sample.index) {
        segments.push_back({target, target + 1, sample.index});
      } else {
        ++segments.back().end;
      }
    }
    first_segment.reserve(size + 1);
    int64_t segment = 0;
    for (int64_t i = 0; i <= size; ++i) {
      while (segment < static_cast<int64_t>(segments.size()) && segments[segment].index < i) ++segment;
      first_segment.push_back(segment);
    }
  }

  // Segments that touch mask pixels [inside.begin, inside.end): a pixel before the range still blends its first one in.
  Range segments_of(Range inside) const {
    return {first_segment[std::max<int64_t>(inside.begin - 1, 0)], first_segment[inside.end]};
  }
};

// sigmoid(Σ coefficients · prototypes) at `count` neighbouring mask pixels.
template <class T>
YOLACT_SIMD void soft_mask_row(const T* prototypes, const float* coefficients, int64_t channels, int64_t count,
                               float* values) {
  for (int64_t j = 0; j < count; ++j) {
    const T* pixel = prototypes + j * channels;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < channels; ++k) sum += static_cast<float>(pixel[k]) * coefficients[k];
    values[j] = sum;
  }
  for (int64_t j = 0; j < count; ++j) values[j] = 1.0f / (1.0f + std::exp(-values[j]));
}

YOLACT_SIMD void blend_rows(const float* upper, const float* lower, float fraction, int64_t count, float* values) {
  for (int64_t j = 0; j < count; ++j) values[j] = interpolate(upper[j], lower[j], fraction);
}

YOLACT_SIMD void threshold_segment(float left, float right, const float* fractions, int64_t count, float threshold,
                                   bool* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = interpolate(left, right, fractions[i]) > threshold;
}

// The mask of one detection, written into `out`, an image plane that is all false.
template <class T>
void assemble_one(const T* prototypes, const float* coefficients, int64_t channels, const float* box, const Axis& down,
                  const Axis& across, float threshold, int64_t image_width, std::vector<float>& scratch, bool* out) {
  const Range columns = crop_range(box[0], box[2], across.mask_size, 1);
  const Range rows = crop_range(box[1], box[3], down.mask_size, 1);
  const int64_t width = columns.end - columns.begin;
  const int64_t height = rows.end - rows.begin;
  if (width == 0 || height == 0) return;

  // A zero column right of the box, a zero row above and one below stand for what the crop removed.
  const int64_t pitch = width + 1;
  scratch.assign((height + 3) * pitch, 0.0f);
  float* soft = scratch.data() + pitch;
  float* row = scratch.data() + (height + 2) * pitch;
  for (int64_t i = 0; i < height; ++i) {
    const int64_t pixel = (rows.begin + i) * across.mask_size + columns.begin;
    soft_mask_row(prototypes + pixel * channels, coefficients, channels, width, soft + i * pitch);
  }

  const Range vertical = down.segments_of(rows);
  const Range horizontal = across.segments_of(columns);
  const float* rightmost = columns.end == across.mask_size ? row + width - 1 : row + width;
  for (int64_t s = vertical.begin; s < vertical.end; ++s) {
    const Segment& band = down.segments[s];
    const float* upper = soft + (band.index - rows.begin) * pitch;
    // The mask's own last row repeats; past the crop's last row there are zeros.
    const float* lower = band.index + 1 < down.mask_size ? upper + pitch : upper;
    for (int64_t y = band.begin; y < band.end; ++y) {
      blend_rows(upper, lower, down.fraction[y], width, row);
      bool* line = out + y * image_width;
      for (int64_t t = horizontal.begin; t < horizontal.end; ++t) {
        const Segment& span = across.segments[t];
        const int64_t j = span.index - columns.begin;
        const float left = j < 0 ? 0.0f : row[j];
        const float right = j + 1 < width ? row[j + 1] : *rightmost;
        const int64_t count = span.end - span.begin;
        if (left > threshold && right > threshold) {
          std::memset(line + span.begin, 1, count);
        } else if (left > threshold || right > threshold) {
          threshold_segment(left, right, across.fraction.data() + span.begin, count, threshold, line + span.begin);
        }
      }
    }
  }
}

// Zeroed pages that the system hands out only when touched: most of a mask never is.
Tensor zeroed_masks(const Tensor& like, const std::vector<int64_t>& shape) {
  int64_t bytes = 1;
  std::vector<int64_t> strides(shape.size());
  for (int64_t dim = static_cast<int64_t>(shape.size()) - 1; dim >= 0; --dim) {
    strides[dim] = bytes;
    bytes *= std::max<int64_t>(shape[dim], 1);
  }
  void* memory = std::calloc(static_cast<size_t>(bytes), 1);
  STD_TORCH_CHECK(memory != nullptr, "assemble_masks: no memory for masks of ", bytes, " bytes");
  return torch::stable::from_blob(memory, shape, strides, like.device(), ScalarType::Bool,
                                  static_cast<void (*)(void*)>(&std::free));
}

Tensor assemble_masks_cpu(const Tensor& prototypes, const Tensor& coefficients, const Tensor& boxes, int64_t height,
                          int64_t width, double threshold) {
  const AssembleSizes sizes = check_assemble_masks(prototypes, coefficients, boxes, height, width);
  STD_TORCH_CHECK(threshold >= 0.0, "assemble_masks: threshold must not be negative, got ", threshold);
  const Tensor grid = torch::stable::contiguous(prototypes);
  const Tensor factors = torch::stable::contiguous(torch::stable::to(coefficients, ScalarType::Float));
  const Tensor corners = torch::stable::contiguous(boxes);
  Tensor masks = zeroed_masks(prototypes, assemble_shape(prototypes, sizes, height, width));
  const Axis down(height, sizes.mask_height);
  const Axis across(width, sizes.mask_width);
  const float* factor = static_cast<const float*>(factors.const_data_ptr());
  const float* box = static_cast<const float*>(corners.const_data_ptr());
  bool* out = static_cast<bool*>(masks.mutable_data_ptr());
  dispatch_floating("assemble_masks", grid.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* values = static_cast<const T*>(grid.const_data_ptr());
    const int64_t image_values = sizes.mask_height * sizes.mask_width * sizes.prototypes;
    torch::stable::parallel_for(0, sizes.images * sizes.detections, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch;
      for (int64_t n = begin; n < end; ++n) {
        assemble_one<T>(values + n / sizes.detections * image_values, factor + n * sizes.prototypes, sizes.prototypes,
                        box + 4 * n, down, across, static_cast<float>(threshold), width, scratch,
                        out + n * height * width);
      }
    });
  });
  return masks;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CPU, m) { m.impl("assemble_masks", TORCH_BOX(&assemble_masks_cpu)); }

}  // namespace yolact
