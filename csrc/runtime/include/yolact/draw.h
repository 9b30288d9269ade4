#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include <yolact/detections.h>
#include <yolact/export.h>
#include <yolact/image.h>

namespace yolact {

/// The RGB colour of a class, always the same and far from its neighbours'; Python's `class_color` is equal.
YOLACT_API std::array<std::uint8_t, 3> class_color(std::int64_t label);

/// Draws masks, boxes, class names and scores onto the image they are of, the best detection on top.
///
/// `class_names` has one name a label. Throws `Error` if the detections are of an image of another size.
YOLACT_API void draw(Image& image, const Detections& detections, const std::vector<std::string>& class_names);

}  // namespace yolact
