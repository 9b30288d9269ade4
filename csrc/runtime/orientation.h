// How a photograph is to be turned to stand upright.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include <yolact/image.h>

namespace yolact {

// The orientation tag of an EXIF block, which begins with its TIFF header; nothing if there is none.
std::optional<int> exif_orientation(std::span<const std::uint8_t> exif);

// tiff:Orientation of an XMP packet; nothing if there is none.
std::optional<int> xmp_orientation(std::string_view xmp);

// The image turned and mirrored as EXIF orientation 2–8 says; any other number leaves it as it is.
Image upright(Image image, int orientation);

}  // namespace yolact
