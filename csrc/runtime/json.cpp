#include "json.h"

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>

#include "utf8.h"

namespace yolact {

std::string json_text(std::string_view text) {
  std::string quoted = "\"";
  while (!text.empty()) {
    const std::size_t size = first_character(text).size;
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
