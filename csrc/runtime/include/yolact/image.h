#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include <yolact/export.h>

namespace yolact {

enum class ChannelOrder { rgb, bgr, rgba, bgra, gray };

/// Bytes that a pixel takes; an alpha channel is ignored.
YOLACT_API std::int64_t channels(ChannelOrder order);

/// Pixels of 8-bit channels that somebody else owns, from the top left, row by row.
struct ImageView {
  const std::uint8_t* data = nullptr;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t row_stride = 0;  ///< bytes from one row to the next, at least width · channels(order)
  ChannelOrder order = ChannelOrder::rgb;
};

/// Throws `Error` if the view has no pixels, no data, or a stride shorter than a row.
YOLACT_API void check(const ImageView& view);

/// An RGB image, its rows one after the other without a gap.
struct Image {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::unique_ptr<std::uint8_t[]> pixels;  ///< height · width · 3 bytes

  ImageView view() const { return {pixels.get(), height, width, width * 3, ChannelOrder::rgb}; }
};

/// The JPEG or PNG file as RGB, upright as its EXIF orientation says, to the very values that `yolact.data` reads.
///
/// Grey is replicated, palettes are looked up, transparency is dropped, 16-bit samples keep their high byte and CMYK is
/// converted without a colour profile. Throws `Error` if the file is missing, empty, broken, truncated, of more than
/// 178 956 970 pixels or of another format.
YOLACT_API Image read_image(const std::filesystem::path& path);

/// Writes a PNG file. Throws `Error` if that fails.
YOLACT_API void write_png(const std::filesystem::path& path, const Image& image);

}  // namespace yolact
