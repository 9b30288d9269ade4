#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace yolact {

struct Utf8Character {
  char32_t code;     // U+FFFD if the bytes are not valid UTF-8
  std::size_t size;  // in bytes, at least 1
  bool valid;
};

// The character at the start of `text`, which is not empty. U+FFFD takes the place of the same bytes as in Python: of
// those that could have begun a character.
inline Utf8Character first_character(std::string_view text) {
  constexpr char32_t replacement = 0xFFFD;
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const int lead = byte(0);
  if (lead < 0x80) return {byte(0), 1, true};
  if (lead < 0xC2 || lead > 0xF4) return {replacement, 1, false};
  const std::size_t size = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  char32_t code = lead & (0xFF >> (size + 1));
  for (std::size_t i = 1; i < size; ++i) {
    // No character is longer than it must be, a surrogate, or beyond U+10FFFF.
    const int least = i > 1 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const int most = i > 1 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (i == text.size() || byte(i) < least || byte(i) > most) return {replacement, i, false};
    code = code << 6 | (byte(i) & 0x3F);
  }
  return {code, size, true};
}

}  // namespace yolact
