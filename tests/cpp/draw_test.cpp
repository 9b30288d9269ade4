#include <yolact/draw.h>

#include <algorithm>

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
  for (const std::int64_t side : {1, 2, 30}) {
    yolact::Image image = gray_image(side, side);
    const auto end = static_cast<float>(side);
    yolact::draw(image, one_object(side, side, {0, 0, end, end}), {"a long name, \xc3\xa9 \xff and more of it"});
    yolact::draw(image, one_object(side, side, {end, end, end, end}), {""});
  }
}

void test_sizes() {
  yolact::Image image = gray_image(4, 4);
  CHECK_ERROR(yolact::draw(image, one_object(4, 5, {0, 0, 1, 1}), {"cat"}), "another size");
}

}  // namespace

int main() {
  test_mask_and_box();
  test_edges();
  test_sizes();
  return result();
}
