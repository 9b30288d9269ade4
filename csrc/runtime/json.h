// Writes values as JSON.
#pragma once

#include <string>
#include <string_view>

namespace yolact {

// The text as a quoted JSON string. A file name may hold bytes that are not UTF-8: U+FFFD takes their place.
std::string json_text(std::string_view text);

// The shortest text that reads back as the same number. The number must be finite.
std::string json_number(double number);

}  // namespace yolact
