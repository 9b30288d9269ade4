// Tests of reading images that need no other decoder. pytest compares the values with Pillow's.
#include <yolact/image.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <fstream>
#include <string>

#include "check.h"
#include "pictures.h"

namespace {

std::filesystem::path written(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

std::array<int, 3> pixel(const yolact::Image& image, std::int64_t y, std::int64_t x) {
  const std::uint8_t* values = &image.pixels[(y * image.width + x) * 3];
  return {values[0], values[1], values[2]};
}

void test_round_trip(const TemporaryFolder& folder) {
  yolact::Image image{3, 5, std::make_unique<std::uint8_t[]>(3 * 5 * 3)};
  for (int i = 0; i < 3 * 5 * 3; ++i) image.pixels[i] = static_cast<std::uint8_t>(i * 5);
  yolact::write_png(folder / "small.png", image);
  const yolact::Image read = yolact::read_image(folder / "small.png");
  CHECK(read.height == 3 && read.width == 5);
  CHECK(std::equal(read.pixels.get(), read.pixels.get() + 3 * 5 * 3, image.pixels.get()));
  CHECK_ERROR(yolact::write_png(folder / "no-folder/small.png", image),
              "no-folder/small.png: cannot be written: the folder");
}

void test_orientations(const TemporaryFolder& folder, const std::string& jpeg) {
  const yolact::Image plain = yolact::read_image(written(folder / "plain.jpg", jpeg));
  const std::int64_t bottom = plain.height - 1, right = plain.width - 1;
  // The places in the file of the upright picture's top left pixel and of the pixel to its right.
  const std::int64_t corners[9][4] = {{},
                                      {0, 0, 0, 1},
                                      {0, right, 0, right - 1},
                                      {bottom, right, bottom, right - 1},
                                      {bottom, 0, bottom, 1},
                                      {0, 0, 1, 0},
                                      {bottom, 0, bottom - 1, 0},
                                      {bottom, right, bottom - 1, right},
                                      {0, right, 1, right}};
  for (char orientation = 1; orientation <= 8; ++orientation) {
    const auto path = written(folder / "turned.jpg", with_orientation(jpeg, orientation));
    const yolact::Image turned = yolact::read_image(path);
    const auto& [y0, x0, y1, x1] = corners[static_cast<int>(orientation)];
    CHECK(turned.height == (orientation < 5 ? plain.height : plain.width));
    CHECK(pixel(turned, 0, 0) == pixel(plain, y0, x0));
    CHECK(pixel(turned, 0, 1) == pixel(plain, y1, x1));
    const yolact::Image stored = yolact::read_image(path, {.ignore_exif = true});
    CHECK(stored.height == plain.height && pixel(stored, 0, 0) == pixel(plain, 0, 0));
  }
  CHECK(yolact::read_image(written(folder / "turned.jpg", with_orientation(jpeg, 9))).height == plain.height);
}

void test_sixteen_bits(const TemporaryFolder& folder) {
  write_sixteen_bit(folder / "deep.png", {0, 8, 9, 0xabc, 0xfff});
  const yolact::Image high = yolact::read_image(folder / "deep.png");
  const yolact::Image scaled = yolact::read_image(folder / "deep.png", {.sixteen_bit = yolact::SixteenBit::scale});
  CHECK(high.sixteen_bit && scaled.sixteen_bit && !yolact::read_image(folder / "small.png").sixteen_bit);
  const int expected[5][2] = {{0, 0}, {0, 0}, {0, 1}, {0xa, 171}, {0xf, 255}};
  for (int x = 0; x < 5; ++x) {
    CHECK((pixel(high, 0, x) == std::array{expected[x][0], expected[x][0], expected[x][0]}));
    CHECK((pixel(scaled, 0, x) == std::array{expected[x][1], expected[x][1], expected[x][1]}));
  }
}

void test_bad_files(const TemporaryFolder& folder, const std::string& jpeg) {
  const std::string png = text_of(folder / "small.png");
  CHECK_ERROR(yolact::read_image(folder / "missing.jpg"), "missing.jpg: there is no such file");
  CHECK_ERROR(yolact::read_image(folder.path()), "this is a folder, not an image");
  CHECK_ERROR(yolact::read_image("/dev/null"), "this is not a regular file");
  CHECK_ERROR(yolact::read_image(written(folder / "empty.png", "")), "empty.png: the file is empty");
  CHECK_ERROR(yolact::read_image(written(folder / "text.png", "just text")), "this is not a JPEG or PNG image");
  CHECK_ERROR(yolact::read_image(written(folder / "a.jpg", jpeg.substr(0, jpeg.size() / 2))), "the file is truncated");
  CHECK_ERROR(yolact::read_image(written(folder / "a.jpg", jpeg.substr(0, 100))), "the file is truncated");
  CHECK_ERROR(yolact::read_image(written(folder / "a.png", png.substr(0, png.size() / 2))), "the file is truncated");
  std::string broken = png;
  broken[png.find("IDAT") + 8] ^= 0x55;
  CHECK_ERROR(yolact::read_image(written(folder / "a.png", broken)), "the image is broken");
  std::string huge = jpeg;
  const auto frame = huge.find("\xff\xc0");
  std::fill_n(huge.begin() + static_cast<std::ptrdiff_t>(frame) + 5, 4, '\xf0');
  CHECK_ERROR(yolact::read_image(written(folder / "a.jpg", huge)), "the image is too large");
}

void test_views() {
  std::uint8_t data[12] = {};
  const auto rgb = yolact::ChannelOrder::rgb;
  yolact::check({data, 2, 2, 6, rgb});
  yolact::check({data, 1, 1, 100, yolact::ChannelOrder::bgra});
  CHECK_ERROR(yolact::check({nullptr, 2, 2, 6, rgb}), "must not be null");
  CHECK_ERROR(yolact::check({data, 0, 2, 6, rgb}), "got height 0");
  CHECK_ERROR(yolact::check({data, 2, -1, 6, rgb}), "width -1");
  CHECK_ERROR(yolact::check({data, 2, 2, 5, rgb}), "row stride");
  CHECK_ERROR(yolact::check({data, 2, 2, -6, rgb}), "row stride");
  CHECK_ERROR(yolact::check({data, 1, INT64_MAX / 2, 6, rgb}), "row stride");
}

}  // namespace

int main(int, char** arguments) {
  const TemporaryFolder folder;
  const std::string jpeg = text_of(arguments[1]);
  test_round_trip(folder);
  test_orientations(folder, jpeg);
  test_sixteen_bits(folder);
  test_bad_files(folder, jpeg);
  test_views();
  return result();
}
