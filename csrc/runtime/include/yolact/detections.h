#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace yolact {

/// A box inside the image, in pixels: its top left corner (x1, y1) and its bottom right corner (x2, y2).
struct Box {
  float x1, y1, x2, y2;
};

/// The objects found in one image, in descending order of `scores`. The types below add the masks.
struct Objects {
  std::int64_t height = 0;  ///< of the image, in pixels
  std::int64_t width = 0;   ///< of the image, in pixels
  std::vector<Box> boxes;
  std::vector<float> scores;         ///< of each object's class and box, 0–1
  std::vector<std::int64_t> labels;  ///< indices into the model's class names

  /// The score of each mask, not negative. YOLACT++ multiplies the score by the IoU that it predicts for the mask; with
  /// other networks the values equal `scores`. If the vector is empty, `scores` holds for the masks too.
  std::vector<float> mask_scores = {};

  float mask_score(std::size_t index) const { return mask_scores.empty() ? scores[index] : mask_scores[index]; }

  std::size_t size() const { return labels.size(); }
};

/// Objects with masks of the image's size. A copy shares the masks.
struct Detections : Objects {
  std::shared_ptr<const std::uint8_t> masks;  ///< [size(), height, width], 1 inside an object and 0 elsewhere

  /// The mask of object `index` < size(): height · width bytes, row by row.
  std::span<const std::uint8_t> mask(std::size_t index) const {
    const auto pixels = static_cast<std::size_t>(height * width);
    return {masks.get() + index * pixels, pixels};
  }
};

/// Objects with masks as COCO's run lengths. No mask of the image's size is ever stored.
struct EncodedDetections : Objects {
  std::vector<std::int64_t> counts;  ///< the run lengths of all masks, one mask after the other
  std::vector<std::int64_t> offsets;  ///< [size() + 1]: where each mask's runs begin; the last value is their end

  /// The run lengths of the mask of object `index` < size(), in pixels. The runs go down each column, and through the
  /// columns from left to right. They are outside and inside the object in turn; the first one is outside and may be 0.
  std::span<const std::int64_t> runs(std::size_t index) const {
    return std::span(counts).subspan(static_cast<std::size_t>(offsets[index]),
                                     static_cast<std::size_t>(offsets[index + 1] - offsets[index]));
  }
};

/// A rectangle of pixels; x2 and y2 are exclusive.
struct PixelBox {
  std::int64_t x1, y1, x2, y2;
};

/// Objects with masks as crops. No mask of the image's size is ever stored. A copy shares the crops.
struct CroppedDetections : Objects {
  std::vector<PixelBox> crops;  ///< one per mask, a little larger than its box; the mask is empty outside
  std::vector<std::int64_t> offsets;  ///< [size() + 1]: where each crop's pixels begin; the last value is their end
  std::shared_ptr<const std::uint8_t> pixels;  ///< of all crops in turn: 1 inside an object and 0 elsewhere

  /// The pixels of the crop of object `index` < size(), row by row.
  std::span<const std::uint8_t> crop(std::size_t index) const {
    return {pixels.get() + offsets[index], static_cast<std::size_t>(offsets[index + 1] - offsets[index])};
  }
};

}  // namespace yolact
