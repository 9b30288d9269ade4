#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../checks.h"
#include "../geometry.h"
#include "parallel.h"
#include "simd.h"

namespace yolact {
namespace {

constexpr int64_t kTogether = 16;  // pixels that are compared with the threshold at once

// Output pixels [begin, end) of an axis that sample between the same two mask pixels.
struct Segment {
  int64_t begin;
  int64_t end;
  int64_t index;
};

// How one axis of the image samples the same axis of the mask.
struct Axis {
  std::vector<int64_t> index;
  std::vector<float> fraction;  // and kTogether more
  std::vector<Segment> segments;
  std::vector<int64_t> first_segment;  // of each mask index: the first segment that starts at it or after
  int64_t mask_size;

  Axis(int64_t image_size, int64_t size) : index(image_size), fraction(image_size + kTogether), mask_size(size) {
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

  // The output pixels of these segments.
  Range pixels_of(Range inside) const {
    const Range touching = segments_of(inside);
    if (touching.begin == touching.end) return {0, 0};
    return {segments[touching.begin].begin, segments[touching.end - 1].end};
  }
};

// Where a detection's mask can be inside: at prototype resolution, and the output pixels that are blended from there.
struct Reach {
  Range rows, columns;
  Range y, x;  // both empty where either is

  Reach(const float* box, const Axis& down, const Axis& across)
      : rows(crop_range(box[1], box[3], down.mask_size, 1)), columns(crop_range(box[0], box[2], across.mask_size, 1)) {
    y = down.pixels_of(rows);
    x = across.pixels_of(columns);
    if (rows.begin == rows.end || columns.begin == columns.end || y.begin == y.end || x.begin == x.end) y = x = {0, 0};
  }

