#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <yolact/detections.h>
#include <yolact/export.h>

namespace yolact {

/// The run lengths of a mask of height · width bytes, row by row, as `EncodedDetections` has them; a byte other than 0 is
/// inside.
YOLACT_API std::vector<std::int64_t> run_lengths(std::span<const std::uint8_t> mask, std::int64_t height,
                                                 std::int64_t width);

/// Run lengths as the counts of COCO's compressed run-length encoding.
YOLACT_API std::string encode_runs(std::span<const std::int64_t> runs);

/// The same of a mask.
YOLACT_API std::string encode_mask(std::span<const std::uint8_t> mask, std::int64_t height, std::int64_t width);

/// Detections in COCO's results format, which pycocotools' `loadRes` reads.
///
/// Beside COCO's keys every entry has the `image` it is of and a `category_name`; `category_id` is the label + 1.
/// COCO has one score, by which it ranks the masks: that is the mask's; the box's is `box_score`.
class YOLACT_API CocoResults {
 public:
  /// Adds one image's detections. `class_names` has one name a label.
  void add(std::string_view image, std::int64_t image_id, const Detections& detections,
           const std::vector<std::string>& class_names);
  void add(std::string_view image, std::int64_t image_id, const EncodedDetections& detections,
           const std::vector<std::string>& class_names);

  /// Everything added so far as a JSON array.
  std::string json() const;

 private:
  void add(std::string_view image, std::int64_t image_id, const Objects& objects, std::size_t index,
           const std::vector<std::string>& class_names, const std::string& counts);

  std::string entries_;
};

}  // namespace yolact
