#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include <yolact/export.h>

namespace yolact {

enum class ChannelOrder { rgb, bgr, rgba, bgra, gray };

/// The number of bytes in a pixel. An alpha channel counts, although its values are ignored.
YOLACT_API std::int64_t channels(ChannelOrder order);

/// An image with 8-bit channels that the caller owns. Rows go from top to bottom, pixels from left to right.
struct ImageView {
  const std::uint8_t* data = nullptr;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t row_stride = 0;  ///< bytes from one row to the next, at least width · channels(order)
  ChannelOrder order = ChannelOrder::rgb;
};

/// Throws `Error` if the view has no pixels, no data, or a stride shorter than a row.
YOLACT_API void check(const ImageView& view);

/// An RGB image that owns its pixels. There is no gap between rows.
struct Image {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::unique_ptr<std::uint8_t[]> pixels;  ///< height · width · 3 bytes
  bool sixteen_bit = false;                ///< whether the file that it was read from has samples of 16 bits

  ImageView view() const { return {pixels.get(), height, width, width * 3, ChannelOrder::rgb}; }
};

/// What becomes of samples of 16 bits: the high byte is kept, or the image's largest value becomes 255. The second is
/// meant for data of 10, 12 or 14 bits in a 16-bit file, whose high bytes are almost black.
enum class SixteenBit { high, scale };

/// How a file becomes pixels.
struct Reading {
  bool ignore_exif = false;  ///< leave the pixels as they are stored
  SixteenBit sixteen_bit = SixteenBit::high;
};

/// Reads a JPEG or PNG file as RGB and turns it upright by its EXIF orientation. `yolact.read_image` in Python reads
/// the same values.
///
/// Grey is replicated, palettes are looked up, transparency is dropped and CMYK is converted without a colour profile.
/// Throws `Error` if the file is missing, empty, broken or truncated, if it has another format, or if the image has
/// more than 178 956 970 pixels.
YOLACT_API Image read_image(const std::filesystem::path& path, const Reading& reading = {});

/// Writes a PNG file with `write_file`. Throws `Error` if that fails.
YOLACT_API void write_png(const std::filesystem::path& path, const Image& image);

}  // namespace yolact
