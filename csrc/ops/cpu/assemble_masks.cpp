#include "../assemble_masks.h"

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

#include "parallel.h"
#include "simd.h"

namespace yolact {
namespace {

constexpr int64_t kTogether = 16;  // pixels that `threshold_row` compares with the threshold at once

// Output pixels [begin, end) of an axis that sample between the same two mask pixels.
struct Segment {
  int64_t begin;
  int64_t end;
  int64_t index;
};

// How an axis of the image samples that axis of the mask.
struct Axis {
  std::vector<int64_t> index;
  std::vector<float> fraction;  // with kTogether unused values at the end
  std::vector<Segment> segments;
  std::vector<int64_t> first_segment;  // for each mask index, the first segment with this index or a higher one
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

  // Segments that blend in mask pixels [inside.begin, inside.end). The segment of the mask pixel before them does, too.
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

// The part of a mask that can be true: rows and columns of the mask at prototype resolution, and the pixels of the
// image that blend them in.
struct Reach {
  Range rows, columns;
  Range y, x;  // if one is empty, so is the other

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

// Where a mask is written: its pixel (y, x) is pixels[(y − top) · pitch + x − left]. All pixels are false at first.
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

// Blends two rows of a soft mask. Returns whether a value is above the threshold.
YOLACT_SIMD bool blend_rows(const float* upper, const float* lower, float fraction, int64_t count, float threshold,
                            float* values) {
  int32_t above = 0;
  for (int64_t j = 0; j < count; ++j) {
    values[j] = interpolate(upper[j], lower[j], fraction);
    above |= values[j] > threshold;
  }
  return above != 0;
}

// Writes pixels [pixels.begin, pixels.end) of a line of the image, which are those of the given segments. `row` holds
// the soft mask in `columns`; left of them it is 0, and right of them it is `beyond`.
YOLACT_SIMD void threshold_row(const float* row, Range columns, float beyond, const Axis& across, Range segments,
                               Range pixels, float threshold, bool* line) {
  for (int64_t s = segments.begin; s < segments.end; ++s) {
    const Segment& segment = across.segments[s];
    const int64_t j = segment.index - columns.begin;
    const float left = j < 0 ? 0.0f : row[j];
    const float right = segment.index + 1 < columns.end ? row[j + 1] : beyond;
    // The next segment overwrites what this one writes past its end.
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

// Writes the mask of one detection. Its reach is not empty, and `out` contains it.
template <class T>
void assemble_one(const T* prototypes, const float* coefficients, int64_t channels, const Reach& reach,
                  const Axis& down, const Axis& across, float threshold, std::vector<float>& scratch,
                  const Plane& out) {
  const Range columns = reach.columns;
  const Range rows = reach.rows;
  const int64_t width = columns.end - columns.begin;
  const int64_t height = rows.end - rows.begin;

  // A column of zeros right of the box, a row of zeros above it and one below it stand for what the crop removed.
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
    // The last row of the mask repeats; below the last row of the crop there are zeros.
    const float* lower = band.index + 1 < down.mask_size ? upper + pitch : upper;
    for (int64_t y = band.begin; y < band.end; ++y) {
      if (!blend_rows(upper, lower, down.fraction[y], width, threshold, row)) continue;
      bool* line = out.pixels + (y - out.top) * out.pitch - out.left;
      threshold_row(row, columns, *rightmost, across, horizontal, reach.x, threshold, line);
    }
  }
}

// Memory from calloc: the system provides zeroed pages only when they are touched, and most pages of masks never are.
Tensor zeroed_masks(const char* op, const Tensor& like, const std::vector<int64_t>& shape) {
  int64_t bytes = 1;
  std::vector<int64_t> strides(shape.size());
  for (int64_t dim = static_cast<int64_t>(shape.size()) - 1; dim >= 0; --dim) {
    strides[dim] = bytes;
    bytes *= std::max<int64_t>(shape[dim], 1);
  }
  void* memory = std::calloc(static_cast<size_t>(bytes), 1);
  STD_TORCH_CHECK(memory != nullptr, op, ": no memory for masks of ", bytes, " bytes");
  return torch::stable::from_blob(memory, shape, strides, like.device(), ScalarType::Bool,
                                  static_cast<void (*)(void*)>(&std::free));
}

// What the three operators of this file share: the masks of an image or of a batch, which are assembled one by one.
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

  Reach reach(int64_t n) const { return {corners_.const_data_ptr<float>() + 4 * n, down, across}; }

  // Calls body(n, reach, assemble) for every detection, on several threads. `assemble(plane)` writes its mask.
  template <class Body>
  void for_each(const Body& body) const {
    const float* factors = factors_.const_data_ptr<float>();
    dispatch_floating(op_, "prototypes", grid_.scalar_type(), [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      const T* values = grid_.const_data_ptr<T>();
      const int64_t image_values = sizes.mask_height * sizes.mask_width * sizes.prototypes;
      const auto make_scratch = [] { return std::vector<float>(); };
      in_turns(count, make_scratch, [&](int64_t n, std::vector<float>& scratch) {
        const Reach own = reach(n);
        body(n, own, [&](const Plane& out) {
          if (own.empty()) return;
          assemble_one<T>(values + n / sizes.detections * image_values, factors + n * sizes.prototypes,
                          sizes.prototypes, own, down, across, threshold_, scratch, out);
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
  Tensor masks = zeroed_masks("assemble_masks", prototypes, masks_shape(prototypes, assembly.sizes, height, width));
  bool* out = masks.mutable_data_ptr<bool>();
  assembly.for_each(
      [&](int64_t n, const Reach&, const auto& assemble) { assemble({out + n * height * width, 0, 0, width}); });
  return masks;
}

Tensor new_integers(const Tensor& like, const std::vector<int64_t>& shape) {
  return torch::stable::new_empty(like, shape, ScalarType::Long);
}

std::tuple<Tensor, Tensor, Tensor> assemble_crops_cpu(const Tensor& prototypes, const Tensor& coefficients,
                                                      const Tensor& boxes, int64_t height, int64_t width,
                                                      double threshold) {
  const Assembly assembly("assemble_crops", prototypes, coefficients, boxes, height, width, threshold);
  Tensor crops = new_integers(boxes, crops_shape(prototypes, assembly.sizes));
  Tensor offsets = new_integers(boxes, {assembly.count + 1});
  int64_t* crop = crops.mutable_data_ptr<int64_t>();
  int64_t* offset = offsets.mutable_data_ptr<int64_t>();
  offset[0] = 0;
  for (int64_t n = 0; n < assembly.count; ++n) {
    const Reach reach = assembly.reach(n);
    for (const int64_t side : {reach.x.begin, reach.y.begin, reach.x.end, reach.y.end}) *crop++ = side;
    offset[n + 1] = offset[n] + reach.height() * reach.width();
  }
  Tensor pixels = zeroed_masks("assemble_crops", prototypes, {offset[assembly.count]});
  bool* out = pixels.mutable_data_ptr<bool>();
  assembly.for_each([&](int64_t n, const Reach& reach, const auto& assemble) {
    assemble({out + offset[n], reach.y.begin, reach.x.begin, reach.width()});
  });
  return {pixels, crops, offsets};
}

// The places where a mask changes from false to true or back, column by column. They are the ends of COCO's runs.
class Turns {
 public:
  Turns(const Reach& reach, int64_t image_height, int64_t image_width)
      : reach_(reach), image_height_(image_height), image_width_(image_width), first_(reach.width() + 2) {}

  // `rows` holds the reach, with a row of zeros above it, one below it and a zero right of every row.
  void find(const bool* rows) {
    const int64_t pitch = reach_.width() + 1;
    const bool* zeros = rows;
    const bool* top = rows + pitch;
    const bool* bottom = rows + reach_.height() * pitch;
    const bool from_first = reach_.y.begin == 0;
    const bool to_last = reach_.y.end == image_height_;
    // The pixel before the first of a column is the last of the column to its left.
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
    ordered_.resize(turns_.size());
    for (const auto& [column, y] : turns_) ordered_[first_[column]++] = (reach_.x.begin + column) * image_height_ + y;
    int64_t last = 0;
    for (const int64_t position : ordered_) {
      counts.push_back(position - last);
      last = position;
    }
    counts.push_back(image_height_ * image_width_ - last);
  }

 private:
  // Notes the columns in which row y differs from the row above.
  void compare(const bool* above, const bool* row, int64_t width, int64_t y) {
    static_assert(std::endian::native == std::endian::little);
    int64_t column = 0;
    // A bool is a byte with the value 0 or 1. Eight are compared at once, since most are equal.
    for (; column + 8 <= width; column += 8) {
      uint64_t a, b;
      std::memcpy(&a, above + column, 8);
      std::memcpy(&b, row + column, 8);
      for (uint64_t bits = a ^ b; bits != 0; bits &= bits - 1) note(column + std::countr_zero(bits) / 8, y);
    }
    for (; column < width; ++column) {
      if (above[column] != row[column]) note(column, y);
    }
  }

  void note(int64_t column, int64_t y) {
    turns_.push_back({column, y});
    ++first_[column + 1];
  }

  struct Turn {
    int64_t column, y;
  };

  const Reach& reach_;
  const int64_t image_height_, image_width_;
  std::vector<Turn> turns_;      // row by row
  std::vector<int64_t> first_;  // first_[c + 1] counts the turns of column c; their sums say where each column begins
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
  int64_t* offset = offsets.mutable_data_ptr<int64_t>();
  offset[0] = 0;
  for (int64_t n = 0; n < assembly.count; ++n) offset[n + 1] = offset[n] + static_cast<int64_t>(runs[n].size());
  Tensor counts = new_integers(boxes, {offset[assembly.count]});
  int64_t* count = counts.mutable_data_ptr<int64_t>();
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
