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

/// The objects found in one image, by falling `scores`. A copy shares the masks.
struct Detections {
  std::int64_t height = 0;  ///< of the image
  std::int64_t width = 0;
  std::vector<Box> boxes;
  std::vector<float> scores;         ///< 0–1: of each class and its box
  std::vector<std::int64_t> labels;  ///< indices into the model's class names
  std::shared_ptr<const std::uint8_t> masks;  ///< [size(), height, width], 1 inside an object and 0 elsewhere

  /// Not negative: of each mask. With YOLACT++ a score times the IoU that the mask is thought to have with the object,
  /// with every other network `scores`; if empty, the masks have these.
  std::vector<float> mask_scores = {};

  float mask_score(std::size_t index) const { return mask_scores.empty() ? scores[index] : mask_scores[index]; }

  std::size_t size() const { return labels.size(); }

  /// The mask of detection `index` < size(): height · width bytes, row by row.
  std::span<const std::uint8_t> mask(std::size_t index) const {
    const auto pixels = static_cast<std::size_t>(height * width);
    return {masks.get() + index * pixels, pixels};
  }
};

}  // namespace yolact
