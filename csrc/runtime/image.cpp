#include <yolact/image.h>

#include <png.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include <yolact/error.h>
#include <yolact/files.h>

#include "decoders.h"

namespace yolact {
namespace {

constexpr std::int64_t most_pixels = 178'956'970;  // Pillow's limit, so that C++ and Python refuse the same files

std::vector<std::uint8_t> read_file(const std::filesystem::path& path) {
  std::error_code ignored;
  const auto status = std::filesystem::status(path, ignored);
  if (!std::filesystem::exists(status)) throw Error("there is no such file");
  if (std::filesystem::is_directory(status)) throw Error("this is a folder, not an image");
  if (!std::filesystem::is_regular_file(status)) throw Error("this is not a regular file");
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw Error(std::string("the file cannot be opened: ") + std::strerror(errno));
  constexpr std::streamsize signature_size = 8;
  std::vector<std::uint8_t> bytes(signature_size);
  stream.read(reinterpret_cast<char*>(bytes.data()), signature_size);
  bytes.resize(static_cast<std::size_t>(stream.gcount()));
  if (bytes.empty()) throw Error("the file is empty");
  if (!is_jpeg(bytes) && !is_png(bytes)) throw Error("this is not a JPEG or PNG image");
  const auto size = std::max<std::uintmax_t>(std::filesystem::file_size(path), signature_size);
  bytes.resize(size);
  stream.read(reinterpret_cast<char*>(bytes.data()) + signature_size,
              static_cast<std::streamsize>(size - signature_size));
  bytes.resize(signature_size + static_cast<std::size_t>(stream.gcount()));
  return bytes;
}

}  // namespace

std::int64_t channels(ChannelOrder order) {
  switch (order) {
    case ChannelOrder::rgb:
    case ChannelOrder::bgr: return 3;
    case ChannelOrder::rgba:
    case ChannelOrder::bgra: return 4;
    case ChannelOrder::gray: return 1;
  }
  throw Error("the channel order is not a value of ChannelOrder");
}

void check(const ImageView& view) {
  if (view.height <= 0 || view.width <= 0) {
    throw Error("an image must have pixels, got height " + std::to_string(view.height) + " and width " +
                std::to_string(view.width));
  }
  if (view.data == nullptr) throw Error("an image's data must not be null");
  // A product could overflow: the caller may pass any width.
  if (view.row_stride / channels(view.order) < view.width) {
    throw Error("an image's row stride must be at least width * channels bytes, got " +
                std::to_string(view.row_stride) + " for " + std::to_string(view.width) + " pixels of " +
                std::to_string(channels(view.order)) + " channels");
  }
}

Image make_image(std::int64_t height, std::int64_t width) {
  if (height <= 0 || width <= 0) throw Error("the image is broken: it has no pixels");
  if (height > most_pixels / width) {
    throw Error("the image is too large: " + std::to_string(width) + " x " + std::to_string(height) +
                " pixels, but the limit is " + std::to_string(most_pixels) + " pixels");
  }
  // The pixels stay uninitialised, so that a small broken file that claims a large image takes up no memory.
  return {height, width, std::make_unique_for_overwrite<std::uint8_t[]>(static_cast<std::size_t>(height * width * 3))};
}

Image read_image(const std::filesystem::path& path, const Reading& reading) {
  try {
    const std::vector<std::uint8_t> file = read_file(path);
    return is_jpeg(file) ? decode_jpeg(file, reading) : decode_png(file, reading);
  } catch (const Error& error) {
    throw Error(path.string() + ": " + error.what());
  } catch (const std::bad_alloc&) {
    throw Error(path.string() + ": there is not enough memory for this image");
  }
}

void write_png(const std::filesystem::path& path, const Image& image) {
  check(image.view());
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(image.width);
  png.height = static_cast<png_uint_32>(image.height);
  png.format = PNG_FORMAT_RGB;
  // The pages of this buffer that the encoder does not write to take no memory.
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png);
  const auto file = std::make_unique_for_overwrite<char[]>(size);
  if (!png_image_write_to_memory(&png, file.get(), &size, 0, image.pixels.get(), 0, nullptr)) {
    throw Error(path.string() + ": the picture cannot be encoded: " + png.message);
  }
  write_file(path, {file.get(), size});
}

}  // namespace yolact
