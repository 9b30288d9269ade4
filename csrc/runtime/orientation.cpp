#include "orientation.h"

#include <cstring>
#include <utility>

#include "decoders.h"

namespace yolact {
namespace {

// Reads unsigned integers in the byte order of the block. Integers beyond its end read as 0.
class TiffReader {
 public:
  explicit TiffReader(std::span<const std::uint8_t> data) : data_(data), little_(!data.empty() && data[0] == 'I') {}

  std::uint32_t read(std::size_t offset, std::size_t size) const {
    if (!holds(offset, size)) return 0;
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < size; ++i) value = value << 8 | data_[offset + (little_ ? size - 1 - i : i)];
    return value;
  }

  bool holds(std::size_t offset, std::size_t size) const {
    return offset <= data_.size() && data_.size() - offset >= size;
  }

  bool is_tiff() const {
    return holds(0, 8) && (data_[0] == 'I' || data_[0] == 'M') && data_[0] == data_[1] && read(2, 2) == 42;
  }

 private:
  std::span<const std::uint8_t> data_;
  bool little_;
};

}  // namespace

std::optional<int> exif_orientation(std::span<const std::uint8_t> exif) {
  constexpr std::uint32_t orientation_tag = 0x0112, short_type = 3, long_type = 4;
  constexpr std::size_t entry_size = 12;
  const TiffReader tiff(exif);
  if (!tiff.is_tiff()) return std::nullopt;
  const std::size_t directory = tiff.read(4, 4);
  const std::size_t entries = tiff.read(directory, 2);
  std::optional<int> orientation;
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + i * entry_size;
    if (!tiff.holds(entry, entry_size)) break;
    const std::uint32_t type = tiff.read(entry + 2, 2), count = tiff.read(entry + 4, 4);
    if (tiff.read(entry, 2) != orientation_tag || count != 1) continue;
    if (type == short_type || type == long_type) {
      orientation = static_cast<int>(tiff.read(entry + 8, type == short_type ? 2 : 4));
    }
  }
  return orientation;
}

std::optional<int> xmp_orientation(std::string_view xmp) {
  constexpr std::string_view name = "tiff:Orientation";
  for (auto at = xmp.find(name); at != std::string_view::npos; at = xmp.find(name, at + 1)) {
    std::string_view rest = xmp.substr(at + name.size());
    if (rest.starts_with("=\"")) {
      rest.remove_prefix(2);
    } else if (rest.starts_with(">")) {
      rest.remove_prefix(1);
    } else {
      continue;
    }
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return rest[0] - '0';
  }
  return std::nullopt;
}

Image upright(Image image, int orientation) {
  if (orientation < 2 || orientation > 8) return image;
  const bool swapped = orientation >= 5;
  // Whether columns and rows run backwards, after they are swapped.
  const bool backwards_x = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
  const bool backwards_y = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
  Image turned = make_image(swapped ? image.width : image.height, swapped ? image.height : image.width);
  turned.sixteen_bit = image.sixteen_bit;
  for (std::int64_t y = 0; y < turned.height; ++y) {
    for (std::int64_t x = 0; x < turned.width; ++x) {
      const std::int64_t across = backwards_x ? turned.width - 1 - x : x;
      const std::int64_t down = backwards_y ? turned.height - 1 - y : y;
      const std::int64_t row = swapped ? across : down, column = swapped ? down : across;
      std::memcpy(&turned.pixels[(y * turned.width + x) * 3], &image.pixels[(row * image.width + column) * 3], 3);
    }
  }
  return turned;
}

}  // namespace yolact
