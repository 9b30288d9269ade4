// Finds out how a photograph must be turned to stand upright, and turns it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include <yolact/image.h>

namespace yolact {

// The orientation tag of an EXIF block, or nothing if it has none. The block begins with its TIFF header.
std::optional<int> exif_orientation(std::span<const std::uint8_t> exif);

// The tiff:Orientation of an XMP packet, or nothing if it has none.
std::optional<int> xmp_orientation(std::string_view xmp);

// Turns and mirrors the image as EXIF orientation 2–8 says. Any other number leaves it as it is.
Image upright(Image image, int orientation);

}  // namespace yolact
