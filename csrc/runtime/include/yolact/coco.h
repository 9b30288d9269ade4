#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <yolact/detections.h>
#include <yolact/export.h>

namespace yolact {

/// The run lengths of a mask, in the form of `EncodedDetections::runs`.
///
/// `mask` holds height · width bytes, row by row. A byte other than 0 is inside the object.
YOLACT_API std::vector<std::int64_t> run_lengths(std::span<const std::uint8_t> mask, std::int64_t height,
                                                 std::int64_t width);

/// Encodes run lengths as the `counts` text of COCO's compressed run-length encoding.
YOLACT_API std::string encode_runs(std::span<const std::int64_t> runs);

/// Encodes a mask in the same way: `encode_runs` of its `run_lengths`.
YOLACT_API std::string encode_mask(std::span<const std::uint8_t> mask, std::int64_t height, std::int64_t width);

/// Detections in COCO's results format, which pycocotools' `loadRes` reads.
///
/// Besides COCO's keys, every entry has `image`, the image's name, and `category_name`. `category_id` is the label + 1.
/// COCO allows one `score`, by which it ranks masks: this is the mask's score. `box_score` is the box's score. U+FFFD
/// takes the place of bytes in a name that are not UTF-8.
class YOLACT_API CocoResults {
 public:
  /// Adds the detections of one image. `class_names` holds the name of each label.
  void add(std::string_view image, std::int64_t image_id, const Detections& detections,
           const std::vector<std::string>& class_names);
  void add(std::string_view image, std::int64_t image_id, const EncodedDetections& detections,
           const std::vector<std::string>& class_names);

  /// Everything added so far as a JSON array.
  std::string json() const;

 private:
  void append(const std::string& entries);

  std::string entries_;
};

}  // namespace yolact