  int64_t height() const { return y.end - y.begin; }
  int64_t width() const { return x.end - x.begin; }
  bool empty() const { return x.begin == x.end; }
};

// A part of an image that is all false: its pixel (y, x) lies at pixels[(y − top) · pitch + x − left].
struct Plane {
  bool* pixels;
  int64_t top, left, pitch;
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

// Whether a value is above the threshold.
YOLACT_SIMD bool blend_rows(const float* upper, const float* lower, float fraction, int64_t count, float threshold,
                            float* values) {
  int32_t above = 0;
  for (int64_t j = 0; j < count; ++j) {
    values[j] = interpolate(upper[j], lower[j], fraction);
    above |= values[j] > threshold;
  }
  return above != 0;
}

// Pixels [pixels.begin, pixels.end) of a line of the image, all of the segments [segments.begin, segments.end), from a
// row of the mask whose columns these are; 0 lies left of it and `beyond` right of it.
YOLACT_SIMD void threshold_row(const float* row, Range columns, float beyond, const Axis& across, Range segments,
                               Range pixels, float threshold, bool* line) {
  for (int64_t s = segments.begin; s < segments.end; ++s) {
    const Segment& segment = across.segments[s];
    const int64_t j = segment.index - columns.begin;
    const float left = j < 0 ? 0.0f : row[j];
    const float right = segment.index + 1 < columns.end ? row[j + 1] : beyond;
    // What is written past the end of a segment, the next one overwrites.
    for (int64_t begin = segment.begin; begin < segment.end; begin += kTogether) {
      bool inside[kTogether];
      const float* fractions = across.fraction.data() + begin;
      for (int64_t i = 0; i < kTogether; ++i) inside[i] = interpolate(left, right, fractions[i]) > threshold;
      if (begin + kTogether <= pixels.end) {
        std::memcpy(line + begin, inside, kTogether);
      } else {
        std::memcpy(line + begin, inside, pixels.end - begin);
      }
    }
  }
}

// The mask of one detection, whose reach is not empty, written into `out`, which holds that reach.
template <class T>
void assemble_one(const T* prototypes, const float* coefficients, int64_t channels, const Reach& reach,
                  const Axis& down, const Axis& across, float threshold, std::vector<float>& scratch,
                  const Plane& out) {
  const Range columns = reach.columns;
  const Range rows = reach.rows;
  const int64_t width = columns.end - columns.begin;
  const int64_t height = rows.end - rows.begin;

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
      if (!blend_rows(upper, lower, down.fraction[y], width, threshold, row)) continue;
      bool* line = out.pixels + (y - out.top) * out.pitch - out.left;
      threshold_row(row, columns, *rightmost, across, horizontal, reach.x, threshold, line);
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

// What the three operators of this file have in common: the masks of an image or a batch, to be assembled one by one.
class Assembly {
 public:
  Assembly(const char* op, const Tensor& prototypes, const Tensor& coefficients, const Tensor& boxes, int64_t height,
           int64_t width, double threshold)
      : sizes(check_assembly(op, prototypes, coefficients, boxes, height, width, threshold)),
        count(sizes.images * sizes.detections),
        down(height, sizes.mask_height),
        across(width, sizes.mask_width),
        op_(op),
        grid_(torch::stable::contiguous(prototypes)),
        factors_(torch::stable::contiguous(torch::stable::to(coefficients, ScalarType::Float))),
        corners_(torch::stable::contiguous(boxes)),
        threshold_(static_cast<float>(threshold)) {}

  const AssembleSizes sizes;
  const int64_t count;  // of detections, over all images
  const Axis down, across;

  Reach reach(int64_t n) const { return {static_cast<const float*>(corners_.const_data_ptr()) + 4 * n, down, across}; }

  // On several threads: `body(n, reach, assemble)` for every detection, of which `assemble(plane)` writes the mask.
  template <class Body>
  void for_each(const Body& body) const {
    const float* factors = static_cast<const float*>(factors_.const_data_ptr());
    dispatch_floating(op_, grid_.scalar_type(), [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      const T* values = static_cast<const T*>(grid_.const_data_ptr());
      const int64_t image_values = sizes.mask_height * sizes.mask_width * sizes.prototypes;
      const auto make_scratch = [] { return std::vector<float>(); };
      in_turns(count, make_scratch, [&](int64_t n, std::vector<float>& scratch) {
        const Reach found = reach(n);
        body(n, found, [&](const Plane& out) {
          if (found.empty()) return;
          assemble_one<T>(values + n / sizes.detections * image_values, factors + n * sizes.prototypes,
                          sizes.prototypes, found, down, across, threshold_, scratch, out);
        });
      });
    });
  }

 private:
  const char* op_;
  const Tensor grid_, factors_, corners_;
  const float threshold_;
};

Tensor assemble_masks_cpu(const Tensor& prototypes, const Tensor& coefficients, const Tensor& boxes, int64_t height,
                          int64_t width, double threshold) {
  const Assembly assembly("assemble_masks", prototypes, coefficients, boxes, height, width, threshold);
  Tensor masks = zeroed_masks(prototypes, assemble_shape(prototypes, assembly.sizes, height, width));
  bool* out = static_cast<bool*>(masks.mutable_data_ptr());
  assembly.for_each([&](int64_t n, const Reach&, const auto& assemble) {
    assemble({out + n * height * width, 0, 0, width});
  });
  return masks;
}

Tensor new_integers(const Tensor& like, const std::vector<int64_t>& shape) {
  return torch::stable::new_empty(like, shape, ScalarType::Long);
}

std::tuple<Tensor, Tensor, Tensor> assemble_crops_cpu(const Tensor& prototypes, const Tensor& coefficients,
                                                      const Tensor& boxes, int64_t height, int64_t width,
                                                      double threshold) {
  const Assembly assembly("assemble_crops", prototypes, coefficients, boxes, height, width, threshold);
  Tensor crops = new_integers(boxes, crop_shape(prototypes, assembly.sizes));
  Tensor offsets = new_integers(boxes, {assembly.count + 1});
  int64_t* crop = static_cast<int64_t*>(crops.mutable_data_ptr());
  int64_t* offset = static_cast<int64_t*>(offsets.mutable_data_ptr());
  offset[0] = 0;
  for (int64_t n = 0; n < assembly.count; ++n) {
    const Reach reach = assembly.reach(n);
    for (const int64_t side : {reach.x.begin, reach.y.begin, reach.x.end, reach.y.end}) *crop++ = side;
    offset[n + 1] = offset[n] + reach.height() * reach.width();
  }
  Tensor pixels = zeroed_masks(prototypes, {offset[assembly.count]});
  bool* out = static_cast<bool*>(pixels.mutable_data_ptr());
  assembly.for_each([&](int64_t n, const Reach& reach, const auto& assemble) {
    assemble({out + offset[n], reach.y.begin, reach.x.begin, reach.width()});
  });
  return {pixels, crops, offsets};
}

// Where a mask changes between outside and inside, in column order.
class Turns {
 public:
  Turns(const Reach& reach, int64_t image_height, int64_t image_width)
      : reach_(reach), image_height_(image_height), image_width_(image_width), first_(reach.width() + 2) {}

  // `rows` is the reach with a row of zeros above, one below and a zero right of every row.
  void find(const bool* rows) {
    const int64_t pitch = reach_.width() + 1;
    const bool* zeros = rows;
    const bool* top = rows + pitch;
    const bool* bottom = rows + reach_.height() * pitch;
    const bool from_first = reach_.y.begin == 0;
    const bool to_last = reach_.y.end == image_height_;
    // Above the first row of the image lies the last one, a column to the right.
    compare(to_last ? bottom - 1 : zeros, from_first ? top : zeros, pitch - (reach_.x.end == image_width_), 0);
    if (!from_first) compare(zeros, top, reach_.width(), reach_.y.begin);
    for (int64_t y = reach_.y.begin + 1; y < reach_.y.end; ++y, top += pitch) {
      compare(top, top + pitch, reach_.width(), y);
    }
    if (!to_last) compare(bottom, zeros, reach_.width(), reach_.y.end);
  }

  // Appends the run lengths.
  void append_runs(std::vector<int64_t>& counts) {
    for (size_t column = 1; column < first_.size(); ++column) first_[column] += first_[column - 1];
    ordered_.resize(found_.size());
    for (const auto& [column, y] : found_) ordered_[first_[column]++] = (reach_.x.begin + column) * image_height_ + y;
    int64_t last = 0;
    for (const int64_t position : ordered_) {
      counts.push_back(position - last);
      last = position;
    }
    counts.push_back(image_height_ * image_width_ - last);
  }

 private:
  // Notes the columns in which row y is unlike what is above it.
  void compare(const bool* above, const bool* row, int64_t width, int64_t y) {
    static_assert(std::endian::native == std::endian::little);
    int64_t column = 0;
    // A bool is a byte that is 0 or 1: eight at a time, most of them alike.
    for (; column + 8 <= width; column += 8) {
      uint64_t a, b;
      std::memcpy(&a, above + column, 8);
      std::memcpy(&b, row + column, 8);
      for (uint64_t unlike = a ^ b; unlike != 0; unlike &= unlike - 1) note(column + std::countr_zero(unlike) / 8, y);
    }
    for (; column < width; ++column) {
      if (above[column] != row[column]) note(column, y);
    }
  }

  void note(int64_t column, int64_t y) {
    found_.push_back({column, y});
    ++first_[column + 1];
  }

  struct Turn {
    int64_t column, y;
  };

  const Reach& reach_;
  const int64_t image_height_, image_width_;
  std::vector<Turn> found_;      // row by row
  std::vector<int64_t> first_;   // of each column: the place of its first turn, once all are counted
  std::vector<int64_t> ordered_;
};

std::tuple<Tensor, Tensor> assemble_runs_cpu(const Tensor& prototypes, const Tensor& coefficients, const Tensor& boxes,
                                             int64_t height, int64_t width, double threshold) {
  const Assembly assembly("assemble_runs", prototypes, coefficients, boxes, height, width, threshold);
  std::vector<std::vector<int64_t>> runs(assembly.count);
  assembly.for_each([&](int64_t n, const Reach& reach, const auto& assemble) {
    const int64_t pitch = reach.width() + 1;
    const auto rows = std::make_unique<bool[]>((reach.height() + 2) * pitch);
    assemble({rows.get() + pitch, reach.y.begin, reach.x.begin, pitch});
    Turns turns(reach, height, width);
    if (!reach.empty()) turns.find(rows.get());
    turns.append_runs(runs[n]);
  });
  Tensor offsets = new_integers(boxes, {assembly.count + 1});
  int64_t* offset = static_cast<int64_t*>(offsets.mutable_data_ptr());
  offset[0] = 0;
  for (int64_t n = 0; n < assembly.count; ++n) offset[n + 1] = offset[n] + static_cast<int64_t>(runs[n].size());
  Tensor counts = new_integers(boxes, {offset[assembly.count]});
  int64_t* count = static_cast<int64_t*>(counts.mutable_data_ptr());
  for (const auto& one : runs) count = std::copy(one.begin(), one.end(), count);
  return {counts, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CPU, m) {
  m.impl("assemble_masks", TORCH_BOX(&assemble_masks_cpu));
  m.impl("assemble_crops", TORCH_BOX(&assemble_crops_cpu));
  m.impl("assemble_runs", TORCH_BOX(&assemble_runs_cpu));
}

}  // namespace yolact
