#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace yolact {

constexpr int cell_height = 16;

// A character with the marks over it.
struct Cell {
  int width;                                    // in pixels: 8 or 16
  std::array<std::uint16_t, cell_height> rows;  // bit 15 is the leftmost pixel; 1 is ink
};

// Sets UTF-8 text in the font GNU Unifont, on one line. The cells are in the order in which they are seen, from left to
// right. Python's `yolact.text` has the same rules and explains them.
std::vector<Cell> set_text(std::string_view text);

}  // namespace yolact
