// Pictures for tests.
#pragma once

#include <png.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

inline std::string text_of(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

// The JPEG file with an EXIF block that holds only an orientation.
inline std::string with_orientation(const std::string& jpeg, char orientation) {
  const std::string exif = std::string("Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0", 25) + orientation +
                           std::string(6, '\0');
  const std::string size = {'\0', static_cast<char>(exif.size() + 2)};
  return jpeg.substr(0, 2) + "\xff\xe1" + size + exif + jpeg.substr(2);
}

// Writes a grey PNG file with one row of 16-bit samples.
inline void write_sixteen_bit(const std::filesystem::path& path, const std::vector<std::uint16_t>& samples) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(samples.size());
  png.height = 1;
  png.format = PNG_FORMAT_LINEAR_Y;
  png_image_write_to_file(&png, path.c_str(), 0, samples.data(), 0, nullptr);
}
