// Values as JSON.
#pragma once

#include <string>
#include <string_view>

namespace yolact {

// A quoted string. Bytes that are no UTF-8, which a file's name may hold, become lone surrogates, as in Python.
std::string json_text(std::string_view text);

// The shortest digits that read back as the same number, which must be finite.
std::string json_number(double number);

}  // namespace yolact
