#include "json.h"

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>

#include "utf8.h"

namespace yolact {
namespace {

constexpr std::string_view replacement = "\uFFFD";

}  // namespace

std::string json_text(std::string_view text) {
  std::string quoted = "\"";
  while (!text.empty()) {
    const auto [code, size, valid] = first_character(text);
    if (!valid) {
      quoted += replacement;
    } else if (code < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(code));
      quoted += escaped;
    } else {
      if (code == '"' || code == '\\') quoted += '\\';
      quoted += text.substr(0, size);
    }
    text.remove_prefix(size);
  }
  return quoted + '"';
}

std::string json_number(double number) {
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, number).ptr};
}

}  // namespace yolact
