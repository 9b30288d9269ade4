// Decodes PNG files with libpng. libpng reports errors by longjmp, which skips destructors. So the functions that call
// setjmp have no local objects with a destructor: their caller owns everything that must be cleaned up.
#include <png.h>

#include <algorithm>
#include <bit>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <yolact/error.h>

#include "decoders.h"
#include "orientation.h"

namespace yolact {
namespace {

// The EXIF block that ImageMagick writes as text: an empty line, a line with a name, a line with the length, and lines
// of hexadecimal digits.
std::vector<std::uint8_t> from_raw_profile(std::string_view text) {
  for (int line = 0; line < 3; ++line) {
    const auto end = text.find('\n');
    text = end == std::string_view::npos ? "" : text.substr(end + 1);
  }
  std::vector<std::uint8_t> bytes;
  int pending = -1;
  for (const char c : text) {
    const auto value = static_cast<int>(std::string_view("0123456789abcdef").find(static_cast<char>(c | 0x20)));
    if (value < 0) continue;
    if (pending < 0) {
      pending = value;
    } else {
      bytes.push_back(static_cast<std::uint8_t>(pending << 4 | value));
      pending = -1;
    }
  }
  return bytes;
}

Bytes without_name(Bytes exif) {
  return exif.size() >= 6 && std::memcmp(exif.data(), "Exif\0\0", 6) == 0 ? exif.subspan(6) : exif;
}

// The rounding is Python's.
void scale(const std::uint16_t* values, std::size_t count, std::uint8_t* scaled) {
  std::uint32_t most = 1;
  for (std::size_t i = 0; i < count; ++i) most = std::max<std::uint32_t>(most, values[i]);
  for (std::size_t i = 0; i < count; ++i) scaled[i] = static_cast<std::uint8_t>((values[i] * 255u + most / 2) / most);
}

class PngDecoder {
 public:
  PngDecoder(Bytes file, const Reading& reading) : rest_(file), reading_(reading) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, [](png_structp, png_const_charp) {});
    info_ = png_ ? png_create_info_struct(png_) : nullptr;
    if (!info_) {
      png_destroy_read_struct(&png_, nullptr, nullptr);
      throw std::bad_alloc();
    }
    png_set_read_fn(png_, this, on_read);
    png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // make_image checks the size
  }
  ~PngDecoder() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;

  Image decode() {
    if (!read_header()) throw Error(reason_);
    Image image = make_image(png_get_image_height(png_, info_), png_get_image_width(png_, info_));
    image.sixteen_bit = sixteen_bit_;
    if (scales()) {
      const auto count = static_cast<std::size_t>(image.height * image.width * 3);
      const auto values = std::make_unique_for_overwrite<std::uint16_t[]>(count);
      if (!read_pixels(reinterpret_cast<std::uint8_t*>(values.get()))) throw Error(reason_);
      scale(values.get(), count, image.pixels.get());
    } else if (!read_pixels(image.pixels.get())) {
      throw Error(reason_);
    }
    read_end();
    return upright(std::move(image), reading_.ignore_exif ? 1 : orientation());
  }

 private:
  [[noreturn]] static void on_error(png_structp png, png_const_charp message) {
    auto* decoder = static_cast<PngDecoder*>(png_get_error_ptr(png));
    std::snprintf(decoder->reason_, sizeof decoder->reason_, "the image is broken: %s", message);
    std::longjmp(decoder->jump_, 1);
  }

  static void on_read(png_structp png, png_bytep target, std::size_t count) {
    auto* decoder = static_cast<PngDecoder*>(png_get_io_ptr(png));
    if (count > decoder->rest_.size()) png_error(png, "the file is truncated");
    std::memcpy(target, decoder->rest_.data(), count);
    decoder->rest_ = decoder->rest_.subspan(count);
  }

  bool scales() const { return sixteen_bit_ && reading_.sixteen_bit == SixteenBit::scale; }

  bool read_header() {
    if (setjmp(jump_)) return false;
    png_read_info(png_, info_);
    sixteen_bit_ = png_get_bit_depth(png_, info_) == 16;
    png_set_palette_to_rgb(png_);
    png_set_expand_gray_1_2_4_to_8(png_);
    if (!scales()) {
      png_set_strip_16(png_);
    } else if (std::endian::native == std::endian::little) {
      png_set_swap(png_);
    }
    png_set_strip_alpha(png_);
    png_set_gray_to_rgb(png_);
    passes_ = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    const std::size_t pixel = scales() ? 6 : 3;
    if (png_get_rowbytes(png_, info_) != pixel * png_get_image_width(png_, info_)) {
      png_error(png_, "the format of its pixels is not known");
    }
    return true;
  }

  bool read_pixels(std::uint8_t* pixels) {
    if (setjmp(jump_)) return false;
    const std::size_t row_size = png_get_rowbytes(png_, info_);
    for (int pass = 0; pass < passes_; ++pass) {
      for (png_uint_32 y = 0; y < png_get_image_height(png_, info_); ++y) {
        png_read_row(png_, pixels + y * row_size, nullptr);
      }
    }
    return true;
  }

  // The orientation may follow the pixels. Errors are ignored here, because nothing else can be lost after the pixels.
  void read_end() {
    if (setjmp(jump_)) return;
    png_read_end(png_, info_);
  }

  int orientation() {
    if (const auto from_exif = orientation_in_exif()) return *from_exif;
    png_textp texts = nullptr;
    const int count = png_get_text(png_, info_, &texts, nullptr);
    for (int i = 0; i < count; ++i) {
      if (std::strcmp(texts[i].key, "XML:com.adobe.xmp") == 0) return xmp_orientation(texts[i].text).value_or(1);
    }
    return 1;
  }

  std::optional<int> orientation_in_exif() {
    png_bytep exif = nullptr;
    png_uint_32 size = 0;
    if (png_get_eXIf_1(png_, info_, &size, &exif)) return exif_orientation(without_name({exif, size}));
    png_textp texts = nullptr;
    const int count = png_get_text(png_, info_, &texts, nullptr);
    for (int i = 0; i < count; ++i) {
      if (std::strcmp(texts[i].key, "Raw profile type exif") != 0) continue;
      return exif_orientation(without_name(from_raw_profile(texts[i].text)));
    }
    return std::nullopt;
  }

  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  Bytes rest_;
  const Reading& reading_;
  bool sixteen_bit_ = false;
  int passes_ = 1;
  std::jmp_buf jump_{};
  char reason_[160]{};
};

}  // namespace

bool is_png(Bytes file) { return file.size() >= 8 && png_sig_cmp(file.data(), 0, 8) == 0; }

Image decode_png(Bytes file, const Reading& reading) { return PngDecoder(file, reading).decode(); }

}  // namespace yolact
