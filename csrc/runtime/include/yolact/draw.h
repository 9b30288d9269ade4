#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include <yolact/detections.h>
#include <yolact/export.h>
#include <yolact/image.h>

namespace yolact {

/// The RGB colour of a class. It never changes and differs clearly from the colours of the labels next to it. Python's
/// `yolact.class_color` gives the same colours.
YOLACT_API std::array<std::uint8_t, 3> class_color(std::int64_t label);

/// Draws the detections of an image onto it: masks, boxes, class names and scores. The best detection is on top.
///
/// `class_names` holds the name of each label, in UTF-8. Throws `Error` if the detections belong to an image of another
/// size.
YOLACT_API void draw(Image& image, const Detections& detections, const std::vector<std::string>& class_names);

}  // namespace yolact
