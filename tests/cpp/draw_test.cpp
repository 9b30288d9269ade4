#include <yolact/draw.h>

#include <algorithm>
#include <string>
#include <vector>

#include "check.h"

namespace {

yolact::Image gray_image(std::int64_t height, std::int64_t width) {
  yolact::Image image{height, width, std::make_unique<std::uint8_t[]>(height * width * 3)};
  std::fill_n(image.pixels.get(), height * width * 3, std::uint8_t{100});
  return image;
}

yolact::Detections one_object(std::int64_t height, std::int64_t width, yolact::Box box) {
  auto* mask = new std::uint8_t[height * width]();
  mask[height * width - 1] = 1;
  return {{height, width, {box}, {0.5f}, {0}, {}}, {mask, [](const std::uint8_t* pixels) { delete[] pixels; }}};
}

void test_mask_and_box() {
  yolact::Image image = gray_image(40, 60);
  yolact::draw(image, one_object(40, 60, {2, 3, 50, 30}), {"cat"});
  const auto color = yolact::class_color(0);
  CHECK(std::equal(color.begin(), color.end(), &image.pixels[(3 * 60 + 2) * 3]));
  CHECK(image.pixels[0] == 100);
  CHECK(image.pixels[(40 * 60 - 1) * 3] == (100 + color[0]) / 2);
}

// Nothing is written outside the image, even where corners or text lie outside it.
void test_edges() {
  const std::string long_name = "a long name and more of it";
  for (const std::int64_t side : {1, 2, 30}) {
    yolact::Image image = gray_image(side, side);
    const auto end = static_cast<float>(side);
    for (const std::string& name : {std::string(), long_name, long_name + " \xc3\xa9"}) {
      yolact::draw(image, one_object(side, side, {0, 0, end, end}), {name});
      yolact::draw(image, one_object(side, side, {end, end, end, end}), {name});
      yolact::draw(image, one_object(side, side, {-9, -5, end, end}), {name});
    }
  }
}

// The pixels of a name in Unifont: for each of `width` columns its 16 rows, bit 15 is the uppermost, 1 is ink.
using Columns = std::vector<std::uint16_t>;
Columns columns(const std::string& name, int width) {
  yolact::Image image = gray_image(40, 260);
  yolact::draw(image, one_object(40, 260, {0, 0, 259, 39}), {name});
  Columns result(static_cast<std::size_t>(width));
  for (int x = 0; x < width; ++x) {
    for (int y = 0; y < 16; ++y) {
      const std::uint8_t* pixel = &image.pixels[((y + 2) * 260 + x + 2) * 3];
      const bool ink = pixel[0] + pixel[1] + pixel[2] == 0;
      result[static_cast<std::size_t>(x)] |= static_cast<std::uint16_t>(ink << (15 - y));
    }
  }
  return result;
}

Columns operator+(Columns left, const Columns& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

// Python's tests compare more names with what Python draws.
void test_names_that_are_not_ascii() {
  const Columns cat = columns("猫", 16);
  const std::uint16_t rows[] = {0x88,   0x4488, 0x2bfe, 0x1088, 0x2888, 0x4800, 0x89fc, 0x924,
                                0x1924, 0x2924, 0x49fc, 0x8924, 0x924,  0x924,  0x51fc, 0x2104};
  for (int y = 0; y < 16; ++y) {
    for (int x = 0; x < 16; ++x) CHECK((cat[static_cast<std::size_t>(x)] >> (15 - y) & 1) == (rows[y] >> (15 - x) & 1));
  }
  CHECK(columns("Собака", 48) != columns("Кошка ", 48));
  CHECK(columns("e\u0323\u0302", 8) == columns("ệ", 8));
  CHECK(columns("x\u0301y", 16) == columns("x\u0301", 8) + columns("\u200by", 8));
  CHECK(columns("\u1112\u1161\u11ab", 16) == columns("한", 16));
  CHECK(columns("אב", 16) == columns("ב", 8) + columns("א", 8));
  CHECK(columns("א12", 24) == columns("\u200b12", 16) + columns("א", 8));
  CHECK(columns("ببب", 24) == columns("\ufe90", 8) + columns("\ufe92", 8) + columns("\ufe91", 8));
  CHECK(columns("ب\u200cب", 16) == columns("ب", 8) + columns("ب", 8));
  CHECK(columns("कि猫", 32) == columns("कि", 16) + cat);
  CHECK(columns("ที่猫", 24) == columns("ที่", 8) + cat);
  CHECK(columns("猫\n\u202e猫", 40) == cat + Columns(8) + cat);
  const Columns unknown = columns("\ufffd", 8);
  for (const std::string name : {"🐱", "\u0378", "\xff", "\xc0", "\x80", "\xe7\x8c"})
    CHECK(columns(name, 8) == unknown);
  CHECK(columns("\xe7\xe7", 16) == unknown + unknown);
}

void test_ascii_has_a_font_of_its_own() {
  yolact::Image image = gray_image(40, 260);
  yolact::draw(image, one_object(40, 260, {0, 0, 259, 39}), {"cat"});
  const auto ground = yolact::class_color(0);
  CHECK(std::equal(ground.begin(), ground.end(), &image.pixels[(13 * 260 + 2) * 3]));
  CHECK(image.pixels[(14 * 260 + 2) * 3] == 100);
}

void test_sizes() {
  yolact::Image image = gray_image(4, 4);
  CHECK_ERROR(yolact::draw(image, one_object(4, 5, {0, 0, 1, 1}), {"cat"}), "another size");
}

}  // namespace

int main() {
  test_mask_and_box();
  test_edges();
  test_names_that_are_not_ascii();
  test_ascii_has_a_font_of_its_own();
  test_sizes();
  return result();
}
