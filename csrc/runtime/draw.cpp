#include <yolact/draw.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <string_view>
#include <utility>

#include <yolact/error.h>

#include "font.h"
#include "text.h"

namespace yolact {
namespace {

using Color = std::array<std::uint8_t, 3>;

struct Glyph {
  std::int64_t width;
  std::vector<std::uint8_t> inks;  // of each pixel, row by row, 0-15
};

struct Text {
  std::int64_t height;  // of each glyph
  std::vector<Glyph> glyphs;
};

Text ascii_text(std::string_view text) {
  Text result{glyph_height, {}};
  for (const char c : text) {
    const std::string_view digits = glyphs[c >= ' ' && c <= '~' ? c - ' ' : '?' - ' '];
    Glyph glyph{static_cast<std::int64_t>(digits.size()) / glyph_height, {}};
    for (const char digit : digits) {
      glyph.inks.push_back(static_cast<std::uint8_t>(digit <= '9' ? digit - '0' : digit - 'a' + 10));
    }
    result.glyphs.push_back(std::move(glyph));
  }
  return result;
}

Text unicode_text(std::span<const Cell> cells) {
  Text result{cell_height, {}};
  for (const Cell& cell : cells) {
    Glyph glyph{cell.width, {}};
    for (const std::uint16_t row : cell.rows) {
      for (int x = 0; x < cell.width; ++x) glyph.inks.push_back(row >> (15 - x) & 1 ? 15 : 0);
    }
    result.glyphs.push_back(std::move(glyph));
  }
  return result;
}

// The score stands right of the name, whatever the direction of its text is.
Text caption(const std::string& name, const std::string& score) {
  const bool ascii = std::all_of(name.begin(), name.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  if (ascii) return ascii_text(name + score);
  std::vector<Cell> cells = set_text(name);
  const std::vector<Cell> rest = set_text(score);
  cells.insert(cells.end(), rest.begin(), rest.end());
  return unicode_text(cells);
}

class Canvas {
 public:
  explicit Canvas(Image& image) : image_(image) {}

  // Moves a pixel `ink` / 15 of the way towards `color`. Skips pixels outside the image.
  void blend(std::int64_t x, std::int64_t y, const Color& color, int ink) {
    if (x < 0 || y < 0 || x >= image_.width || y >= image_.height) return;
    std::uint8_t* pixel = &image_.pixels[(y * image_.width + x) * 3];
    for (int channel = 0; channel < 3; ++channel) {
      pixel[channel] = static_cast<std::uint8_t>((pixel[channel] * (15 - ink) + color[channel] * ink) / 15);
    }
  }

  // Fills a rectangle, both corners included.
  void fill(std::int64_t x1, std::int64_t y1, std::int64_t x2, std::int64_t y2, const Color& color) {
    for (std::int64_t y = std::max<std::int64_t>(y1, 0); y <= std::min(y2, image_.height - 1); ++y) {
      for (std::int64_t x = std::max<std::int64_t>(x1, 0); x <= std::min(x2, image_.width - 1); ++x) {
        blend(x, y, color, 15);
      }
    }
  }

  void outline(std::int64_t x1, std::int64_t y1, std::int64_t x2, std::int64_t y2, std::int64_t line,
               const Color& color) {
    fill(x1, y1, x2, std::min(y1 + line - 1, y2), color);
    fill(x1, std::max(y2 - line + 1, y1), x2, y2, color);
    fill(x1, y1, std::min(x1 + line - 1, x2), y2, color);
    fill(std::max(x2 - line + 1, x1), y1, x2, y2, color);
  }

  // Writes black text on `background`. Each pixel of the font becomes a square of `scale` pixels a side.
  void text(std::int64_t x, std::int64_t y, const Text& text, std::int64_t scale, const Color& background) {
    std::int64_t width = 0;
    for (const Glyph& glyph : text.glyphs) width += glyph.width * scale;
    fill(x - scale, y - scale, x + width, y + text.height * scale, background);
    for (const Glyph& glyph : text.glyphs) {
      for (std::int64_t row = 0; row < text.height * scale; ++row) {
        for (std::int64_t column = 0; column < glyph.width * scale; ++column) {
          blend(x + column, y + row, {0, 0, 0}, glyph.inks[row / scale * glyph.width + column / scale]);
        }
      }
      x += glyph.width * scale;
    }
  }

  // Blends half of `color` into the pixels of `mask` that are not yet `taken`, and marks them as taken.
  void tint(std::span<const std::uint8_t> mask, const Color& color, std::vector<bool>& taken) {
    const std::uint8_t* const end = mask.data() + mask.size();
    const auto next = [&](const std::uint8_t* from) {
      return static_cast<const std::uint8_t*>(std::memchr(from, 1, end - from));
    };
    for (const std::uint8_t* inside = next(mask.data()); inside; inside = next(inside + 1)) {
      const auto index = static_cast<std::size_t>(inside - mask.data());
      if (taken[index]) continue;
      taken[index] = true;
      std::uint8_t* pixel = &image_.pixels[index * 3];
      for (int channel = 0; channel < 3; ++channel) {
        pixel[channel] = static_cast<std::uint8_t>((pixel[channel] + color[channel]) / 2);
      }
    }
  }

 private:
  Image& image_;
};

}  // namespace

Color class_color(std::int64_t label) {
  constexpr double golden_ratio = 0.618033988749895, saturation = 0.75, value = 0.95;
  double whole;
  const double sixth = std::modf(static_cast<double>(label) * golden_ratio, &whole) * 6.0;
  const int sector = static_cast<int>(sixth);
  const double fraction = sixth - sector;
  const double low = value * (1.0 - saturation);
  const double falling = value * (1.0 - saturation * fraction);
  const double rising = value * (1.0 - saturation * (1.0 - fraction));
  const double sectors[6][3] = {{value, rising, low},  {falling, value, low}, {low, value, rising},
                                {low, falling, value}, {rising, low, value},  {value, low, falling}};
  Color color;
  std::transform(std::begin(sectors[sector % 6]), std::end(sectors[sector % 6]), color.begin(),
                 [](double channel) { return static_cast<std::uint8_t>(std::nearbyint(channel * 255.0)); });
  return color;
}

void draw(Image& image, const Detections& detections, const std::vector<std::string>& class_names) {
  if (image.height != detections.height || image.width != detections.width) {
    throw Error("the detections belong to an image of another size");
  }
  Canvas canvas(image);
  std::vector<bool> taken(static_cast<std::size_t>(image.height * image.width));
  for (std::size_t i = 0; i < detections.size(); ++i) {
    canvas.tint(detections.mask(i), class_color(detections.labels[i]), taken);
  }
  const double shorter_side = static_cast<double>(std::min(image.height, image.width));
  const auto line = std::max<std::int64_t>(1, std::llround(shorter_side / 300));
  const auto scale = std::max<std::int64_t>(1, line / 2);
  for (std::size_t i = detections.size(); i-- > 0;) {
    const auto& [x1, y1, x2, y2] = detections.boxes[i];
    const Color color = class_color(detections.labels[i]);
    canvas.outline(static_cast<std::int64_t>(x1), static_cast<std::int64_t>(y1), static_cast<std::int64_t>(x2),
                   static_cast<std::int64_t>(y2), line, color);
    char score[16];
    std::snprintf(score, sizeof score, " %.2f", static_cast<double>(detections.scores[i]));
    canvas.text(static_cast<std::int64_t>(x1) + line + scale, static_cast<std::int64_t>(y1) + line + scale,
                caption(class_names.at(static_cast<std::size_t>(detections.labels[i])), score), scale, color);
  }
}

}  // namespace yolact
