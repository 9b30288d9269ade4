#include "json.h"

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace yolact {
namespace {

// The length in bytes of the UTF-8 character at the start of `text`; 0 if the bytes there are not valid UTF-8.
std::size_t character_size(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  if (byte(0) < 0x80) return 1;
  const std::size_t size = byte(0) >= 0xF0 ? 4 : byte(0) >= 0xE0 ? 3 : 2;
  if (byte(0) < 0xC2 || byte(0) > 0xF4 || text.size() < size) return 0;
  std::uint32_t code = byte(0) & (0xFF >> (size + 1));
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3F);
  }
  const bool overlong = code < (size == 4 ? 0x10000u : size == 3 ? 0x800u : 0x80u);
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  return overlong || surrogate || code > 0x10FFFF ? 0 : size;
}

}  // namespace

std::string json_text(std::string_view text) {
  std::string quoted = "\"";
  while (!text.empty()) {
    const std::size_t size = character_size(text);
    const auto first = static_cast<std::uint8_t>(text[0]);
    char escaped[8];
    if (size == 0 || first < 0x20) {
      std::snprintf(escaped, sizeof escaped, "\\u%04x", size == 0 ? 0xDC00u + first : first);
      quoted += escaped;
    } else {
      if (first == '"' || first == '\\') quoted += '\\';
      quoted += text.substr(0, size);
    }
    text.remove_prefix(size == 0 ? 1 : size);
  }
  return quoted + '"';
}

std::string json_number(double number) {
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, number).ptr};
}

}  // namespace yolact
