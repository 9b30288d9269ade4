// Decodes JPEG files with libjpeg. libjpeg reports errors by longjmp, which skips destructors. So the functions that
// call setjmp have no local objects with a destructor: their caller owns everything that must be cleaned up.
#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <jpeglib.h>

#include <yolact/error.h>

#include "decoders.h"
#include "orientation.h"

namespace yolact {
namespace {

constexpr const char* truncated = "the image is broken: the file is truncated";

class JpegDecoder {
 public:
  explicit JpegDecoder(Bytes file) {
    info_.err = jpeg_std_error(&errors_);
    errors_.error_exit = [](j_common_ptr info) {
      auto* decoder = static_cast<JpegDecoder*>(info->client_data);
      info->err->format_message(info, decoder->message_);
      std::longjmp(decoder->jump_, 1);
    };
    errors_.output_message = [](j_common_ptr) {};
    info_.client_data = this;
    source_.next_input_byte = file.data();
    source_.bytes_in_buffer = file.size();
    source_.init_source = source_.term_source = [](j_decompress_ptr) {};
    // The whole file is in memory, so if libjpeg asks for more, the file is truncated. FALSE makes libjpeg stop.
    source_.fill_input_buffer = [](j_decompress_ptr) -> boolean { return FALSE; };
    source_.skip_input_data = [](j_decompress_ptr info, long count) {
      const auto skipped = std::min(static_cast<std::size_t>(std::max(count, 0L)), info->src->bytes_in_buffer);
      info->src->next_input_byte += skipped;
      info->src->bytes_in_buffer -= skipped;
    };
    source_.resync_to_restart = jpeg_resync_to_restart;
  }
  ~JpegDecoder() { jpeg_destroy_decompress(&info_); }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  Image decode(const Reading& reading) {
    const char* failure = read_header();
    if (failure) throw Error(failure);
    Image image = make_image(info_.image_height, info_.image_width);
    std::vector<std::uint8_t> cmyk(info_.num_components == 4 ? std::size_t{4} * info_.image_width : 0);
    const int exif_number = reading.ignore_exif ? 1 : orientation();
    failure = read_pixels(image.pixels.get(), cmyk.data());
    if (failure) throw Error(failure);
    return upright(std::move(image), exif_number);
  }

 private:
  // These two return the reason for a failure, or null.
  const char* read_header() {
    if (setjmp(jump_)) return broken();
    jpeg_create_decompress(&info_);
    info_.src = &source_;
    jpeg_save_markers(&info_, JPEG_APP0 + 1, 0xFFFF);
    if (jpeg_read_header(&info_, TRUE) != JPEG_HEADER_OK) return truncated;
    switch (info_.num_components) {
      case 1:
      case 3: info_.out_color_space = JCS_RGB; return nullptr;
      case 4: info_.out_color_space = JCS_CMYK; return nullptr;
      default: return "the image is broken: a JPEG image has 1, 3 or 4 channels";
    }
  }

  const char* read_pixels(std::uint8_t* pixels, std::uint8_t* cmyk) {
    if (setjmp(jump_)) return broken();
    if (!jpeg_start_decompress(&info_)) return truncated;
    while (info_.output_scanline < info_.output_height) {
      std::uint8_t* target = pixels + std::size_t{3} * info_.output_width * info_.output_scanline;
      JSAMPROW row = info_.num_components == 4 ? cmyk : target;
      if (jpeg_read_scanlines(&info_, &row, 1) != 1) return truncated;
      if (info_.num_components == 4) to_rgb(cmyk, info_.output_width, target);
    }
    jpeg_finish_decompress(&info_);  // fails for garbage after the pixels; a missing end of the file loses nothing
    return nullptr;
  }

  // The CMYK values are inverted, as Adobe's programs write them. The rounding is Pillow's.
  static void to_rgb(const std::uint8_t* cmyk, std::size_t width, std::uint8_t* rgb) {
    for (std::size_t x = 0; x < width; ++x, cmyk += 4) {
      const int light = cmyk[3];
      for (int channel = 0; channel < 3; ++channel) {
        const int product = (255 - cmyk[channel]) * light + 128;
        *rgb++ = static_cast<std::uint8_t>(light - (((product >> 8) + product) >> 8));
      }
    }
  }

  // Call this after read_header and before read_pixels, in which libjpeg frees the markers.
  int orientation() const {
    constexpr std::string_view exif_name("Exif\0\0", 6), xmp_name("http://ns.adobe.com/xap/1.0/\0", 29);
    std::vector<std::uint8_t> exif;  // joined, since a long block spans several markers
    std::string_view xmp;
    for (const jpeg_marker_struct* marker = info_.marker_list; marker; marker = marker->next) {
      const std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
      if (data.starts_with(exif_name)) exif.insert(exif.end(), data.begin() + exif_name.size(), data.end());
      if (data.starts_with(xmp_name)) xmp = data.substr(xmp_name.size());
    }
    if (const auto from_exif = exif_orientation(exif)) return *from_exif;
    return xmp_orientation(xmp).value_or(1);
  }

  const char* broken() {
    std::snprintf(reason_, sizeof reason_, "the image is broken: %s", message_);
    return reason_;
  }

  jpeg_decompress_struct info_{};
  jpeg_error_mgr errors_{};
  jpeg_source_mgr source_{};
  std::jmp_buf jump_{};
  char message_[JMSG_LENGTH_MAX]{};
  char reason_[JMSG_LENGTH_MAX + 32]{};
};

}  // namespace

bool is_jpeg(Bytes file) { return file.size() >= 3 && file[0] == 0xFF && file[1] == 0xD8 && file[2] == 0xFF; }

Image decode_jpeg(Bytes file, const Reading& reading) { return JpegDecoder(file).decode(reading); }

}  // namespace yolact
