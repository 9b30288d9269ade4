// The decoders behind read_image. They throw Error with only a reason; read_image adds the file's name.
#pragma once

#include <cstdint>
#include <span>

#include <yolact/image.h>

namespace yolact {

using Bytes = std::span<const std::uint8_t>;

bool is_jpeg(Bytes file);
Image decode_jpeg(Bytes file, const Reading& reading);

bool is_png(Bytes file);
Image decode_png(Bytes file, const Reading& reading);

// An uninitialised image to decode into. Throws Error if it would be too large or have no pixels.
Image make_image(std::int64_t height, std::int64_t width);

}  // namespace yolact
