#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace yolact {

/// A box in pixels, from its top left to its bottom right corner, within the image.
struct Box {
  float x1, y1, x2, y2;
};

/// The objects found in one image, by falling `scores`; what the types below have in common.
struct Objects {
  std::int64_t height = 0;  ///< of the image
  std::int64_t width = 0;
  std::vector<Box> boxes;
  std::vector<float> scores;         ///< 0–1: of each class and its box
  std::vector<std::int64_t> labels;  ///< indices into the model's class names

  /// Not negative: of each mask. With YOLACT++ a score times the IoU that the mask is thought to have with the object,
  /// with every other network `scores`; if empty, the masks have these.
  std::vector<float> mask_scores = {};

  float mask_score(std::size_t index) const { return mask_scores.empty() ? scores[index] : mask_scores[index]; }

  std::size_t size() const { return labels.size(); }
};

/// With their masks at the size of the image. A copy shares the masks.
struct Detections : Objects {
  std::shared_ptr<const std::uint8_t> masks;  ///< [size(), height, width], 1 inside an object and 0 elsewhere

  /// The mask of detection `index` < size(): height · width bytes, row by row.
  std::span<const std::uint8_t> mask(std::size_t index) const {
    const auto pixels = static_cast<std::size_t>(height * width);
    return {masks.get() + index * pixels, pixels};
  }
};

/// With their masks as COCO's run lengths, for which no canvas is needed.
struct EncodedDetections : Objects {
  std::vector<std::int64_t> counts;   ///< the runs of all masks
  std::vector<std::int64_t> offsets;  ///< [size() + 1]: where each mask's runs begin and the last one's end

  /// The mask of detection `index` < size(): numbers of pixels, down the columns from the left one to the right,
  /// alternately outside and inside, beginning with those outside, of which there may be 0.
  std::span<const std::int64_t> runs(std::size_t index) const {
    return std::span(counts).subspan(static_cast<std::size_t>(offsets[index]),
                                     static_cast<std::size_t>(offsets[index + 1] - offsets[index]));
  }
};

/// A rectangle of pixels; x2 and y2 are exclusive.
struct PixelBox {
  std::int64_t x1, y1, x2, y2;
};

/// With their masks as crops, for which no canvas is needed. A copy shares the crops.
struct CroppedDetections : Objects {
  std::vector<PixelBox> crops;        ///< each a little larger than the box; outside it the mask is empty
  std::vector<std::int64_t> offsets;  ///< [size() + 1]: where each crop's pixels begin and the last one's end
  std::shared_ptr<const std::uint8_t> pixels;  ///< of all crops, 1 inside an object and 0 elsewhere

  /// The crop of detection `index` < size(), row by row.
  std::span<const std::uint8_t> crop(std::size_t index) const {
    return {pixels.get() + offsets[index], static_cast<std::size_t>(offsets[index + 1] - offsets[index])};
  }
};

}  // namespace yolact
